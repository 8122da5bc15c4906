"""What a job without a service keeps of the trial at work: a later process goes on from there."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from search.checkpoint import from_bytes, to_bytes
from search.commands.job_file import write_whole
from search.records import CurvePoint, Proposal
from search.trial import TrialRun


@dataclass
class Begun:
    """When a trial began, by a clock on which its interruptions have not happened, and its curve so far."""

    at: float
    curve: list[CurvePoint] = field(default_factory=list)

    @classmethod
    def now(cls) -> Begun:
        return cls(time.perf_counter())

    def seconds(self) -> float:
        return time.perf_counter() - self.at


@dataclass(frozen=True)
class KeptTrial:
    """One file in a trial's directory: the run's state, the curve and the seconds, all of one moment."""

    directory: Path
    proposal: Proposal

    @property
    def path(self) -> Path:
        return self.directory / "state.pt"

    def keep(self, run: TrialRun, begun: Begun) -> None:
        content = {
            "run": torch.frombuffer(bytearray(run.state()), dtype=torch.uint8),
            "curve": [(point.step, point.epoch, point.accuracy) for point in begun.curve],
            "seconds": begun.seconds(),
            "parameters": self._digest(),
        }
        write_whole(self.path, to_bytes(content))

    def read(self) -> tuple[Begun, bytes | None]:
        """What an interrupted trial of the same parameters has left; else a beginning without a state."""
        if not self.path.is_file():
            return Begun.now(), None
        content = from_bytes(self.path.read_bytes())
        if content["parameters"] != self._digest():
            return Begun.now(), None
        curve = [CurvePoint(step, epoch, accuracy) for step, epoch, accuracy in content["curve"]]
        begun = Begun(time.perf_counter() - content["seconds"], curve)
        return begun, content["run"].numpy().tobytes()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def _digest(self) -> str:
        parameters = json.dumps(self.proposal.parameters, sort_keys=True)
        return hashlib.sha256(parameters.encode()).hexdigest()
