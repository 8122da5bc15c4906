"""The small nets of the distillation literature for 32x32 images, registered with timm by importing this.

After `import search.cifar_nets`, `timm.create_model("resnet20_cifar", num_classes=100)` works as for timm's
own models; `timm.list_models(module="cifar_net")` lists them. One file per family, written from the papers;
the parameter counts are those of the literature for 100 classes.
"""

from search.cifar_nets import mobilenetv2, resnet, shufflenetv1, shufflenetv2, vgg, wide_resnet

__all__ = ["mobilenetv2", "resnet", "shufflenetv1", "shufflenetv2", "vgg", "wide_resnet"]
