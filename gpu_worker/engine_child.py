"""The engine process: loads its models once, then runs one job after the other for the worker that started it.

It has no queue, no network and no credentials: a folder comes in, files and one message come out. Whatever the engine
raises becomes data here.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import io
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from engine.errors import Stopped
from engine.progress import Progress, Report
from gpu_worker import failures
from gpu_worker.contract.events import AnyResult
from gpu_worker.contract.jobs import Message
from gpu_worker.engine_messages import (
    TO_ENGINE,
    Done,
    Ended,
    Expected,
    Options,
    Pause,
    Ready,
    Resume,
    Run,
    Step,
    Stop,
    StoppedEarly,
    line_of,
)
from gpu_worker.logs import job_in_logs, set_up_logs

logger = logging.getLogger(__name__)


Runner = Callable[[Run, Report], AnyResult]
Loader = Callable[[str, str, Expected], Runner]  # of a profile's name and a device


def main(arguments: list[str]) -> None:
    """Arguments: the number of an inherited socket, the parent's process id, Options as JSON."""
    options = Options.model_validate_json(arguments[2])
    _die_with(parent=int(arguments[1]))
    # Ctrl-C and a stopping container reach the whole group; only the worker decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    set_up_logs(options.log_format, options.log_level)
    if options.memory_mib:
        limit = options.memory_mib * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with socket.socket(fileno=int(arguments[0])) as connection, connection.makefile("rwb") as pipe:
        _Child(pipe).serve(options)


class Pauses:
    """Lets a job wait between two steps, but never for more than half of its time.

    Pauses use up an allowance and work refills it, so that an endless row of portraits slows a training down to half
    of its speed and cannot stop it.
    """

    def __init__(self, longest_s: float = 30.0) -> None:
        self._changed = threading.Condition()
        self._is_paused = False
        self._stopped_up_to = 0
        self._longest_s = self._allowance_s = longest_s
        self._since = time.monotonic()  # the end of the last pause

    def pause(self, wanted: bool) -> None:
        with self._changed:
            self._is_paused = wanted
            self._changed.notify_all()

    def stop(self, number: int) -> None:
        with self._changed:
            self._stopped_up_to = number
            self._changed.notify_all()

    def between_steps(self, number: int) -> None:
        """Waits while run `number` shall pause. Raises Stopped when it shall end."""
        with self._changed:
            began = time.monotonic()
            self._allowance_s = min(self._longest_s, self._allowance_s + began - self._since)
            self._changed.wait_for(lambda: not self._is_paused or self._stopped_up_to >= number, self._allowance_s)
            self._since = time.monotonic()
            self._allowance_s -= self._since - began
            if self._stopped_up_to >= number:
                raise Stopped


class _Child:
    def __init__(self, pipe: io.BufferedRWPair) -> None:
        self._pipe = pipe
        self._runs: queue.Queue[Run] = queue.Queue()
        self._pauses = Pauses()

    def serve(self, options: Options) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            run = self._load(options)
        except Exception as error:
            logger.exception("the engine cannot start")
            self._say(failures.of_engine_error(error))
            return
        self._say(Ready())
        while True:
            request = self._runs.get()
            with job_in_logs(request.job.job_id):
                self._say(self._end_of(request, run))

    def _load(self, options: Options) -> Runner:
        loader: Loader = getattr(importlib.import_module(options.entry), options.loader)
        return loader(options.profile, options.device, options.expected)

    def _end_of(self, request: Run, run: Runner) -> Ended:
        def tell(progress: Progress) -> None:
            self._pauses.between_steps(request.number)
            p = progress
            counted = {"done": p.done, "total": p.total, "part": p.part, "parts": p.parts}
            self._say(Step(stage=p.stage.value, preview=p.preview, **counted))

        try:
            return Done(result=run(request, tell))
        except Stopped:
            return StoppedEarly()
        except Exception as error:
            failure = failures.of_engine_error(error)
            logger.log(
                logging.ERROR if failure.reason == "internal" else logging.INFO,
                "job failed: %s",
                failure.reason,
                exc_info=failure.reason == "internal",
            )
            return failure

    def _say(self, message: Message) -> None:
        self._pipe.write(line_of(message))
        self._pipe.flush()

    def _listen(self) -> None:
        for line in self._pipe:
            message = TO_ENGINE.validate_json(line)
            match message:
                case Run():
                    self._runs.put(message)
                case Stop():
                    self._pauses.stop(message.number)
                case Pause():
                    self._pauses.pause(True)
                case Resume():
                    self._pauses.pause(False)
        os._exit(0)  # the worker is gone, or does not want us any more


def _die_with(parent: int) -> None:
    """No engine process outlives its worker and holds the GPU, however the worker ended."""
    if sys.platform == "linux":
        death_signal_option = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(death_signal_option, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask for the signal
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
