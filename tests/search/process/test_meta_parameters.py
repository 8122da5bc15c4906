"""Meta parameters in a search and after it: who moves them, what is kept, what a recipe carries."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from search.checkpoint import from_bytes, to_bytes
from search.distill import Distillation
from search.hypergradient import HyperGradient
from search.planning.arms import warm_started
from search.planning.process_shapes import pruned
from search.problems import NonFiniteFigure, SearchProblem
from search.process import LearnedMetaParameters
from search.process import meta_parameters as learned_meta_parameters
from search.process.meta_parameters import RATE_FACTOR
from search.recipe import AnyPathway, LogitLoss, Pathway, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run, weights

SIZE = 233
TRAINING = {
    "sgd": Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1),
    "adamw": Training(batch_size=16, report_every_steps=1, schedule="cosine"),
}


def pathway(stage: int = 1, distance: str = "mse", **settings: Any) -> Pathway:
    return Pathway(
        teacher_stage=stage, student_stage=1, transform="dynamic_kernel", distance=distance, **settings
    )


def process_of(
    *pathways: AnyPathway, pathway_weights: list[float] | None = None, skip_below: float = 0.0
) -> Process:
    return Process(
        logit_losses=[LogitLoss()],
        pathways=[*pathways],
        skip_below=skip_below,
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0],
                pathway_weights=pathway_weights or [0.3] * len(pathways),
                teacher_temperatures=[2.0],
                student_temperatures=[2.0],
            )
        ],
    )


TWO = process_of(pathway(), pathway(2), pathway(2, "l1"))


def learn(**settings: Any) -> Learning:
    return Learning(**{"learning_rate": 0.05, **settings})


def a_search(process: Process = TWO, optimizer: str = "sgd", **settings: Any) -> Distillation:
    return make_run(TRAINING[optimizer], process=process, learn=learn(**settings))


def meta(run: Distillation) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.losses.meta_parameters().items()}


def kernels_moved(run: Distillation) -> float:
    """How far the net's last layer, which starts at zero, has moved."""
    return max(float(value.abs().max()) for name, value in meta(run).items() if "leave" in name)


class TestSearch:
    def test_the_training_optimiser_does_not_see_them(self) -> None:
        run = a_search()
        trained = {id(value) for group in run.optimizer.param_groups for value in group["params"]}
        assert trained == {id(p) for module in (run.student, run.losses) for p in module.parameters()}
        assert len(meta(run)) == 2 * 4
        assert not any(id(value) in trained for value in run.losses.meta_parameters().values())
        before = meta(replay := make_run(TRAINING["sgd"], process=TWO))
        finished(replay)
        assert all(torch.equal(value, before[name]) for name, value in meta(replay).items())

    @pytest.mark.parametrize("lookahead", [1, 2])
    @pytest.mark.parametrize("optimizer", TRAINING)
    def test_a_search_moves_them_from_the_identity(self, optimizer: str, lookahead: int) -> None:
        run = a_search(optimizer=optimizer, lookahead_steps=lookahead, update_every_steps=2)
        moved = [kernels_moved(run) for _ in islice(run.steps(), 4)]
        updates = [lookahead - 1, lookahead + 1]
        assert [one > before for before, one in zip([0.0, *moved], moved, strict=False)] == [
            step in updates for step in range(4)
        ]

    def test_adam_moves_them_at_their_part_of_the_processs_rate(self) -> None:
        run = a_search()
        next(run.steps())
        moved = [value for name, value in meta(run).items() if "leave" in name]
        # A kernel that is the identity does not answer to its middle, which its size takes out again.
        around = torch.cat([torch.cat([value[:4], value[5:]]).flatten() for value in moved])
        rate = torch.full_like(around, RATE_FACTOR * 0.05)
        torch.testing.assert_close(around.abs(), rate, rtol=1e-3, atol=0)
        assert not any(value[4].any() for value in moved)

    def test_those_of_a_skipped_pathway_wait(self) -> None:
        process = process_of(pathway(), pathway(2), pathway_weights=[0.3, 0.01], skip_below=0.1)
        run = a_search(process, retry_every_updates=1000)
        seen: list[dict[str, Tensor]] = []
        for _ in islice(run.steps(), 4):
            seen.append(meta(run))
            state = run.state()["learning"]["meta_parameters"]["adam"]["state"]
        # At the first step all pathways are computed.
        for before, after in pairwise(seen):
            for name, value in after.items():
                assert torch.equal(value, before[name]) == name.startswith("pathways.1."), name
        assert [float(state[place]["step"]) for place in (0, 1)] == [4.0, 1.0]

    def test_a_gradient_that_is_not_finite_is_refused_by_name(self) -> None:
        run = a_search()
        assert run.learning is not None
        zero = HyperGradient(*(torch.zeros(size, dtype=torch.float64) for size in (1, 3, 1, 1)))
        broken = HyperGradient(**{**vars(zero), "meta_parameters": torch.full((2 * SIZE,), torch.nan)})
        with pytest.raises(NonFiniteFigure, match="meta parameters"):
            run.learning.process.update(broken)

    @pytest.mark.parametrize("optimizer", TRAINING)
    @pytest.mark.parametrize("at", [1, 4])
    def test_it_resumes_bitwise(self, optimizer: str, at: int) -> None:
        learning = learn(lookahead_steps=2, update_every_steps=3, average_decay=0.5)
        assert_resumes_bitwise(TRAINING[optimizer], at=at, process=TWO, learn=learning)

    def test_without_them_nothing_is_kept(self) -> None:
        run = make_run(TRAINING["sgd"], learn=learn())
        assert run.losses.meta_parameters() == {}
        next(run.steps())
        assert run.state()["learning"]["meta_parameters"]["raw"] == {}
        assert all(one.parameters is None for one in run.recorded().pathways)  # type: ignore[union-attr]


class TestRecipe:
    @pytest.fixture
    def searched(self) -> tuple[Distillation, Process]:
        run = a_search()
        finished(run)
        recorded = run.recorded()
        return run, Process.model_validate_json(recorded.model_dump_json())

    def test_the_record_has_them_where_they_were_learned(
        self, searched: tuple[Distillation, Process]
    ) -> None:
        run, process = searched
        one, two, three = (entry.parameters for entry in process.pathways)  # type: ignore[union-attr]
        assert two == three != one
        owner = run.losses.meta_owners()[0]
        flat = torch.cat([value.flatten() for value in owner.values().values()])
        assert torch.equal(torch.tensor(one, dtype=torch.float64).float(), flat)
        assert len(flat) == SIZE

    def test_the_record_is_averaged_as_the_process_is(self) -> None:
        run = a_search(average_decay=0.9)
        newest = [torch.cat([v.flatten() for v in meta(run).values()]) for _ in islice(run.steps(), 3)]
        weights = torch.tensor([0.81, 0.9, 1.0]) / 2.71
        expected = sum(weight * one for weight, one in zip(weights, newest, strict=True))
        pathways = run.recorded().pathways
        found = torch.tensor([*pathways[0].parameters, *pathways[1].parameters])  # type: ignore[union-attr,misc]
        torch.testing.assert_close(found, expected)

    def test_a_replay_uses_them_from_the_first_step_and_holds_them(
        self, searched: tuple[Distillation, Process]
    ) -> None:
        run, process = searched
        replay = make_run(TRAINING["sgd"], process=process)
        ended = meta(run)
        for _ in [None, *replay.steps()]:
            assert all(torch.equal(value, ended[name]) for name, value in meta(replay).items())
        assert replay.recorded().pathways[0].parameters == process.pathways[0].parameters  # type: ignore[union-attr]
        bare = process.model_copy(
            update={"pathways": [one.model_copy(update={"parameters": None}) for one in process.pathways]}
        )
        first = [finished(make_run(TRAINING["sgd"], process=each))[-1]["loss"] for each in (process, bare)]
        assert first[0] != first[1]

    def test_one_for_other_models_too(self, searched: tuple[Distillation, Process]) -> None:
        _, process = searched
        replay = make_run(TRAINING["adamw"], process=process, student="test_convnext")
        assert replay.student.stages[1].channels != searched[0].student.stages[1].channels
        finished(replay)

    def test_a_search_that_learns_nothing_is_bitwise_a_replay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(learned_meta_parameters, "RATE_FACTOR", 0.0)
        process = process_of(pathway(parameters=[0.1] * SIZE))
        search = make_run(TRAINING["sgd"], process=process, learn=learn(learning_rate=1e-300))
        replay = make_run(TRAINING["sgd"], process=search.recorded())
        finished(search)
        finished(replay)
        ended = weights(replay)
        for name, value in weights(search).items():
            torch.testing.assert_close(value, ended[name], rtol=1e-6, atol=1e-7)

    def test_a_warm_started_search_begins_from_them(self, searched: tuple[Distillation, Process]) -> None:
        run, process = searched
        parameters = RunParameters(process=TWO, epochs=3, learn=learn())
        again = warm_started(parameters, process).process
        assert [one.parameters for one in again.pathways] == [one.parameters for one in process.pathways]  # type: ignore[union-attr]
        assert [one.scale for one in again.pathways] == [None] * 3
        begun = make_run(TRAINING["sgd"], process=again, learn=learn())
        ended = meta(run)
        assert all(torch.equal(value, ended[name]) for name, value in meta(begun).items())

    def test_pruning_keeps_those_of_what_stays(self, searched: tuple[Distillation, Process]) -> None:
        _, process = searched
        (kept,) = pruned(process, [1]).pathways
        assert kept.parameters == process.pathways[1].parameters  # type: ignore[union-attr]

    def test_an_old_document_has_none(self) -> None:
        document = pathway().model_dump()
        del document["parameters"]
        assert Pathway.model_validate(document).parameters is None

    @pytest.mark.parametrize("values", [[float("nan")], [float("inf")], [0.0] * 4097])
    def test_what_no_transform_could_have_is_refused(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="parameters"):
            pathway(parameters=values)

    @pytest.mark.parametrize(
        "wrong",
        [pathway(parameters=[0.0] * 5), pathway(parameters=[0.0]).model_copy(update={"transform": "linear"})],
    )
    def test_parameters_of_another_transform_are_refused_in_words(self, wrong: Pathway) -> None:
        with pytest.raises(SearchProblem, match=r"its transform learns \d+ from the meta loss"):
            make_run(TRAINING["sgd"], process=process_of(wrong))

    def test_pathways_that_share_a_transform_have_to_agree(self) -> None:
        ones, twos = [0.1] * SIZE, [0.2] * SIZE
        both = process_of(pathway(parameters=ones), pathway(distance="l1", parameters=twos))
        with pytest.raises(SearchProblem, match="share a transform, but their parameters differ"):
            make_run(TRAINING["sgd"], process=both)
        for given in ((ones, ones), (ones, None), (None, ones)):
            run = make_run(
                TRAINING["sgd"],
                process=process_of(pathway(parameters=given[0]), pathway(distance="l1", parameters=given[1])),
            )
            assert all(float(value.min()) == float(value.max()) for value in meta(run).values())


def test_state_is_plain_and_complete() -> None:
    run = a_search(average_decay=0.5)
    list(islice(run.steps(), 2))
    assert run.learning is not None
    state = from_bytes(to_bytes(run.learning.meta_parameters.state()))
    other = LearnedMetaParameters(a_search().losses, learn(average_decay=0.5))
    other.load(state)
    assert other.recorded(TWO) == run.learning.meta_parameters.recorded(TWO)
