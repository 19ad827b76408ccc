"""The engine of the chaos runs: the stand-in, slowed down so that it can be interrupted, with a record of every step.

It sleeps instead of computing. Every line of the record says which process did what for which run of which job; it is
read from outside to see whether work was done twice.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from engine.errors import Stopped
from engine.progress import Progress, Report, Stage
from gpu_worker.contract.events import AnyResult
from gpu_worker.engine_child import Runner
from gpu_worker.engine_messages import Expected, Run
from tests import stand_in_engine

RECORD = "CHAOS_ENGINE_RECORD"  # environment variable: the file
STEP_S = 0.1


def load_checks(profile: str, device: str, expected: Expected) -> Runner:
    return _slowed(stand_in_engine.load_checks(profile, device, expected))


def load_renders(profile: str, device: str, expected: Expected) -> Runner:
    return _slowed(stand_in_engine.load_renders(profile, device, expected))


def _slowed(runner: Runner) -> Runner:
    stand_in_engine.STEP_S = STEP_S

    def run(request: Run, tell: Report) -> AnyResult:
        steps = 20 + getattr(request.job, "seed", 0) % 40
        stand_in_engine._order = lambda folder: f"take {steps}"
        record = _Record(request)
        record.write("begin")
        try:
            result = runner(request, lambda progress: record.pass_on(progress, tell))
        except Stopped:
            record.write("stopped")
            raise
        record.write("end")
        return result

    return run


class _Record:
    def __init__(self, request: Run) -> None:
        self._handle = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        run = request.folder.name.split("-")
        who = {"pid": os.getpid(), "parent": os.getppid()}
        what = {"job": request.job.job_id, "kind": request.job.kind, "attempt": int(run[1]), "run": int(run[2])}
        self._about: dict[str, Any] = what | who
        self._is_first = True

    def write(self, what: str, **more: Any) -> None:
        line = {"at": time.time(), "what": what, **self._about, **more}
        os.write(self._handle, json.dumps(line).encode() + b"\n")

    def pass_on(self, progress: Progress, tell: Report) -> None:
        """A step that begins, and a checkpoint that was just written, as the stand-in reports them."""
        if progress.stage is Stage.TRAIN:
            if self._is_first:
                self.write("resume", step=progress.done - 1)
            self._is_first = False
            self.write("step", step=progress.done)
        elif progress.stage is Stage.VALIDATE:
            self.write("checkpoint", step=progress.done)
        tell(progress)
