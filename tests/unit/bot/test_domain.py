"""Rules that need no I/O: ids, places in the queue, expectations."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from bot.domain import expected_wait_s, new_id, queue_score

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_ids_are_fit_for_keys_and_buttons() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-z]{6,24}", each) for each in ids)


def test_somebody_elses_first_portrait_goes_before_my_third() -> None:
    mine = [queue_score(NOON, open_jobs) for open_jobs in range(3)]
    theirs = queue_score(NOON + timedelta(seconds=5), 0)
    assert mine[0] < theirs < mine[1] < mine[2]


def test_nobody_starves() -> None:
    assert queue_score(NOON, 3) < queue_score(NOON + timedelta(days=1), 0)


def test_the_wait_is_the_sum_of_what_is_ahead() -> None:
    usual = {"train": 200.0, "portrait": 30.0}
    assert expected_wait_s([("train", 0.5), ("portrait", 1.0)], usual, workers=1) == 130  # type: ignore[arg-type]
    assert expected_wait_s([("train", 1.0), ("train", 1.0)], usual, workers=2) == 200  # type: ignore[arg-type]


def test_no_expectation_without_history() -> None:
    assert expected_wait_s([("train", 1.0)], {}, workers=1) is None
    assert expected_wait_s([], {}, workers=0) == 0
