"""The one table that turns errors into what a person is told: kind, reason, and whether another try is worth it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from engine import errors
from gpu_worker.contract.events import PhotoVerdict
from gpu_worker.engine_messages import Failure

if TYPE_CHECKING:
    from engine.types import PhotoReport

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

CANCELLED = Failure(kind="cancelled", reason="cancelled")
TIMEOUT = Failure(kind="permanent", reason="timeout")
WORKER_DIED = Failure(kind="permanent", reason="worker_died")
INPUT_MISSING = Failure(kind="permanent", reason="input_missing")
CONTRACT_VERSION = Failure(kind="permanent", reason="contract_version")


def of_engine_error(error: BaseException) -> Failure:
    """What the engine raised. An error that it does not raise on purpose is a mistake of ours."""
    detail = f"{type(error).__name__}: {error}"[:2000]
    match error:
        case errors.UnusablePhotos():
            photos = photo_verdicts(error.reports)
            return Failure(kind="user", reason="too_few_photos", photos=photos, detail=detail)
        case errors.TooManyPhotos():
            return Failure(kind="user", reason="too_many_photos", detail=detail)
        case errors.NoFaceInTemplate():
            return Failure(kind="user", reason="no_face_in_template", detail=detail)
        case errors.UnsafePicture():
            return Failure(kind="user", reason="unsafe_content", detail=detail)
        case errors.UnreadablePicture():
            return Failure(kind="user", reason="unreadable", detail=detail)
        case errors.OutOfGpuMemory() | MemoryError():
            return Failure(kind="transient", reason="out_of_memory", detail=detail, needs_fresh_engine=True)
        case errors.UnknownRecipe():
            return Failure(kind="permanent", reason="input_missing", detail=detail)
        case OSError(errno=code) if code in _DISK_IS_FULL:
            return of_storage(error)
        case errors.MissingWeights():
            return Failure(kind="permanent", reason="missing_weights", detail=detail)
        case _:
            return Failure(kind="permanent", reason="internal", detail=detail)


def of_dead_engine(exit_code: int | None) -> Failure:
    """The engine process vanished: out of memory, segmentation fault, killed."""
    detail = f"the engine process ended with {exit_code}"
    return Failure(kind="permanent", reason="engine_died", detail=detail, needs_fresh_engine=True)


def of_storage(error: OSError) -> Failure:
    """Blobs cannot be read or written."""
    return Failure(kind="transient", reason="storage", detail=f"{type(error).__name__}: {error}"[:2000])


def of_worker_error(error: Exception) -> Failure:
    """Something that nobody foresaw, in the worker itself."""
    return Failure(kind="permanent", reason="internal", detail=f"{type(error).__name__}: {error}"[:2000])


def photo_verdicts(reports: Sequence[PhotoReport]) -> tuple[PhotoVerdict, ...]:
    """The engine's reports by photo id: a photo's file is named after its id."""
    return tuple(
        PhotoVerdict(
            photo_id=PurePath(report.file).stem,
            verdict=report.verdict.value,
            reason=report.reason.value if report.reason else None,
            measures=report.measures,
        )
        for report in reports
    )
