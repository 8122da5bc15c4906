"""A job as a pure function: what to do next, from the spec and all recorded trials. Imports no torch.

No clock, no files, no hidden state: the same records give the same action, in whatever order they come, so
a driver that replaces another goes on where it stood. Each stage answers with an action, or None once it is
done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import search.strategies  # noqa: F401  (registers them)
from search.dimensions import starting_choices
from search.label_free import why_labels
from search.planning import exploration
from search.planning.arms import (
    ArmName,
    dimensions_of,
    proof_run,
    replay_run,
    search_run,
    why_no_pathway,
    why_no_stage,
)
from search.planning.findings import learning_trials, what_search_found
from search.planning.given import GivenProcess
from search.planning.history import History, best, failed
from search.planning.job_report import report_of
from search.planning.moment import Moment, error_of, only_trial, start_or_wait
from search.planning.nearest import nearest_that_work, why_none_works
from search.planning.proof_runs import ProofRuns, proof_key
from search.planning.pruning import should_stop
from search.planning.tuning import tuning
from search.recipe import Process
from search.records import (
    Action,
    ExportParameters,
    Fail,
    Finish,
    PreflightResult,
    Proposal,
    RunParameters,
    StageName,
    TrialKey,
    TrialRecord,
    Wait,
)
from search.registry import Kind, UnknownMethodError, get
from search.spec import JobSpec

__all__ = ["best_search_trial", "next_trials", "searched_run", "should_stop", "teacher_proposal"]

PREFLIGHT_KEY = TrialKey(StageName.PREFLIGHT, "preflight", 0, 0)
EXPORT_KEY = TrialKey(StageName.EXPORT, "export", 0, 0)


def next_trials(
    spec: JobSpec,
    trials: Sequence[TrialRecord],
    *,
    dry_run: bool = False,
    elapsed_seconds: float = 0.0,
    given: GivenProcess | None = None,
) -> Action:
    """What a driver is to do now.

    `Start` names new trials only, at most as many as there is room for: `search.concurrent_trials` less the
    unfinished ones, which the driver carries on by itself. A key is new when no trial has it but a cancelled
    one. `elapsed_seconds`: wall time since the job first ran. `given`: a process that is to be proved as it
    is, without a search.
    """
    moment = Moment(spec, History(trials), dry_run, elapsed_seconds, given)
    for stage in _STAGES:
        action = stage(moment)
        if action is not None:
            return action
    return _finish(moment)


def teacher_proposal(spec: JobSpec) -> Proposal:
    """The teacher trial: trains, takes from the cache or loads the teacher."""
    return Proposal(TrialKey(StageName.TEACHER, "teacher", spec.teacher.training.seed, 0))


def best_search_trial(trials: Sequence[TrialRecord]) -> TrialRecord:
    """The search trial of the best final validation accuracy. Raises ValueError if none has completed."""
    trial = best(learning_trials(History(trials)))
    if trial is None:
        raise ValueError("no search trial has completed")
    return trial


def searched_run(spec: JobSpec, trials: Sequence[TrialRecord]) -> RunParameters:
    """The proof run of the searched arm. Raises ValueError before search and replays have ended."""
    history = History(trials)
    run = proof_run(what_search_found(spec, history).searched, epochs=spec.proof_epochs)
    return run.model_copy(update={"data_sha256": history.preflight().data_sha256})


def _teacher(moment: Moment) -> Action | None:
    """A dry run trains no teacher; preflight then says that it could not look at one."""
    if moment.dry_run and moment.spec.teacher.weights == "train":
        return None
    proposal = teacher_proposal(moment.spec)
    return only_trial(moment, proposal.key, lambda: proposal.parameters)


def _preflight(moment: Moment) -> Action | None:
    action = only_trial(moment, PREFLIGHT_KEY, dict)
    if action is None and not moment.history.of(StageName.SEARCH):
        action = _refusal(moment)
    if action is None and moment.dry_run:
        action = Finish(None)
    return action


def _refusal(moment: Moment) -> Fail | None:
    """What preflight's findings rule out, before the search costs anything."""
    preflight = moment.history.preflight()
    if _teacher_saw_other_data(moment, preflight):
        return Fail(
            "data_differs",
            "the teacher was trained on another data set than preflight has found under this name: let the "
            "data be the same on every node, then submit the job again",
        )
    if moment.given is not None:
        return _refusal_of_given(moment, moment.given.process, preflight)
    unfitting = why_no_pathway(moment.spec, preflight)
    if unfitting is not None:
        return Fail("no_pathway_fits", unfitting)
    try:
        get(Kind.STRATEGY, moment.spec.search.strategy)
    except UnknownMethodError as error:
        return Fail("unknown_method", str(error))
    choices = nearest_that_work(moment.spec, starting_choices(dimensions_of(moment.spec)), preflight)
    if choices is None:
        return Fail("methods_do_not_combine", why_none_works(moment.spec, preflight))
    return moment.budgeting().refusal(search_run(moment.spec, choices, preflight))


def _teacher_saw_other_data(moment: Moment, preflight: PreflightResult) -> bool:
    told = [(trial.result or {}).get("data_sha256") for trial in moment.history.of(StageName.TEACHER)]
    return any(sha256 not in (None, preflight.data_sha256) for sha256 in told)


def _refusal_of_given(moment: Moment, process: Process, preflight: PreflightResult) -> Fail | None:
    labels = None if moment.spec.data.is_labelled else why_labels(process)
    if labels is not None:
        return Fail("labels_needed", f"{labels}, but data.labels is `none`: give another recipe, or search")
    if not moment.spec.data.is_labelled and not (process.logit_losses or process.pathways):
        return Fail(
            "labels_needed",
            "the process has no losses beside cross-entropy, and data.labels is `none`: give another recipe, "
            "or search",
        )
    absent = why_no_stage(process, preflight)
    if absent is not None:
        return Fail("pathway_does_not_fit", f"the process was found for other models: {absent}")
    return moment.budgeting().refusal(replay_run(moment.spec, process))


def _proof(moment: Moment) -> Action | None:
    """Every arm with every seed. An arm with a failed run is given up; without the last resort (the student
    alone, or without labels tuned KD) all is."""
    runs = moment.history.of(StageName.PROOF)
    broken = {trial.key.arm: trial for trial in failed(runs)}
    is_labelled = moment.spec.data.is_labelled
    resort, words = (
        (ArmName.STUDENT_ALONE, "the student alone") if is_labelled else (ArmName.TUNED_KD, "tuned KD")
    )
    if resort in broken:
        error = error_of(broken[resort])
        return Fail(error.code, f"{words} could not be trained, as every job needs: {error.message}")
    if moment.room() == 0:
        return Wait()
    missing = [
        proposal
        for proposal in ProofRuns(moment.spec, moment.history).proposals()
        if moment.history.get(proposal.key) is None and proposal.key.arm not in broken
    ]
    return start_or_wait(missing[: moment.room()], runs)


def _export(moment: Moment) -> Action | None:
    def parameters() -> dict[str, Any]:
        report, arm = report_of(moment.spec, moment.history)
        seed = moment.spec.proof.seeds[0]
        winner = moment.history.get(proof_key(arm, seed))
        assert winner is not None, "an arm does not win without all of its runs"
        run = RunParameters.model_validate(winner.parameters)
        return ExportParameters(arm=arm.value, seed=seed, run=run, report=report).model_dump(mode="json")

    return only_trial(moment, EXPORT_KEY, parameters)


def _finish(moment: Moment) -> Finish:
    """The report is the one that was exported with the recipe, so that the two can never differ."""
    export = moment.history.get(EXPORT_KEY)
    assert export is not None, "the export stage has completed"
    return Finish(export.parameters["report"])


_STAGES: tuple[Callable[[Moment], Action | None], ...] = (
    _teacher,
    _preflight,
    exploration.search,
    exploration.further_rounds,
    exploration.replays,
    tuning,
    _proof,
    _export,
)
