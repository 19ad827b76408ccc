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
from collections.abc import Callable

from engine.errors import Stopped
from engine.progress import Progress, Report
from gpu_worker import failures
from gpu_worker.contract.events import CheckTemplateResult, InspectResult, PortraitResult, TrainResult
from gpu_worker.contract.jobs import Message
from gpu_worker.engine_messages import TO_ENGINE, Done, Ended, Options, Ready, Run, Step, StoppedEarly, line_of
from gpu_worker.logs import job_in_logs, set_up_logs

logger = logging.getLogger(__name__)

AnyResult = InspectResult | CheckTemplateResult | TrainResult | PortraitResult


Runner = Callable[[Run, Report], AnyResult]


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


class _Child:
    def __init__(self, pipe: io.BufferedRWPair) -> None:
        self._pipe = pipe
        self._runs: queue.Queue[Run] = queue.Queue()
        self._stopped_up_to = 0

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
        loader: Callable[[str, str], Runner] = getattr(importlib.import_module(options.entry), options.loader)
        return loader(options.profile, options.device)

    def _end_of(self, request: Run, run: Runner) -> Ended:
        def tell(progress: Progress) -> None:
            if self._stopped_up_to >= request.number:
                raise Stopped
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
            if isinstance(message, Run):
                self._runs.put(message)
            else:
                self._stopped_up_to = message.number
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
