"""How long a job that makes way for others may be kept waiting."""

from __future__ import annotations

import threading
import time

import pytest

from engine.errors import Stopped
from gpu_worker.engine_child import Pauses


def test_without_a_pause_no_step_waits() -> None:
    pauses = Pauses(longest_s=10)
    began = time.monotonic()
    for _ in range(1000):
        pauses.between_steps(1)
    assert time.monotonic() - began < 10, "that long would one pause be"


def test_a_pause_ends_when_it_is_lifted() -> None:
    pauses = Pauses(longest_s=10)
    pauses.pause(True)
    began = time.monotonic()
    threading.Timer(0.2, pauses.pause, [False]).start()
    pauses.between_steps(1)
    assert 0.15 < time.monotonic() - began < 10


def test_pauses_never_take_more_than_half_of_the_time() -> None:
    longest_s, paused_s, worked_s = 0.4, 0.0, 0.0
    pauses = Pauses(longest_s)
    pauses.pause(True)
    for _ in range(30):
        began = time.monotonic()
        pauses.between_steps(1)
        begins_again = time.monotonic()
        time.sleep(0.02)
        paused_s, worked_s = paused_s + begins_again - began, worked_s + time.monotonic() - begins_again
    # The longest pause at once and then as much pause as work; 12 s if each of the 30 could take that long.
    assert longest_s < paused_s < longest_s + worked_s + 3


def test_a_stop_ends_a_paused_run_but_not_the_next_one() -> None:
    pauses = Pauses(longest_s=10)
    pauses.pause(True)
    threading.Timer(0.1, pauses.stop, [1]).start()
    with pytest.raises(Stopped):
        pauses.between_steps(1)
    pauses.pause(False)
    pauses.between_steps(2)
