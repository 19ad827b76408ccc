"""What a worker and its engine process say to each other: one JSON object per line, over a socket pair.

The worker says Run, Stop, Pause and Resume; the engine process says Ready once, then per Run any number of Step and
exactly one of Done, Failure and StoppedEarly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from gpu_worker.contract.events import FailureKind, PhotoVerdict, Result
from gpu_worker.contract.jobs import BlobKey, Job, Message

LONGEST_LINE = 4 * 1024 * 1024


class Expected(Message):
    """What an engine process makes ready before it says Ready: trainings, and portraits of these numbers of candidates,
    the usual number first."""

    trainings: bool = False
    candidates: tuple[int, ...] = ()


NOTHING_EXPECTED = Expected()


class Options(Message):
    """How to start an engine process. `loader` is the function of module `entry` that gives the Runner."""

    entry: str
    loader: Literal["load_checks", "load_renders"]
    profile: str
    device: str
    memory_mib: int
    log_format: str
    log_level: str
    expected: Expected = NOTHING_EXPECTED


class Run(Message):
    """Run `job` with its files in `folder`; files left in `folder/out` will lie under the key `prefix`."""

    say: Literal["run"] = "run"
    number: int
    job: Job
    folder: Path
    prefix: BlobKey


class Stop(Message):
    """Stop the run of that number between two steps; a run that is over already is not concerned."""

    say: Literal["stop"] = "stop"
    number: int


class Pause(Message):
    """A shorter job needs the device: wait between two steps until Resume (`engine_child.Pauses` says how long)."""

    say: Literal["pause"] = "pause"


class Resume(Message):
    say: Literal["resume"] = "resume"


class Ready(Message):
    say: Literal["ready"] = "ready"


class Step(Message):
    """`part` of `parts`: the job repeats its stages, once per face. `preview` lies in the job's folder."""

    say: Literal["step"] = "step"
    stage: str
    done: int
    total: int
    part: int = 0
    parts: int = 1
    preview: Path | None = None


class Done(Message):
    say: Literal["done"] = "done"
    result: Result


class Failure(Message):
    """Why a job has no result. `needs_fresh_engine`: another try, in a new process, may well work."""

    say: Literal["failure"] = "failure"
    kind: FailureKind
    reason: str
    photos: tuple[PhotoVerdict, ...] = ()
    detail: str = ""
    needs_fresh_engine: bool = False


class StoppedEarly(Message):
    say: Literal["stopped"] = "stopped"


Ended = Done | Failure | StoppedEarly
TO_ENGINE: TypeAdapter[Run | Stop | Pause | Resume] = TypeAdapter(
    Annotated[Run | Stop | Pause | Resume, Field(discriminator="say")]
)
FROM_ENGINE: TypeAdapter[Ready | Step | Done | Failure | StoppedEarly] = TypeAdapter(
    Annotated[Ready | Step | Done | Failure | StoppedEarly, Field(discriminator="say")]
)


def line_of(message: Message) -> bytes:
    return message.model_dump_json().encode() + b"\n"
