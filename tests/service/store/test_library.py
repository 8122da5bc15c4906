"""Artifacts and recipes: recorded once, found again."""

from __future__ import annotations

from service.store import artifacts, recipes
from service.store.leases import Lease
from service.store.session import Store
from service.store.tables import Artifact, Recipe
from tests.service.store.builders import running, started


def _artifact(store: Store, lease: Lease, trial_id: str | None, *, bytes: int = 1) -> Artifact:
    with store.begin_write() as session:
        return artifacts.record(
            session,
            lease=lease,
            trial_id=trial_id,
            name="student",
            path="jobs/x",
            bytes=bytes,
            sha256="0" * 64,
        )


def _recipe(store: Store, lease: Lease, *, arm: str = "searched") -> Recipe:
    with store.begin_write() as session:
        return recipes.record(
            session,
            lease=lease,
            document={"arm": arm},
            schema_version=1,
            arm=arm,
            teacher="resnet18",
            student="test_resnet",
            data="digits",
        )


class TestArtifacts:
    def test_of_the_same_trial_and_name_are_replaced(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        first = _artifact(store, lease, trial.id)
        second = _artifact(store, lease, trial.id, bytes=2**40)
        assert (second.id, second.bytes) == (first.id, 2**40)
        with store.session() as session:
            assert [row.bytes for row in artifacts.list_for_job(session, job_id=lease.job_id)] == [2**40]
            assert artifacts.get(session, artifact_id="art_unknown") is None

    def test_may_belong_to_the_whole_job(self, store: Store) -> None:
        lease = running(store)
        of_trial = _artifact(store, lease, started(store, lease).id)
        of_job = _artifact(store, lease, None)
        assert _artifact(store, lease, None).id == of_job.id
        with store.session() as session:
            listed = artifacts.list_for_job(session, job_id=lease.job_id)
            found = artifacts.get(session, artifact_id=of_job.id)
        assert [row.id for row in listed] == [of_trial.id, of_job.id]
        assert found is not None
        assert found.trial_id is None


class TestRecipes:
    def test_a_job_has_one(self, store: Store) -> None:
        lease = running(store)
        first = _recipe(store, lease)
        second = _recipe(store, lease, arm="plain_kd")
        assert second.id == first.id
        with store.session() as session:
            found = recipes.for_job(session, job_id=lease.job_id)
        assert found is not None
        assert (found.id, found.arm, found.document) == (first.id, "plain_kd", {"arm": "plain_kd"})

    def test_are_listed_newest_first(self, store: Store) -> None:
        made = [_recipe(store, running(store)).id for _ in range(3)]
        with store.session() as session:
            page = recipes.list_page(session, limit=2)
            rest = recipes.list_page(session, after=page.rows[-1].id, limit=2)
            assert recipes.get(session, recipe_id=made[0]) is not None
        assert [recipe.id for recipe in page.rows] == [made[2], made[1]]
        assert page.has_more
        assert [recipe.id for recipe in rest.rows] == [made[0]]
        assert not rest.has_more
