"""What `limbeck doctor` looks at. Each finding that is not fine says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from limbeck.client import Client
from limbeck.errors import ApiError, ConnectionFailed, Unauthorized
from limbeck.house import limbeck_home
from limbeck.version import VERSION

GIGABYTE = 10**9
LEAST_DISK_BYTES = 5 * GIGABYTE
LEAST_MEMORY_BYTES = 6 * GIGABYTE
LEAST_SHARED_MEMORY_BYTES = GIGABYTE // 2
INSTALL_WORKER = "Install the worker's part: pip install -c constraints.txt 'limbeck[worker]'."

# Run in a process of its own: importing torch takes seconds and memory, and may crash.
LOOK_AT_LIBRARIES = """
import importlib, json
found = {}
for name in ("fastapi", "torch", "torchvision", "timm", "ray", "optuna"):
    try:
        found[name] = str(importlib.import_module(name).__version__)
    except Exception as error:
        found[name] = None
        found[name + "_error"] = f"{type(error).__name__}: {error}"
if found["torch"]:
    import torch
    found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps(found))
"""
LOOK_AT_SCHEMA = """
import json
from pathlib import Path
from service.settings import Settings
from service.store.errors import SchemaError, SchemaMissing
from service.store.schema import check_schema
url = Settings().database_url
file = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None
try:
    if file and not Path(file).exists():
        raise SchemaMissing(f"{file} does not exist yet")
    check_schema(url)
    found = {"schema": "ok"}
except SchemaError as error:
    found = {"schema": type(error).__name__, "message": str(error)}
found["engine"] = url.split(":", 1)[0]
print(json.dumps(found))
"""


class Severity(StrEnum):
    """How bad a finding is; a note is worth knowing and no fault."""

    FINE = "fine"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it."""

    severity: Severity
    subject: str
    found: str
    remedy: str | None = None


def examine(client: Client) -> list[Finding]:
    """All findings, in the order in which they should be mended."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _home,
        _memory,
        _libraries,
        _database,
        lambda: _server(client),
    )
    return [finding for part in parts for finding in part()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"Python {version}, Limbeck {VERSION}"
    if (3, 11) <= sys.version_info < (3, 14):
        yield Finding(Severity.FINE, "python", found)
    else:
        yield Finding(Severity.FAULT, "python", found, "Limbeck needs Python 3.11, 3.12 or 3.13.")


def _home() -> Iterator[Finding]:
    home = limbeck_home()
    yield _writable(home, "LIMBECK_HOME", "Set LIMBECK_HOME to a directory that may be written.")
    ray_needs_it = "Ray keeps its token there: set HOME to a directory that may be written."
    yield _writable(Path.home(), "HOME", ray_needs_it)
    there = next(place for place in (home, *home.parents) if place.exists())
    free = shutil.disk_usage(there).free
    yield _amount(
        "disk",
        f"{free / GIGABYTE:.1f} GB free at {there}",
        enough=free >= LEAST_DISK_BYTES,
        remedy="Checkpoints and caches may need more: make room, or move LIMBECK_HOME.",
    )


def _writable(place: Path, subject: str, remedy: str) -> Finding:
    there = next((one for one in (place, *place.parents) if one.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(Severity.FAULT, subject, f"{place} cannot be written: {error.strerror}", remedy)
    made = "" if there == place else " (will be made)"
    return Finding(Severity.FINE, subject, f"{place}{made}")


def _memory() -> Iterator[Finding]:
    available = _available_memory_bytes()
    if available is not None:
        yield _amount(
            "memory",
            f"{available / GIGABYTE:.1f} GB available",
            enough=available >= LEAST_MEMORY_BYTES,
            remedy="Even the demo takes up to 6 GB: end other programs, or run fewer trials at once.",
        )
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        yield _amount(
            "shared memory",
            f"{size / GIGABYTE:.2f} GB at /dev/shm",
            enough=size >= LEAST_SHARED_MEMORY_BYTES,
            remedy="Ray falls back to slow files: in a container set shm_size (--shm-size=2g).",
        )


def _amount(subject: str, found: str, *, enough: bool, remedy: str) -> Finding:
    severity = Severity.FINE if enough else Severity.NOTE
    return Finding(severity, subject, found, None if enough else remedy)


def _available_memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _libraries() -> Iterator[Finding]:
    found = _ask(LOOK_AT_LIBRARIES)
    if "error" in found:
        yield Finding(Severity.FAULT, "libraries", found["error"], INSTALL_WORKER)
        return
    for name in ("fastapi", "torch", "torchvision", "timm", "ray", "optuna"):
        if found[name]:
            yield Finding(Severity.FINE, name, found[name])
        else:
            remedy = INSTALL_WORKER + " Only the client is needed to talk to a server elsewhere."
            yield Finding(Severity.FAULT, name, found[f"{name}_error"], remedy)
    if "gpus" in found:
        gpus = ", ".join(found["gpus"])
        note = "Trials run on the CPU. With an NVIDIA GPU here, look at its driver (nvidia-smi)."
        yield Finding(Severity.FINE if gpus else Severity.NOTE, "gpu", gpus or "none", None if gpus else note)


def _database() -> Iterator[Finding]:
    found = _ask(LOOK_AT_SCHEMA)
    if "error" in found:
        remedy = "Look at LIMBECK_DATABASE_URL and the server behind it."
        yield Finding(Severity.FAULT, "database", found["error"], remedy)
    elif found["schema"] == "ok":
        yield Finding(Severity.FINE, "database", f"{found['engine']}, schema up to date")
    elif found["schema"] == "SchemaTooNew":
        yield Finding(Severity.FAULT, "database", found["message"], "Install the newer Limbeck again.")
    else:
        remedy = "`limbeck up` and `python -m service migrate` bring it up to date."
        yield Finding(Severity.NOTE, "database", found["message"], remedy)


def _server(client: Client) -> Iterator[Finding]:
    try:
        workers = list(client.workers.list())
    except ConnectionFailed:
        remedy = "Start it with `limbeck up`, or set LIMBECK_URL to where it is."
        yield Finding(Severity.NOTE, "server", f"nothing answers at {client.base_url}", remedy)
        return
    except Unauthorized as error:
        remedy = "Set LIMBECK_API_KEY; `python -m service keys create` makes a key."
        yield Finding(Severity.FAULT, "server", error.detail, remedy)
        return
    except ApiError as error:
        yield Finding(Severity.FAULT, "server", str(error), f"Is {client.base_url} a Limbeck?")
        return
    yield Finding(Severity.FINE, "server", f"answers at {client.base_url}")
    yield _amount(
        "workers",
        f"{len(workers)} live",
        enough=bool(workers),
        remedy="Jobs wait until there is one: `limbeck up`, or `python -m workers`.",
    )


def _ask(program: str) -> dict[str, Any]:
    """What a Python program prints as JSON, run in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": "took longer than two minutes"}
    except (ValueError, IndexError):
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        return {"error": last[0]}
    return found
