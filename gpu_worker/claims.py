"""Who runs a job: a lease in Redis that its holder renews, and events that only the holder can publish.

arq delivers at least once: a job comes again when its worker died, when it was paused too long, or when the bot decided
on a new attempt. Each delivery must `take` a claim first. A claim is (attempt, run); the newest one owns the job, and
everything that an older one still tries is refused inside Redis, in one step with the check, so that no two outcomes of
one attempt reach the stream however the deliveries overlap.

Renewing keeps alive two keys together: our lease, and the key by which arq knows that a job is in progress. arq would
set that one once, for the longest timeout of all, and a killed worker's job would stall for hours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gpu_worker.background import beside
from gpu_worker.contract.events import EVENT_FIELD, EVENT_STREAM, EVENT_STREAM_LENGTH, EventBase
from gpu_worker.contract.jobs import claims_key, lease_key

logger = logging.getLogger(__name__)

_CLAIMS_LIVE_S = 40 * 24 * 3600  # longer than a job may lie in the queue
_IN_PROGRESS_SLACK_MS = 300  # arq's key outlives the lease, so that nobody is sent for a job whose lease still stands

# KEYS: lease, claims. ARGV: worker, attempt, lease ms, claims s.
_TAKE = """
local attempt = tonumber(ARGV[2])
local known = tonumber(redis.call('hget', KEYS[2], 'attempt') or 0)
if attempt < known then return {'obsolete', 0, 0} end
if attempt > known then
  redis.call('del', KEYS[2])
  redis.call('hset', KEYS[2], 'attempt', attempt)
elseif redis.call('hexists', KEYS[2], 'done') == 1 then
  return {'done', 0, 0}
else
  local held = redis.call('get', KEYS[1])
  -- a claim of this very worker is one whose answer got lost on the way
  if held and string.sub(held, -#ARGV[1] - 1) ~= ':' .. ARGV[1] then return {'held', 0, 0} end
end
local run = redis.call('hincrby', KEYS[2], 'run', 1)
redis.call('hdel', KEYS[2], 'seq')
redis.call('expire', KEYS[2], ARGV[4])
redis.call('set', KEYS[1], attempt .. ':' .. run .. ':' .. ARGV[1], 'px', ARGV[3])
return {'taken', run, run - tonumber(redis.call('hget', KEYS[2], 'given_back') or 0)}
"""

# A lease that nobody holds is still ours if nobody has claimed since: Redis was away, or forgot everything.
_OWNED = """
local function owned(lease, claims, value, attempt, run)
  local held = redis.call('get', lease)
  if held then return held == value end
  local last = redis.call('hmget', claims, 'attempt', 'run', 'done')
  return not last[3] and (not last[1] or (last[1] == attempt and last[2] == run))
end
"""

# KEYS: lease, claims, arq's in-progress key. ARGV: value, attempt, run, lease ms, in-progress ms, claims s.
_RENEW = (
    _OWNED
    + """
if not owned(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[4])
redis.call('set', KEYS[3], '1', 'px', ARGV[5])
redis.call('hset', KEYS[2], 'attempt', ARGV[2], 'run', ARGV[3])
redis.call('expire', KEYS[2], ARGV[6])
return 1
"""
)

# KEYS: lease, claims, stream. ARGV: value, attempt, run, seq, field, event, stream length, is the last one.
_PUBLISH = (
    _OWNED
    + """
if not owned(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
if tonumber(redis.call('hget', KEYS[2], 'seq') or 0) >= tonumber(ARGV[4]) then return 1 end
redis.call('xadd', KEYS[3], 'maxlen', '~', ARGV[7], '*', ARGV[5], ARGV[6])
redis.call('hset', KEYS[2], 'attempt', ARGV[2], 'run', ARGV[3], 'seq', ARGV[4])
if ARGV[8] == '1' then redis.call('hset', KEYS[2], 'done', 1) end
return 1
"""
)

# KEYS: lease, claims. ARGV: value, was it given back in good order.
_RELEASE = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('del', KEYS[1])
if ARGV[2] == '1' then redis.call('hincrby', KEYS[2], 'given_back', 1) end
return 1
"""


class LeaseLost(Exception):
    """Another worker owns the job now; whatever this one does for it must stop without a trace."""


class NotTaken(StrEnum):
    DONE = "done"  # its outcome is on the stream
    OBSOLETE = "obsolete"  # the bot has decided on a later attempt
    HELD = "held"  # another worker is at it


@dataclass(frozen=True)
class Claim:
    """The right to run `attempt` of a job, for the `run`-th time. `deaths`: how many workers died at it before."""

    job_id: str
    attempt: int
    run: int
    worker: str
    deaths: int

    @property
    def value(self) -> str:
        return f"{self.attempt}:{self.run}:{self.worker}"


@dataclass
class Lease:
    """A claim that is being renewed. `lost` is set when another worker has taken over."""

    claim: Claim
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class Claims:
    """Takes, renews and gives back claims. Its methods raise RedisError when Redis is away."""

    def __init__(self, redis: Redis, worker: str, lease_s: float) -> None:
        self._redis, self._worker, self._lease_s = redis, worker, lease_s
        self._take = redis.register_script(_TAKE)
        self._renew = redis.register_script(_RENEW)
        self._publish = redis.register_script(_PUBLISH)
        self._release = redis.register_script(_RELEASE)

    async def take(self, job_id: str, attempt: int) -> Claim | NotTaken:
        """The claim, or why there is none. A later attempt takes the job from an earlier one that still runs."""
        answer, run, starts = await self._take(
            keys=[lease_key(job_id), claims_key(job_id)],
            args=[self._worker, attempt, int(self._lease_s * 1000), _CLAIMS_LIVE_S],
        )
        if answer != b"taken":
            return NotTaken(answer.decode())
        return Claim(job_id, attempt, run, self._worker, deaths=starts - 1)

    @asynccontextmanager
    async def renewed(self, claim: Claim, in_progress_key: str) -> AsyncIterator[Lease]:
        """Renews the claim while the block runs."""
        lease = Lease(claim)
        async with beside(self._keep(lease, in_progress_key)):
            yield lease

    async def publish(self, claim: Claim, event: EventBase, *, is_last: bool = False) -> None:
        """Puts an event on the stream, once per `seq`; the last one closes the attempt. Raises LeaseLost."""
        done = await self._publish(
            keys=[lease_key(claim.job_id), claims_key(claim.job_id), EVENT_STREAM],
            args=[
                *(claim.value, claim.attempt, claim.run, event.seq),
                *(EVENT_FIELD, event.model_dump_json(), EVENT_STREAM_LENGTH, int(is_last)),
            ],
        )
        if not done:
            raise LeaseLost(claim.job_id)

    async def release(self, claim: Claim, *, given_back: bool = False) -> None:
        """Ends the lease. `given_back`: the job was left in good order for another worker, which is no death."""
        await self._release(
            keys=[lease_key(claim.job_id), claims_key(claim.job_id)], args=[claim.value, int(given_back)]
        )

    async def _keep(self, lease: Lease, in_progress_key: str) -> None:
        claim, lease_ms = lease.claim, int(self._lease_s * 1000)
        while True:
            try:
                is_ours = await self._renew(
                    keys=[lease_key(claim.job_id), claims_key(claim.job_id), in_progress_key],
                    args=[
                        *(claim.value, claim.attempt, claim.run),
                        *(lease_ms, lease_ms + _IN_PROGRESS_SLACK_MS, _CLAIMS_LIVE_S),
                    ],
                )
            except (RedisError, OSError) as error:
                # Nobody can claim through a Redis that is away. If only we are cut off, publishing is refused later.
                logger.warning("lease not renewed: %s", error)
            else:
                if not is_ours:
                    lease.lost.set()
                    return
            await asyncio.sleep(self._lease_s / 4)
