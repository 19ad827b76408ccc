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
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gpu_worker.background import beside
from gpu_worker.contract.events import EVENT_FIELD, EVENT_STREAM, EVENT_STREAM_LENGTH, EventBase
from gpu_worker.contract.jobs import EPOCH_KEY, claims_key, lease_key

logger = logging.getLogger(__name__)

_CLAIMS_LIVE_S = 40 * 24 * 3600  # longer than a job may lie in the queue
_IN_PROGRESS_SLACK_MS = 300  # arq's key outlives the lease, so that nobody is sent for a job whose lease still stands

# KEYS: lease, claims, epoch. ARGV: worker, attempt, lease ms, claims s, a new epoch's name.
_TAKE = """
local attempt = tonumber(ARGV[2])
local known = tonumber(redis.call('hget', KEYS[2], 'attempt') or 0)
if attempt < known then return {'obsolete', 0, 0, ''} end
if attempt > known then
  redis.call('del', KEYS[2])
  redis.call('hset', KEYS[2], 'attempt', attempt)
elseif redis.call('hexists', KEYS[2], 'done') == 1 then
  return {'done', 0, 0, ''}
else
  local held = redis.call('get', KEYS[1])
  -- a claim of this very worker is one whose answer got lost on the way
  if held and string.sub(held, -#ARGV[1] - 1) ~= ':' .. ARGV[1] then return {'held', 0, 0, ''} end
end
local run = redis.call('hincrby', KEYS[2], 'run', 1)
redis.call('hdel', KEYS[2], 'seq')
redis.call('expire', KEYS[2], ARGV[4])
redis.call('set', KEYS[1], attempt .. ':' .. run .. ':' .. ARGV[1], 'px', ARGV[3])
redis.call('set', KEYS[3], ARGV[5], 'nx')
local deaths = run - 1 - tonumber(redis.call('hget', KEYS[2], 'given_back') or 0)
return {'taken', run, deaths, redis.call('get', KEYS[3])}
"""

# A lease that nobody holds is still ours if nobody has claimed since. If nothing is known of the job at all, either the
# bot has deleted it, then it is nobody's, or Redis forgot everything, which shows in the epoch.
# KEYS: lease, claims, epoch. ARGV: value, attempt, run, epoch.
_OWNED = """
local function owned()
  local held = redis.call('get', KEYS[1])
  if held then return held == ARGV[1] end
  local last = redis.call('hmget', KEYS[2], 'attempt', 'run', 'done')
  if not last[1] then return redis.call('get', KEYS[3]) ~= ARGV[4] end
  return not last[3] and last[1] == ARGV[2] and last[2] == ARGV[3]
end
if not owned() then return 0 end
"""

# Further KEYS: arq's in-progress key. Further ARGV: lease ms, in-progress ms, claims s.
_RENEW = (
    _OWNED
    + """
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[5])
redis.call('set', KEYS[4], '1', 'px', ARGV[6])
redis.call('hset', KEYS[2], 'attempt', ARGV[2], 'run', ARGV[3])
redis.call('expire', KEYS[2], ARGV[7])
return 1
"""
)

# Further KEYS: stream. Further ARGV: seq, field, event, stream length, is the last one, claims s.
_PUBLISH = (
    _OWNED
    + """
if tonumber(redis.call('hget', KEYS[2], 'seq') or 0) >= tonumber(ARGV[5]) then return 1 end
redis.call('xadd', KEYS[4], 'maxlen', '~', ARGV[8], '*', ARGV[6], ARGV[7])
redis.call('hset', KEYS[2], 'attempt', ARGV[2], 'run', ARGV[3], 'seq', ARGV[5])
if ARGV[9] == '1' then redis.call('hset', KEYS[2], 'done', 1) end
redis.call('expire', KEYS[2], ARGV[10])
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
    """Another worker owns the job now, or nobody does; whatever this one does for it must stop without a trace."""


class NotTaken(StrEnum):
    DONE = "done"  # its outcome is on the stream
    OBSOLETE = "obsolete"  # the bot has decided on a later attempt
    HELD = "held"  # another worker is at it


@dataclass(frozen=True)
class Claim:
    """The right to run `attempt` of a job, for the `run`-th time. `deaths`: how many workers died at it before.

    `epoch` names the memory of the Redis that gave it.
    """

    job_id: str
    attempt: int
    run: int
    worker: str
    deaths: int
    epoch: str = ""

    @property
    def value(self) -> str:
        return f"{self.attempt}:{self.run}:{self.worker}"


class Claims:
    """Gives claims to one worker. Methods raise RedisError when Redis is away."""

    def __init__(self, redis: Redis, worker: str, lease_s: float) -> None:
        self._redis, self._worker, self._lease_s = redis, worker, lease_s
        self._take = redis.register_script(_TAKE)

    async def take(self, job_id: str, attempt: int) -> Claim | NotTaken:
        """The claim, or why there is none. A later attempt takes the job from an earlier one that still runs."""
        answer, run, deaths, epoch = await self._take(
            keys=[lease_key(job_id), claims_key(job_id), EPOCH_KEY],
            args=[self._worker, attempt, int(self._lease_s * 1000), _CLAIMS_LIVE_S, secrets.token_hex(8)],
        )
        if answer != b"taken":
            return NotTaken(answer.decode())
        return Claim(job_id, attempt, run, self._worker, deaths, epoch.decode())

    @asynccontextmanager
    async def renewed(self, claim: Claim, in_progress_key: str) -> AsyncIterator[Lease]:
        """Renews the claim, and arq's key, while the block runs."""
        lease = Lease(self._redis, claim, in_progress_key, self._lease_s)
        async with beside(self._keep(lease)):
            yield lease

    async def _keep(self, lease: Lease) -> None:
        while await lease.is_ours():  # noqa: ASYNC110 - nothing happens that one could wait for
            await asyncio.sleep(self._lease_s / 4)


class Lease:
    """A claim that is being renewed. `lost` is set once it is known that it is ours no more."""

    def __init__(self, redis: Redis, claim: Claim, in_progress_key: str, lease_s: float) -> None:
        self.claim, self.lost = claim, asyncio.Event()
        self._in_progress_key, self._lease_ms = in_progress_key, int(lease_s * 1000)
        self._keys = [lease_key(claim.job_id), claims_key(claim.job_id), EPOCH_KEY]
        self._proof: list[str | int] = [claim.value, claim.attempt, claim.run, claim.epoch]
        self._renew = redis.register_script(_RENEW)
        self._publish = redis.register_script(_PUBLISH)
        self._release = redis.register_script(_RELEASE)

    async def is_ours(self) -> bool:
        """Asks Redis and renews. Nobody can claim through a Redis that is away, so then it counts as ours still."""
        try:
            done = await self._renew(
                keys=[*self._keys, self._in_progress_key],
                args=[*self._proof, self._lease_ms, self._lease_ms + _IN_PROGRESS_SLACK_MS, _CLAIMS_LIVE_S],
            )
        except (RedisError, OSError) as error:
            logger.warning("lease not renewed: %s", error)
            return not self.lost.is_set()
        if not done:
            self.lost.set()
        return bool(done)

    async def publish(self, event: EventBase, *, is_last: bool = False) -> None:
        """Puts an event on the stream, once per `seq`; the last one closes the attempt.

        Raises LeaseLost, and RedisError when Redis is away.
        """
        done = await self._publish(
            keys=[*self._keys, EVENT_STREAM],
            args=[
                *self._proof,
                *(event.seq, EVENT_FIELD, event.model_dump_json(), EVENT_STREAM_LENGTH, int(is_last), _CLAIMS_LIVE_S),
            ],
        )
        if not done:
            self.lost.set()
            raise LeaseLost(self.claim.job_id)

    async def release(self, *, given_back: bool = False) -> None:
        """Ends the lease. `given_back`: the job was left in good order for another worker, which is no death."""
        await self._release(keys=self._keys[:2], args=[self.claim.value, int(given_back)])
