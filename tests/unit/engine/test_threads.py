"""A portrait asks for faces from several threads; what is not made for that is asked by one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.images import read_photo
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.models.modelscope_pipelines import one_at_a_time


class Meeting:
    """Calls `function` and notes how many threads were in it at once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._lock = function, threading.Lock()
        self._inside = self.most = 0

    def __call__(self, *given: Any) -> Any:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        time.sleep(0.05)
        try:
            return self._function(*given)
        finally:
            with self._lock:
                self._inside -= 1


def asked_by_four(question: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(4) as threads:
        return [answer.result() for answer in [threads.submit(question) for _ in range(4)]]


def test_dlib_is_asked_by_one_thread_at_a_time(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches at once wrote over each other's memory: "free(): invalid pointer"."""
    rgb = read_photo(shared_data / "templates" / "8.jpg", 600).rgb
    detector, recogniser = DlibDetector(), DlibFaceId()
    (face,) = detector(rgb)
    alone = detector.near(rgb, face), recogniser.embed(rgb, face)
    searches = Meeting(detector._detector.run)
    embeddings = Meeting(recogniser._network.compute_face_descriptor)
    monkeypatch.setattr(detector, "_detector", type("Watched", (), {"run": staticmethod(searches)}))
    watched = type("Watched", (), {"compute_face_descriptor": staticmethod(embeddings)})
    monkeypatch.setattr(recogniser, "_network", watched)
    for faces in asked_by_four(lambda: detector.near(rgb, face)):
        assert isinstance(faces, list)
        assert np.array_equal(faces[0].landmarks, alone[0][0].landmarks)
    for embedding in asked_by_four(lambda: recogniser.embed(rgb, face)):
        assert np.array_equal(np.asarray(embedding), alone[1])
    assert (searches.most, embeddings.most) == (1, 1)


def test_a_pipeline_is_asked_by_one_thread_at_a_time() -> None:
    meeting = Meeting(lambda given: {"answer": given})
    pipeline = one_at_a_time(meeting)
    assert asked_by_four(lambda: pipeline(1)) == [{"answer": 1}] * 4
    assert meeting.most == 1
