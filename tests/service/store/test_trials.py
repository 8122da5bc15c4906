"""Trials: proposed, running, ended, each once."""

from __future__ import annotations

import pytest

from search import records
from service.store import events, queue, trials
from service.store.errors import StateConflict
from service.store.session import Store
from service.store.states import Reason, TrialState
from service.store.trials import NewTrial
from tests.service.store.builders import POLICY, claim, propose, running, started


def test_states_are_those_of_the_plan() -> None:
    assert {state.name: state.value for state in TrialState} == {
        state.name: state.value for state in records.TrialState
    }
    assert [state.is_final for state in TrialState] == [state.is_final for state in records.TrialState]


class TestInsertProposals:
    def test_records_them_in_order(self, store: Store) -> None:
        lease = running(store)
        proposals = [NewTrial("search", "searched", 0, index, {"index": index}) for index in range(12)]
        with store.begin_write() as session:
            made = trials.insert_proposals(session, lease=lease, proposals=proposals)
        with store.session() as session:
            listed = trials.list_for_job(session, job_id=lease.job_id)
        assert [trial.id for trial in listed] == [trial.id for trial in made]
        assert [trial.parameters for trial in listed] == [{"index": index} for index in range(12)]
        assert {trial.state for trial in listed} == {TrialState.PROPOSED}

    def test_again_leaves_those_there_as_they_are(self, store: Store) -> None:
        """A driver that died right after the commit proposes the same trials again."""
        lease = running(store)
        first = started(store, lease, index=0)
        with store.begin_write() as session:
            again = trials.insert_proposals(
                session,
                lease=lease,
                proposals=[
                    NewTrial("search", "searched", 0, 1),
                    NewTrial("search", "searched", 0, 0, {"other": 1}),
                ],
            )
        assert [trial.index for trial in again] == [1, 0]
        assert again[1].id == first.id
        assert again[1].parameters == first.parameters
        assert again[1].state is TrialState.RUNNING


class TestMarkRunning:
    def test_starts_a_proposed_trial_under_the_attempt(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        assert (trial.state, trial.attempt, trial.node) == (TrialState.RUNNING, 1, "node-1")
        assert trial.started_at is not None

    def test_restarts_it_under_the_next_attempt(self, store: Store) -> None:
        lease = running(store)
        first = started(store, lease)
        with store.begin_write() as session:
            queue.release(session, lease=lease, reason=Reason.DRIVER_LOST, policy=POLICY)
        claimed = claim(store)
        assert claimed is not None
        with store.begin_write() as session:
            second = trials.mark_running(session, lease=claimed.lease, trial_id=first.id, node="node-2")
        assert (second.attempt, second.node, second.started_at) == (2, "node-2", first.started_at)

    def test_refuses_an_ended_one(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        with store.begin_write() as session:
            trials.finish(session, lease=lease, trial_id=trial.id, state="completed")
        with pytest.raises(StateConflict, match=trial.id), store.begin_write() as session:
            trials.mark_running(session, lease=lease, trial_id=trial.id)

    def test_refuses_one_of_another_job(self, store: Store) -> None:
        other = started(store, running(store))
        lease = running(store)
        with pytest.raises(StateConflict, match="no trial of"), store.begin_write() as session:
            trials.mark_running(session, lease=lease, trial_id=other.id)


class TestFinish:
    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            ("completed", "trial.finished"),
            ("stopped_early", "trial.stopped_early"),
            ("failed", "trial.failed"),
            ("cancelled", "trial.finished"),
        ],
    )
    def test_records_the_end(self, store: Store, state: str, kind: str) -> None:
        lease = running(store)
        trial = started(store, lease)
        with store.begin_write() as session:
            trials.finish(
                session,
                lease=lease,
                trial_id=trial.id,
                state=state,
                result={"accuracy": 0.75},
                stopped={"step": 4, "value": 0.5, "threshold": 0.6, "rule": "percentile 50"},
                error_code="nan",
                error_message="loss became nan",
                device_seconds=12.5,
            )
        with store.session() as session:
            after = trials.get(session, trial_id=trial.id)
            last = events.page(session, job_id=lease.job_id)[-1]
        assert after is not None
        assert (after.state, after.result, after.device_seconds) == (state, {"accuracy": 0.75}, 12.5)
        assert after.stopped == {"step": 4, "value": 0.5, "threshold": 0.6, "rule": "percentile 50"}
        assert (after.error_code, after.error_message) == ("nan", "loss became nan")
        assert (last.kind, last.data["trial_id"], last.data["accuracy"]) == (kind, trial.id, 0.75)

    def test_again_in_the_same_state_changes_nothing(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        with store.begin_write() as session:
            first = trials.finish(
                session, lease=lease, trial_id=trial.id, state="completed", device_seconds=1.0
            )
            again = trials.finish(
                session, lease=lease, trial_id=trial.id, state="completed", device_seconds=2.0
            )
        assert (again.device_seconds, again.finished_at) == (1.0, first.finished_at)

    @pytest.mark.parametrize("first", ["completed", "stopped_early", "failed", "cancelled"])
    def test_never_overwrites_another_end(self, store: Store, first: str) -> None:
        lease = running(store)
        trial = started(store, lease)
        second = "failed" if first != "failed" else "completed"
        with store.begin_write() as session:
            trials.finish(session, lease=lease, trial_id=trial.id, state=first)
        with pytest.raises(StateConflict, match=first), store.begin_write() as session:
            trials.finish(session, lease=lease, trial_id=trial.id, state=second)

    def test_refuses_states_that_are_no_end(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        with pytest.raises(ValueError, match="cannot end"), store.begin_write() as session:
            trials.finish(session, lease=lease, trial_id=trial.id, state="running")


def test_lists_can_be_narrowed_and_paged(store: Store) -> None:
    lease = running(store)
    with store.begin_write() as session:
        made = [propose(session, lease, index=index) for index in range(4)]
        proof = propose(session, lease, stage="proof")
        trials.mark_running(session, lease=lease, trial_id=made[2].id)
    with store.session() as session:
        job_id = lease.job_id
        page = trials.list_for_job(session, job_id=job_id, after=made[1].id, limit=2)
        at_work = trials.list_for_job(session, job_id=job_id, states=[TrialState.RUNNING])
        of_proof = trials.list_for_job(session, job_id=job_id, stage="proof")
        counts = trials.count_by_state(session, job_id=job_id)
    assert [trial.id for trial in page] == [made[2].id, made[3].id]
    assert [trial.id for trial in at_work] == [made[2].id]
    assert [trial.id for trial in of_proof] == [proof.id]
    assert counts == {TrialState.PROPOSED: 4, TrialState.RUNNING: 1}
