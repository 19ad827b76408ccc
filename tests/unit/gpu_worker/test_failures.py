from __future__ import annotations

import errno

import pytest

from engine import errors
from engine.types import PhotoReport, Reason, Verdict
from gpu_worker import failures
from gpu_worker.contract.events import FAILURE_REASONS

TABLE = [
    (errors.UnusablePhotos(1, 5, []), "user", "too_few_photos", False),
    (errors.TooManyPhotos(21, 20), "user", "too_many_photos", False),
    (errors.NoFaceInTemplate(), "user", "no_face_in_template", False),
    (errors.UnreadablePicture("x.jpg", "damaged"), "user", "unreadable", False),
    (errors.OutOfGpuMemory(), "transient", "out_of_memory", True),
    (MemoryError(), "transient", "out_of_memory", True),
    (OSError(errno.ENOSPC, "No space left on device"), "transient", "storage", False),
    (OSError(errno.EFBIG, "File too large"), "transient", "storage", False),
    (OSError(errno.EIO, "Input/output error"), "permanent", "internal", False),
    (errors.MissingWeights("run this"), "permanent", "missing_weights", False),
    (RuntimeError("a bug"), "permanent", "internal", False),
]


@pytest.mark.parametrize(("error", "kind", "reason", "fresh"), TABLE, ids=lambda value: str(value)[:20])
def test_every_error_of_the_engine_has_one_meaning(error: Exception, kind: str, reason: str, fresh: bool) -> None:
    failure = failures.of_engine_error(error)
    assert (failure.kind, failure.reason, failure.needs_fresh_engine) == (kind, reason, fresh)
    assert failure.reason in FAILURE_REASONS


def test_refused_photos_keep_their_ids_and_reasons() -> None:
    report = PhotoReport("photo7.jpg", Verdict.REFUSED, Reason.BLURRED, {"sharpness": 0.1})
    (photo,) = failures.of_engine_error(errors.UnusablePhotos(0, 5, [report])).photos
    assert (photo.photo_id, photo.verdict, photo.reason, photo.measures) == (
        "photo7",
        "refused",
        "blurred",
        {"sharpness": 0.1},
    )


def test_a_long_message_of_a_library_is_cut() -> None:
    assert len(failures.of_engine_error(RuntimeError("x" * 100_000)).detail) <= 2000
