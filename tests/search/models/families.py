"""Which models the contract is tested on, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.models.tapped import TappedModel
from search.training.precision import forward_taps

SMALL_AND_DIFFERENT = [
    "resnet10t",
    "resnetv2_18",
    "test_convnext",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "regnetx_002",
    "densenet121",
    "test_byobnet",
    "ghostnet_050",
    "test_vit",
    "test_vit3",
    "test_vit_relpos",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
    "gmlp_ti16_224",
    "resmlp_12_224",
    "levit_128s",
    "efficientformerv2_s0",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "test_coatnet",
    "poolformerv2_s12",
    "xcit_nano_12_p8_224",
    "cait_xxs24_224",
    "vit_tiny_patch16_dinov3_qkvb",
    "test_mambaout",
    "fastvit_t8",
    "tiny_vit_5m_224",
    "repghostnet_050",
    "starnet_s050",
    "test_nfnet",
    "sequencer2d_s",
    "hgnetv2_b0",
    "dla46x_c",
    "coat_tiny",
]
SMALLEST_BY_MODULE = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}


@dataclass(frozen=True)
class Slopes:
    """The slope of the mean squares of logits and maps along a direction in the parameters, both ways."""

    forward: float
    backward: float


def slopes(model: TappedModel, images: Tensor) -> Slopes:
    """By one forward-mode pass, with copies of the buffers, and by one backward pass."""
    generator = torch.Generator().manual_seed(1)
    parameters = dict(model.named_parameters())
    tangents = {
        key: torch.randn(value.shape, generator=generator).to(value) for key, value in parameters.items()
    }

    def value(given: Mapping[str, Tensor]) -> Tensor:
        torch.manual_seed(0)
        stages = range(len(model.stages))
        logits, maps = forward_taps(model, images, stages, parameters=given, keep_buffers=True)
        return sum((value.square().mean() for value in maps.values()), logits.square().mean())

    with torch.no_grad(), torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        duals = {
            key: forward_ad.make_dual(value.detach(), tangents[key]) for key, value in parameters.items()
        }
        forward = float(forward_ad.unpack_dual(value(duals)).tangent)
    with torch.random.fork_rng():
        found = torch.autograd.grad(value({}), list(parameters.values()), materialize_grads=True)
    pairs = zip(found, parameters, strict=True)
    return Slopes(forward, sum(float((gradient * tangents[key]).sum()) for gradient, key in pairs))
