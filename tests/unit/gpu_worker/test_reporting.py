from __future__ import annotations

import pytest

from gpu_worker.contract.jobs import JobKind
from gpu_worker.engine_messages import Step
from gpu_worker.reporting import STAGE_WEIGHTS, fraction_of_job


@pytest.mark.parametrize("kind", list(STAGE_WEIGHTS))
def test_the_fraction_grows_through_all_stages_to_the_end(kind: JobKind) -> None:
    steps = [Step(stage=stage, done=done, total=4) for stage in STAGE_WEIGHTS[kind] for done in range(5)]
    fractions = [fraction_of_job(kind, step) for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


def test_the_second_of_two_portraits_begins_at_one_half() -> None:
    assert fraction_of_job("portrait", Step(stage="template", done=0, total=1, part=1, parts=2)) == 0.5


@pytest.mark.parametrize(("done", "total"), [(5, 4), (1, 0), (0, 0)])
def test_odd_counts_stay_within_the_job(done: int, total: int) -> None:
    assert 0 <= fraction_of_job("train", Step(stage="train", done=done, total=total)) <= 1


def test_a_stage_that_nobody_knows_does_not_break_the_report() -> None:
    assert fraction_of_job("train", Step(stage="polish", done=1, total=2)) == 0
