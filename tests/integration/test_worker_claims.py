"""Who owns a job, decided inside a real Valkey: every overlap of two workers ends with one owner and one outcome."""

from __future__ import annotations

import asyncio
import time

import pytest

from gpu_worker.claims import Claim, Claims, Lease, LeaseLost, NotTaken
from gpu_worker.contract.events import Failed, Started
from gpu_worker.contract.jobs import EPOCH_KEY, claims_key, lease_key
from tests.worker_bench import Bench

JOB = "job001"
LEASE_S = 20.0
IN_PROGRESS = f"arq:in-progress:{JOB}:1"


def claims(bench: Bench, worker: str) -> Claims:
    return Claims(bench.redis, worker, LEASE_S)


async def taken(bench: Bench, worker: str, attempt: int = 1) -> Lease:
    """The lease of a fresh claim, not yet renewed by anybody."""
    claim = await claims(bench, worker).take(JOB, attempt)
    assert isinstance(claim, Claim)
    return Lease(bench.redis, claim, IN_PROGRESS, LEASE_S)


async def lease_ends(bench: Bench) -> None:
    """It would end of its own in a while; that while is over now."""
    assert 0 < await bench.redis.pttl(lease_key(JOB)) <= LEASE_S * 1000
    await bench.redis.pexpire(lease_key(JOB), 1)
    while await bench.redis.exists(lease_key(JOB)):  # noqa: ASYNC110
        await asyncio.sleep(0.002)


def started(lease: Lease, seq: int = 1) -> Started:
    claim = lease.claim
    return Started(job_id=JOB, attempt=claim.attempt, run=claim.run, seq=seq, at=time.time(), worker=claim.worker)


def failed(lease: Lease, seq: int = 1) -> Failed:
    return Failed(**started(lease, seq).model_dump(exclude={"event"}), kind="permanent", reason="internal")


async def test_a_job_has_one_holder_until_its_lease_ends(bench: Bench) -> None:
    first = await taken(bench, "a")
    assert await claims(bench, "b").take(JOB, 1) is NotTaken.HELD
    await lease_ends(bench)
    second = await taken(bench, "b")
    assert (first.claim.run, second.claim.run) == (1, 2)
    assert not await first.is_ours()
    assert first.lost.is_set()
    with pytest.raises(LeaseLost):
        await first.publish(started(first))
    await second.publish(started(second))
    assert [event.run for event in await bench.events()] == [2]


async def test_a_renewed_lease_does_not_end_and_keeps_arqs_key_alive(bench: Bench) -> None:
    """Again and again half of the lease is let go by at once; each time it is whole again before the other half is."""
    renewing = Claims(bench.redis, "a", lease_s=8)
    claim = await renewing.take(JOB, 1)
    assert isinstance(claim, Claim)
    async with renewing.renewed(claim, IN_PROGRESS) as lease, asyncio.timeout(60):
        for _ in range(2):
            for key in (lease_key(JOB), IN_PROGRESS):
                await bench.redis.pexpire(key, 4000)
            while min([await bench.redis.pttl(key) for key in (lease_key(JOB), IN_PROGRESS)]) <= 4000:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert await claims(bench, "b").take(JOB, 1) is NotTaken.HELD
        await lease.release()


async def test_a_lease_that_ended_unnoticed_is_still_its_holders_if_nobody_claimed(bench: Bench) -> None:
    lease = await taken(bench, "a")
    await lease_ends(bench)
    assert await lease.is_ours()
    assert await claims(bench, "b").take(JOB, 1) is NotTaken.HELD


async def test_a_claim_whose_answer_was_lost_can_be_taken_again_by_the_same_worker(bench: Bench) -> None:
    await taken(bench, "a")
    assert (await taken(bench, "a")).claim.run == 2
    assert await claims(bench, "aa").take(JOB, 1) is NotTaken.HELD


async def test_a_later_attempt_takes_over_and_an_earlier_one_is_obsolete(bench: Bench) -> None:
    old = await taken(bench, "a")
    new = await taken(bench, "b", attempt=2)
    assert (new.claim.attempt, new.claim.run, new.claim.deaths) == (2, 1, 0)
    assert not await old.is_ours()
    assert await claims(bench, "c").take(JOB, 1) is NotTaken.OBSOLETE


async def test_a_closed_attempt_is_done_but_another_one_may_follow(bench: Bench) -> None:
    lease = await taken(bench, "a")
    await lease.publish(failed(lease), is_last=True)
    await lease.release()
    assert await claims(bench, "b").take(JOB, 1) is NotTaken.DONE
    assert (await taken(bench, "b", attempt=2)).claim.run == 1


async def test_an_event_whose_answer_was_lost_stands_once_on_the_stream(bench: Bench) -> None:
    lease = await taken(bench, "a")
    await lease.publish(started(lease, 1))
    await lease.publish(started(lease, 1))
    await lease.publish(failed(lease, 2), is_last=True)
    await lease.publish(failed(lease, 2), is_last=True)
    assert [event.seq for event in await bench.events()] == [1, 2]


async def test_only_runs_that_were_not_given_back_count_as_deaths(bench: Bench) -> None:
    for worker in ("a", "b"):
        await taken(bench, worker)
        await lease_ends(bench)
    given_back = await taken(bench, "c")
    assert given_back.claim.deaths == 2
    await given_back.release(given_back=True)
    assert (await taken(bench, "d")).claim.deaths == 2


async def test_a_release_by_somebody_who_lost_the_lease_changes_nothing(bench: Bench) -> None:
    old = await taken(bench, "a")
    new = await taken(bench, "b", attempt=2)
    await old.release(given_back=True)
    assert await new.is_ours()
    assert await bench.redis.hget(claims_key(JOB), "given_back") is None


async def test_a_redis_that_forgot_everything_learns_again_who_runs_the_job(bench: Bench) -> None:
    lease = await taken(bench, "a")
    await bench.redis.flushdb()
    assert await lease.is_ours()
    assert await claims(bench, "b").take(JOB, 1) is NotTaken.HELD
    await lease.publish(failed(lease), is_last=True)
    assert len(await bench.events()) == 1


async def test_a_job_that_the_bot_has_deleted_is_nobodys(bench: Bench) -> None:
    lease = await taken(bench, "a")
    await bench.redis.delete(lease_key(JOB), claims_key(JOB))
    assert not await lease.is_ours()
    with pytest.raises(LeaseLost):
        await lease.publish(started(lease))
    assert [key async for key in bench.redis.scan_iter(f"*{JOB}*")] == []
    assert await bench.redis.exists(EPOCH_KEY)


async def test_twenty_workers_at_once_and_one_gets_the_job(bench: Bench) -> None:
    answers = await asyncio.gather(*(claims(bench, f"w{n}").take(JOB, 1) for n in range(20)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
