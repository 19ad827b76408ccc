"""One warm engine process that can be asked to stop and can always be killed.

A thread cannot be killed, a crash in a library must not take the queue with it, and the event loop has to go on
renewing leases while Python is busy elsewhere: hence a process. It is a command of its own, not a fork, because a
forked CUDA context is unusable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress

from gpu_worker.contract.jobs import Message
from gpu_worker.engine_messages import (
    FROM_ENGINE,
    LONGEST_LINE,
    Done,
    Ended,
    Failure,
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

logger = logging.getLogger(__name__)

_KEPT_FROM_ENGINE = ("PORTRAIT_", "AWS_")  # settings and credentials: the engine's work needs none of them


class EngineDied(Exception):
    """The engine process vanished while it was needed. A negative `exit_code` is the signal that killed it."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class EngineCannotStart(Exception):
    """The engine said why it cannot work, for example which weights are missing."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class EngineProcess:
    """Runs one job at a time. After a crash or `kill` the next job gets a fresh process."""

    def __init__(self, options: Options, start_timeout_s: float, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to what the process gets of ours."""
        self._environment = {**_environment(), **(environment or {})}
        self._options, self._start_timeout_s = options, start_timeout_s
        self._process: Process | None = None
        self._from_engine: asyncio.StreamReader
        self._to_engine: asyncio.StreamWriter
        self._number = 0
        self._is_loaded = False
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process, if there is one that runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def is_ready(self) -> bool:
        """Its models are loaded: a job begins at once."""
        return self.pid is not None and self._is_loaded

    async def start(self) -> None:
        """Starts the process unless it runs, and waits until its models are loaded.

        Raises EngineCannotStart, and EngineDied when it crashes or takes too long.
        """
        async with self._starting:
            if not self.is_ready:
                await self._start()

    async def _start(self) -> None:
        await self.kill()
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._launch()
                first = await self._hear()
        except (TimeoutError, EngineDied):
            raise EngineDied(await self._exit_code()) from None
        except BaseException:
            await self.kill()
            raise
        if isinstance(first, Failure):
            await self.kill()
            raise EngineCannotStart(first)
        if not isinstance(first, Ready):
            raise TypeError(f"an engine process began with {first!r}")
        self._is_loaded = True

    async def gone(self) -> None:
        """Waits until there is no process that runs, whoever ended it."""
        if self._process is not None:
            await self._process.wait()

    async def run(self, request: Run, on_step: Callable[[Step], None]) -> Ended:
        """Runs a job to its end. Raises EngineDied, and what `start` raises. `request.number` is set here."""
        await self.start()
        self._number += 1
        try:
            await self._say(request.model_copy(update={"number": self._number}))
            while True:
                match await self._hear():
                    case Step() as step:
                        on_step(step)
                    case Done() | Failure() | StoppedEarly() as end:
                        return end
                    case Ready():
                        pass
        except (EngineDied, ConnectionError):
            raise EngineDied(await self._exit_code()) from None
        except BaseException:
            await self.kill()  # nobody listens any more to what it says of this job
            raise

    async def ask_to_stop(self) -> None:
        """Asks the running job to end between two steps; `run` returns when it has."""
        if self.pid is not None:
            with suppress(ConnectionError):  # it just died: `run` says so
                await self._say(Stop(number=self._number))

    async def pause(self) -> None:
        """Lets the running job, if any, wait between two of its steps until `resume`."""
        await self._tell_if_ready(Pause())

    async def resume(self) -> None:
        await self._tell_if_ready(Resume())

    async def kill(self) -> None:
        """Ends the process, whatever it is doing, and waits until it is gone."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._to_engine.close()
        self._process, self._is_loaded = None, False

    async def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        self._from_engine, self._to_engine = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gpu_worker.engine_child"),
                *(str(theirs.fileno()), str(os.getpid()), self._options.model_dump_json()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # libraries print
                env=self._environment,
            )
        logger.info("engine process %d started (%s)", self._process.pid, self._options.loader)

    async def _say(self, message: Message) -> None:
        self._to_engine.write(line_of(message))
        await self._to_engine.drain()

    async def _tell_if_ready(self, message: Message) -> None:
        if self.is_ready:
            with suppress(ConnectionError):  # a process that just died neither works nor waits
                await self._say(message)

    async def _hear(self) -> Ready | Step | Done | Failure | StoppedEarly:
        try:
            line = await self._from_engine.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):
            raise EngineDied(None)
        return FROM_ENGINE.validate_json(line)

    async def _exit_code(self) -> int | None:
        """Makes sure that the process is gone; its exit code if it went by itself."""
        if self._process is None:
            return None
        process = self._process
        try:
            code = await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            code = None
        await self.kill()
        return code


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_KEPT_FROM_ENGINE)}
    # Torch's threads otherwise spin while they wait for each other: on busy cores that costs several times the work.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        environment["TQDM_DISABLE"] = "1"  # progress bars of libraries are for terminals, not for logs
    return environment
