"""Pathways of negligible weight are not computed: what that saves, what it leaves, how they return."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import islice, pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.checkpoint import from_bytes, to_bytes
from search.distill import Distillation
from search.hypergradient import HyperGradient, Step
from search.process import ReplayedProcess
from search.recipe import LogitLoss, Pathway, Point, Process
from search.records import Learning
from search.spec import Training
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run, weights

TRAINING = {
    "sgd": Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1),
    "adamw": Training(batch_size=16, report_every_steps=1, schedule="cosine"),
}
STEPS = 9
SKIP_BELOW = 0.1
# The first fades away for a while, the second stays, the third comes late.
WEIGHTS = {0.0: [0.5, 0.3, 0.0], 0.4: [0.0, 0.3, 0.0], 0.6: [0.0, 0.3, 0.0], 1.0: [1.0, 0.3, 0.4]}


def fading(*, skip_below: float = SKIP_BELOW) -> Process:
    pathways = [
        Pathway(teacher_stage=3, student_stage=1, transform="two_convolutions", distance="mse"),
        Pathway(teacher_stage=2, student_stage=0, transform="projection", distance="cosine"),
        Pathway(teacher_stage=1, student_stage=1, transform="linear", distance="hcl"),
    ]
    return Process(
        logit_losses=[LogitLoss()],
        pathways=pathways,
        skip_below=skip_below,
        points=[
            Point(
                progress=progress,
                logit_weights=[1.0],
                pathway_weights=weights_,
                teacher_temperatures=[2.0],
                student_temperatures=[2.0],
            )
            for progress, weights_ in WEIGHTS.items()
        ],
    )


def expected_active(step: int) -> list[int]:
    row = ReplayedProcess(fading()).at(step / STEPS).pathway_weights.tolist()
    return [index for index, weight in enumerate(row) if step == 0 or weight >= SKIP_BELOW]


class Calls:
    """Counts the forward passes of every transform; the stages that teacher and student are asked for."""

    def __init__(self, run: Distillation) -> None:
        self.transforms: Counter[int] = Counter()
        self.asked: list[list[int]] = []
        for index, loss in enumerate(run.losses.pathways):
            loss.transform.register_forward_hook(  # type: ignore[union-attr,operator]
                lambda *_, index=index: self.transforms.update([index])
            )
        for model in (run.teacher, run.student):
            assert model is not None
            self._spy(model)

    def _spy(self, model: torch.nn.Module) -> None:
        original = model.forward_taps

        def spied(images: Tensor, stages: list[int], **how: object) -> tuple[Tensor, dict[int, Tensor]]:
            self.asked.append(sorted(stages))
            found: tuple[Tensor, dict[int, Tensor]] = original(images, stages, **how)  # type: ignore[operator]
            return found

        model.forward_taps = spied  # type: ignore[assignment]


class TestReplay:
    def test_a_skipped_pathway_costs_nothing(self) -> None:
        run = make_run(TRAINING["sgd"], process=fading())
        calls = Calls(run)
        assert run.total_steps == STEPS
        for _ in run.steps():
            pass
        expected = Counter(index for step in range(STEPS) for index in expected_active(step))
        assert calls.transforms == expected
        assert expected[0] < STEPS
        assert expected[2] < STEPS
        pathways = fading().pathways
        for step in range(STEPS):
            active = [pathways[index] for index in expected_active(step)]
            teacher, student = calls.asked[2 * step : 2 * step + 2]
            assert teacher == sorted({pathway.teacher_stage for pathway in active})
            assert student == sorted({pathway.student_stage for pathway in active})

    @pytest.mark.parametrize("name", list(TRAINING))
    def test_it_trains_bitwise_as_a_loop_in_which_those_losses_are_absent(self, name: str) -> None:
        run, twin = (make_run(TRAINING[name], process=fading()) for _ in range(2))
        for step, _ in enumerate(run.steps()):
            step_by_hand(twin, step)
            for (key, value), other in zip(weights(run).items(), weights(twin).values(), strict=True):
                assert torch.equal(value, other), (step, key)

    def test_while_skipped_its_transform_rests_and_then_goes_on_from_there(self) -> None:
        run = make_run(TRAINING["adamw"], process=fading())
        states = []
        for _ in run.steps():
            states.append([copy.deepcopy(loss.state_dict()) for loss in run.losses.pathways])
        for step, (before, after) in enumerate(pairwise(states), start=1):
            changed = [
                index
                for index, (one, two) in enumerate(zip(before, after, strict=True))
                if any(not torch.equal(one[key], two[key]) for key in one)
            ]
            assert changed == expected_active(step)

    def test_a_threshold_below_every_weight_changes_nothing(self) -> None:
        always = fading(skip_below=0.0)
        steady = always.model_copy(
            update={"points": [always.points[0].model_copy(update={"pathway_weights": [0.2] * 3})]}
        )
        runs = [
            make_run(TRAINING["sgd"], process=steady.model_copy(update={"skip_below": threshold}))
            for threshold in (0.0, 0.2)
        ]
        for run in runs:
            for _ in run.steps():
                pass
        for value, other in zip(*(weights(run).values() for run in runs), strict=True):
            assert torch.equal(value, other)


def step_by_hand(twin: Distillation, step: int) -> None:
    """One step of training on the losses that weigh enough, from parts of the product but not its loop."""
    row = ReplayedProcess(fading()).at(step / STEPS)
    active = expected_active(step)
    batch = twin.batch()
    logits, maps = twin.student.forward_taps(batch.images, [0, 1])
    loss = F.cross_entropy(logits, batch.targets)
    raw = [
        twin.losses.pathways[index](
            maps[fading().pathways[index].student_stage],
            batch.teacher_maps[fading().pathways[index].teacher_stage],
        )
        for index in active
    ]
    if step == 0:
        twin.losses.scales.copy_(torch.stack(raw).detach())
    scaled = torch.stack(raw) / twin.losses.scales[active]
    loss = loss + scaled @ row.pathway_weights[active].float()
    log_teacher, log_student = (F.log_softmax(z / 2.0, dim=1) for z in (batch.teacher_logits, logits))
    kd = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).mean() * 4.0
    loss = loss + kd * 1.0
    twin.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    twin.optimizer.step()
    twin.schedule.step(step + 1)
    twin.step += 1


class Turning:
    """A hypergradient that is against the first pathway until a step, and for it from then on.

    As the contract asks it says nothing of pathways that were not computed.
    """

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.active: list[tuple[int, ...]] = []

    def slope(self, step: Step, direction: object) -> HyperGradient:
        self.active.append(step.active)
        pathway = torch.zeros(3, dtype=torch.float64)
        if 0 in step.active:
            pathway[0] = 1.0 if len(self.active) <= self.turn else -1.0
        none = torch.zeros(1, dtype=torch.float64)
        return HyperGradient(none, pathway, none, none)

    def pull_back(self, step: Step, direction: object) -> tuple[HyperGradient, dict[str, Tensor]]:
        raise AssertionError("one step ahead needs no Hessian")


def starting() -> Process:
    first = fading().points[0].model_copy(update={"pathway_weights": [0.02, 0.3, 0.3]})
    return fading(skip_below=0.01).model_copy(update={"points": [first]})


def search_run(learn: Learning, hypergradient: Turning) -> Distillation:
    """60 steps."""
    run = make_run(TRAINING["adamw"], process=starting(), learn=learn, epochs=20)
    return Distillation(
        run.material, run.parameters, run.training, seed=run.seed, hypergradient=hypergradient
    )


class TestSearch:
    def test_a_skipped_pathway_is_tried_again_now_and_then_and_comes_back_when_it_pays(self) -> None:
        turning = Turning(turn=20)
        learn = Learning(learning_rate=0.3, retry_every_updates=4, record_points=61)
        run = search_run(learn, turning)
        for _ in run.steps():
            pass
        was_active = [0 in active for active in turning.active]
        assert len(was_active) == 60
        skipped = was_active.index(False)
        assert 1 <= skipped < 20, "the hypergradient was against it"
        until = next(step for step in range(20, 60) if all(was_active[step:]))
        assert [step for step in range(skipped, until) if was_active[step]] == [
            step for step in range(skipped, until) if step % 4 == 0
        ]
        assert until < 50, "it came back once it paid"
        assert run.recorded().points[-1].pathway_weights[0] > 0.02

    def test_one_that_never_pays_is_computed_at_the_retries_only(self) -> None:
        turning = Turning(turn=10**6)
        learn = Learning(learning_rate=0.3, update_every_steps=2, retry_every_updates=5)
        run = search_run(learn, turning)
        calls = Calls(run)
        for _ in run.steps():
            pass
        assert [update for update, active in enumerate(turning.active) if 0 in active and update >= 10] == [
            update for update in range(10, 30) if update % 5 == 0
        ]
        assert calls.transforms[0] < calls.transforms[1] / 2
        assert calls.transforms[1] == run.total_steps

    def test_with_the_exact_hypergradient_what_is_skipped_stays_bitwise(self) -> None:
        learn = Learning(learning_rate=0.3, retry_every_updates=3)
        process = starting()
        first = process.points[0].model_copy(update={"pathway_weights": [0.006, 0.3, 0.3]})
        run = make_run(
            TRAINING["adamw"], process=process.model_copy(update={"points": [first]}), learn=learn, epochs=4
        )
        raw, moved = None, []
        for _ in run.steps():
            assert run.learned is not None
            now = run.learned.state()["raw"]["pathway"]
            if raw is not None:
                moved.append((now != raw).tolist())
            raw = now
        assert any(moves[0] for moves in moved)
        for step, moves in enumerate(moved, start=1):
            assert moves[1], "an active pathway learns at every update"
            if step % 3 and not moves[0]:
                break
        else:
            pytest.fail("the pathway was never skipped")


@pytest.mark.parametrize("name", list(TRAINING))
def test_a_search_that_skips_resumes_bitwise_at_any_step(name: str) -> None:
    """Weights 0.05 and below the threshold at first; retries at steps 0, 3 and 6."""
    process = starting().model_copy(update={"skip_below": 0.1})
    learn = Learning(learning_rate=0.3, retry_every_updates=3, record_points=5, average_decay=0.5)
    whole = make_run(TRAINING[name], process=process, learn=learn)
    states, rows, active = [], [], []
    for report in whole.steps():
        assert report is not None
        states.append(to_bytes(whole.state()))
        rows.append(report.figures)
        active.append(len(whole.active(whole.process.at(whole.step / STEPS))))
    assert min(active) < 3 == max(active)
    for at, state in enumerate(states[:-1], start=1):
        torch.manual_seed(at)
        continued = make_run(TRAINING[name], process=process, learn=learn)
        continued.load(from_bytes(state))
        assert finished(continued) == rows[at:]
        assert continued.recorded() == whole.recorded()
        for (key, value), other in zip(weights(whole).items(), weights(continued).values(), strict=True):
            assert torch.equal(value, other), (at, key)


@pytest.mark.parametrize("at", [4, 6])
def test_a_replay_that_skips_resumes_bitwise(at: int) -> None:
    assert_resumes_bitwise(TRAINING["adamw"], at=at, process=fading())


def test_the_state_holds_what_rests() -> None:
    """Momentum of a transform that is skipped at the time is kept, and used when it comes back."""
    run = make_run(TRAINING["sgd"], process=fading())
    for _ in islice(run.steps(), 5):
        pass
    assert 0 not in expected_active(4)
    continued = make_run(TRAINING["sgd"], process=fading())
    continued.load(from_bytes(to_bytes(run.state())))
    parameters = list(run.losses.pathways[0].parameters())
    resumed = list(continued.losses.pathways[0].parameters())
    for one, two in zip(parameters, resumed, strict=True):
        kept = run.optimizer.state[one]["momentum_buffer"]
        assert torch.equal(kept, continued.optimizer.state[two]["momentum_buffer"])
        assert kept.abs().sum() > 0
