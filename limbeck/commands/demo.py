"""`limbeck demo`."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from types import FrameType

from rich.console import Console

from limbeck.client import Client
from limbeck.drivers import Blocking
from limbeck.errors import LimbeckError
from limbeck.house import DEFAULT_PORT, House, free_port, is_free, limbeck_home
from limbeck.jobs import Job
from limbeck.live import follow, outcome
from limbeck.render import console, messages, report_view
from limbeck.submission import parse_spec

HOST = "127.0.0.1"
# Where the demo keeps and finds things is its own affair; everything else that is set counts for it, too.
NOT_PASSED_ON = ("DATABASE_URL", "ARTIFACT_ROOT", "CACHE_ROOT", "RAY_ADDRESS", "HOST", "PORT")


def demo() -> None:
    """Run one real job from nothing to a proved student: a few minutes on two CPU cores.

    Starts Limbeck with a home of its own (`demo` in LIMBECK_HOME) and ends it afterwards; with KEEP=1 in the
    environment it stays until Ctrl-C. A second run finds the trained teacher again.
    """
    err = messages()
    home = limbeck_home() / "demo"
    with only_one(home), running(home, err) as house, Client(house.address, api_key="") as client:
        job = client.jobs.create(spec=demo_spec())
        err.print(f"Job {job.id}: {house.address}/jobs/{job.id}", highlight=False, soft_wrap=True)
        try:
            follow(job, err)
        finally:
            give_up(job, err)
        if job.state != "succeeded":
            raise LimbeckError(f"{outcome(job.document)}\nThe logs are in {home / 'logs'}.")
        show(job, home, house)
        if os.environ.get("KEEP", "") not in ("", "0"):
            err.print("Limbeck stays up (KEEP); Ctrl-C ends it.")
            with suppress(KeyboardInterrupt):
                house.wait_for_stop()


def demo_spec() -> dict[str, object]:
    """The demo's job."""
    return parse_spec(files("limbeck").joinpath("demo.yaml").read_text(encoding="utf-8"), name="demo.yaml")


def show(job: Job[Blocking], home: Path, house: House) -> None:
    """The report, and where everything is."""
    results = home / "results" / job.id
    out = console()
    out.print(report_view(job.report()))
    recipe = results / "recipe.json"
    job.recipe(path=recipe)
    paths = [path for path in job.download(results) if path.name != recipe.name]
    lines = {
        "recipe": recipe,
        **{path.stem: path for path in paths},
        "page": f"{house.address}/jobs/{job.id}",
        "again": f"LIMBECK_HOME={home} limbeck up",
    }
    out.print()
    for name, value in lines.items():
        out.print(f"{name + ':':9}{value}", markup=False, highlight=False, soft_wrap=True)


def give_up(job: Job[Blocking], err: Console) -> None:
    """Cancel a job that is left before its end, so that the next demo does not wait for it."""
    if not job.is_done:
        err.print("Cancelling the demo's job")
        with suppress(LimbeckError):
            job.cancel()


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the demo's home; a second demo beside the first would only slow both down."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LimbeckError(f"A demo is running already in {home}.") from None
        yield


@contextmanager
def running(home: Path, err: Console) -> Iterator[House]:
    """Limbeck, up and kept up in a thread of its own, and ended afterwards."""
    port = DEFAULT_PORT if is_free(HOST, DEFAULT_PORT) else free_port(HOST)
    house = House(
        home=home,
        host=HOST,
        port=port,
        environment=demo_environment(os.environ),
        say=lambda text: err.print(text, markup=False, style="yellow", soft_wrap=True),
    )
    with interrupted_by_sigterm(), house.kept(err.status("Starting API and worker")):
        err.print(f"Limbeck is up: {house.address}", highlight=False)
        yield house


def demo_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for API and worker of the demo."""
    dropped = {f"LIMBECK_{name}" for name in NOT_PASSED_ON}
    return {name: value for name, value in environment.items() if name not in dropped}


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
