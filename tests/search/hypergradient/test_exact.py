"""The exact hypergradient against an independent oracle: the unrolled step, differentiated twice, in
float64.
"""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.distill import Distillation, Material
from search.hypergradient import Approximation, HyperGradient, Lookahead
from search.hypergradient.exact import call_with, exact
from search.models import build_model
from search.randomness import mix
from search.recipe import LogitLoss, Pathway, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.synthetic import blobs

TRAINING = {
    "sgd": Training(optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=5e-4, learning_rate=0.05),
    "momentum": Training(
        optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=5e-4, learning_rate=0.05
    ),
    "nesterov": Training(optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4, learning_rate=0.05),
    "adamw": Training(optimizer="adamw", learning_rate=3e-3, weight_decay=0.05),
}
PAIRS = {"cnn": "test_resnet", "vit": "test_vit"}


def make_run(
    training: Training,
    student_name: str,
    *,
    hypergradient: Approximation = exact,
    transform: str = "projection",
    process: Process | None = None,
) -> Distillation:
    """A small run in float64, two logit losses and three pathways; it learns unless a process is given."""
    train, meta = blobs(48, seed=1), blobs(32, seed=2)
    models = [
        build_model(
            name, classes=10, channels=1, input_size=32, seed=seed, data_mean=(0.5,), data_std=(0.25,)
        ).double()
        for name, seed in (("test_resnet", 1), (student_name, 2))
    ]
    last = [len(model.stages) - 1 for model in models]
    learned = process or Process(
        logit_losses=[LogitLoss(), LogitLoss()],
        pathways=[
            Pathway(teacher_stage=last[0], student_stage=last[1], transform=transform, distance="mse"),
            Pathway(teacher_stage=1, student_stage=1, transform="projection", distance="hcl"),
            Pathway(teacher_stage=1, student_stage=1, transform="identity", distance="attention"),
        ],
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0, 0.3],
                pathway_weights=[0.7, 0.2, 1.5],
                teacher_temperatures=[2.0, 3.5],
                student_temperatures=[2.5, 1.7],
            )
        ],
    )
    learn = Learning(learning_rate=0.05) if process is None else None
    run = Distillation(
        Material(student=models[1], teacher=models[0], train=train, meta=meta),
        RunParameters(process=learned, epochs=3, learn=learn),
        training.model_copy(update={"batch_size": 16, "report_every_steps": 1}),
        seed=3,
        hypergradient=hypergradient,
    )
    run.losses.double()
    return run


def unrolled(run: Distillation, after: dict[str, Tensor]) -> HyperGradient:
    """Differentiate the meta loss through one functional optimiser step, written from the optimisers'
    papers.
    """
    effective = run.process.at(run.step / run.total_steps)
    values = [
        vector.clone().requires_grad_(True)
        for vector in (
            effective.logit_weights,
            effective.pathway_weights,
            effective.teacher_temperatures,
            effective.student_temperatures,
        )
    ]
    logit_weights, pathway_weights, teacher_temperatures, student_temperatures = values
    named = {name: p.detach().clone().requires_grad_(True) for name, p in run.student.named_parameters()}
    batch = run.batch()
    logits, maps = call_with(run.student, run.losses.student_stages(), named, batch.images)
    losses = run.losses.logit_losses(
        logits,
        batch.teacher_logits,
        batch.targets,
        teacher_temperatures=teacher_temperatures,
        student_temperatures=student_temperatures,
    )
    loss = F.cross_entropy(logits, batch.targets) + torch.stack(losses) @ logit_weights
    loss = loss + run.losses.pathway_losses(maps, batch.teacher_maps) @ pathway_weights
    gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True, materialize_grads=True)
    stepped = {
        name: step(run, parameter, named[name], gradient)
        for (name, parameter), gradient in zip(run.student.named_parameters(), gradients, strict=True)
    }
    for name, value in stepped.items():
        torch.testing.assert_close(value.detach(), after[name], rtol=1e-12, atol=1e-12)
    images, targets = run.meta_batch()
    meta_logits, _ = call_with(run.student, [], stepped, images)
    by = torch.autograd.grad(F.cross_entropy(meta_logits, targets), values)
    return HyperGradient(
        logit_weights=by[0], pathway_weights=by[1], teacher_temperatures=by[2], student_temperatures=by[3]
    )


def step(run: Distillation, parameter: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """theta' as a differentiable function of the gradient."""
    group = run.optimizer.param_groups[0]
    state, rate = run.optimizer.state[parameter], float(group["lr"])
    if run.training.optimizer == "sgd":
        gradient = gradient + group["weight_decay"] * value.detach()
        momentum = group["momentum"]
        velocity = momentum * state["momentum_buffer"] + gradient if momentum else gradient
        direction = gradient + momentum * velocity if group["nesterov"] else velocity
        return value.detach() - rate * direction
    beta1, beta2 = group["betas"]
    count = float(state["step"]) + 1
    mean = beta1 * state["exp_avg"] + (1 - beta1) * gradient
    square = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient**2
    mean_hat, square_hat = mean / (1 - beta1**count), square / (1 - beta2**count)
    decayed = value.detach() * (1 - rate * group["weight_decay"])
    # Where no gradient has ever come the root's slope is infinite; such an element does not move.
    is_alive = square_hat > 0
    root = torch.where(is_alive, square_hat, 1.0).sqrt() * is_alive
    return decayed - rate * mean_hat / (root + group["eps"])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("optimizer", TRAINING)
def test_equals_the_unrolled_derivative(optimizer: str, pair: str) -> None:
    caught: list[HyperGradient] = []

    def spy(lookahead: Lookahead) -> HyperGradient:
        caught.append(exact(lookahead))
        return caught[-1]

    run = make_run(TRAINING[optimizer], PAIRS[pair], hypergradient=spy)
    steps = run.steps()
    for _ in range(4):
        next(steps)
    snapshot = copy.deepcopy(run.state())
    next(steps)
    after = {name: p.detach().clone() for name, p in run.student.named_parameters()}
    twin = make_run(TRAINING[optimizer], PAIRS[pair])
    twin.load(snapshot)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention is not twice differentiable
        expected = unrolled(twin, after)
    for name in ("logit_weights", "pathway_weights", "teacher_temperatures", "student_temperatures"):
        found, truth = getattr(caught[-1], name), getattr(expected, name)
        assert truth.norm() > 0, name
        error = float((found - truth).norm() / truth.norm())
        assert error < 1e-9, f"{name}: relative error {error:.1e}, found {found}, expected {truth}"


@pytest.mark.parametrize("pair", PAIRS)
def test_leaves_weights_buffers_and_random_state_as_they_were(pair: str) -> None:
    def guarded(lookahead: Lookahead) -> HyperGradient:
        def everything() -> list[Tensor]:
            modules = [lookahead.student, lookahead.losses]
            return [
                *(value.clone() for module in modules for value in module.state_dict().values()),
                *(p.grad.clone() for p in lookahead.student.parameters() if p.grad is not None),
                torch.get_rng_state(),
            ]

        before = everything()
        result = exact(lookahead)
        after = everything()
        assert len(before) == len(after)
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        return result

    run = make_run(TRAINING["nesterov"], PAIRS[pair], hypergradient=guarded)
    assert sum(1 for _, _ in zip(run.steps(), range(3), strict=False)) == 3


def test_a_search_that_learns_nothing_is_bitwise_a_replay() -> None:
    """Meta pass, hypergradient and bookkeeping leave no trace in weights, buffers and data order."""

    def nothing(lookahead: Lookahead) -> HyperGradient:
        found = exact(lookahead)
        return HyperGradient(
            **{field.name: torch.zeros_like(getattr(found, field.name)) for field in fields(HyperGradient)}
        )

    searching = make_run(TRAINING["adamw"], "test_resnet", transform="gated", hypergradient=nothing)
    started = searching.recorded()
    for _ in searching.steps():
        pass
    learned = searching.recorded()
    assert all(point.pathway_weights == started.points[-1].pathway_weights for point in learned.points)
    replay = make_run(TRAINING["adamw"], "test_resnet", transform="gated", process=learned)
    for _ in replay.steps():
        pass
    for module in ("student", "losses"):
        ended = getattr(replay, module).state_dict()
        for name, value in getattr(searching, module).state_dict().items():
            assert torch.equal(value, ended[name]), name


def test_seeds_of_neighbouring_steps_differ() -> None:
    assert (
        len({mix(seed, kind, index) for seed in range(5) for kind in range(4) for index in range(50)}) == 1000
    )


def test_an_unknown_optimizer_is_refused() -> None:
    from search.hypergradient.adjoint import step_adjoint

    parameter = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="no adjoint is known for RMSprop"):
        step_adjoint(torch.optim.RMSprop([parameter]), [parameter], [torch.ones(2)])
