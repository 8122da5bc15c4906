"""What this installation can do: the union of what its live workers have published.

A worker publishes plain JSON: `methods` (objects with `kind` and `name` or `id`), `models` (names),
`datasets` (objects with `name`), and what it says of itself (`devices`, `versions`, ...).
"""

from __future__ import annotations

from typing import Any

from service.problems import Code, Problem
from service.store import workers
from service.store.session import Store

RETRY_AFTER_SECONDS = 2
UNITED = ("methods", "datasets", "models")
Entry = dict[str, Any]


class Catalogues:
    """Reads and unites the catalogues of live workers; always what the database holds now."""

    def __init__(self, store: Store, *, worker_timeout_seconds: float) -> None:
        self._store = store
        self._worker_timeout_seconds = worker_timeout_seconds

    def united(self) -> dict[str, list[Any]]:
        """Lists of methods, datasets and models; all are empty while no worker is alive."""
        with self._store.session() as session:
            live = workers.live(session, max_age_seconds=self._worker_timeout_seconds)
        return unite([worker.catalogue for worker in live])

    def required(self) -> dict[str, list[Any]]:
        """As `united`. Raises Problem 503 while no worker is alive: nothing could be checked against it."""
        found = self.united()
        if not any(found.values()):
            raise Problem(
                Code.CATALOGUE_EMPTY,
                "No worker is running, so models, data sets and methods cannot be checked yet. "
                "Start one with `python -m workers`, or try again when it is up.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        return found


def unite(catalogues: list[Entry]) -> dict[str, list[Any]]:
    """The union, each list sorted: methods by kind and name, data sets by name, models by name.

    Where two workers say different things of one name, the one that started first is heard.
    """
    united: dict[str, dict[Any, Any]] = {part: {} for part in UNITED}
    for catalogue in catalogues:
        for part in UNITED:
            for entry in catalogue.get(part, ()):
                shown = {"name": entry} if isinstance(entry, str) else {**entry, "name": name_of(entry)}
                united[part].setdefault((shown.get("kind", ""), shown["name"]), shown)
    return {part: [entries[key] for key in sorted(entries)] for part, entries in united.items()}


def name_of(entry: Entry) -> str:
    """An entry's name; an `id` may repeat the kind before it, as in `distance/mse`."""
    return str(entry.get("name") or str(entry["id"]).removeprefix(f"{entry.get('kind')}/"))
