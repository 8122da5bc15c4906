"""What a driver's environment must say before ray is imported: ray reads these variables at import.

Also the mark by which the processes of a driver's own Ray are known: all of them inherit the variable.
"""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import suppress

import psutil

OWNER_VARIABLE = "LIMBECK_RAY_OWNER"
DEATH_SECONDS = 5.0

QUIET_AND_BOUND = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "31536000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
}


def prepare(*, job_id: str, is_local: bool) -> None:
    """Set the variables of this process, and so of the Ray processes that it starts.

    A local cluster gets a token of its own, so that another user of the machine cannot give it work and
    nothing is read from or written to HOME. To join a cluster, mode and token are the operator's to set.
    """
    os.environ.update(QUIET_AND_BOUND)
    os.environ[OWNER_VARIABLE] = f"{job_id}:{os.getpid()}"
    if is_local:
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def end_processes_of(job_id: str, *, driver: int | None = None) -> int:
    """Kill the Ray processes on this machine that drivers of this job have started; how many there were.

    Returns once they are dead (at most 5 s): until then they could still write to files that are to go.

    A driver ends its own when it ends (`driver`: its process id), and those of all its predecessors when it
    starts: one that was killed a moment ago may have left some. Known by the owner variable, which names the
    job and the driver: no other process carries it.
    """
    found = [process for process in psutil.process_iter() if _is_of(process, job_id, driver)]
    for process in found:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, timeout=DEATH_SECONDS)
    return len(found)


def _is_of(process: psutil.Process, job_id: str, driver: int | None) -> bool:
    """By the environment it was started with: so a driver itself is not among its own."""
    try:
        job, _, owner = process.environ().get(OWNER_VARIABLE, "").partition(":")
    except (psutil.Error, OSError):
        return False
    return job == job_id and driver in (None, int(owner))
