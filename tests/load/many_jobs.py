"""A database with a long history, and the questions about it that are asked while people wait."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from bot.db import tables as t
from bot.db.database import Database
from bot.db.store import Store
from bot.domain import JobKind, JobStatus, StoredJob, Workers

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HISTORY = timedelta(days=60)  # as long as the bot keeps jobs that ended
OPEN_SHARE, USERS_SHARE = 500, 50  # one job of so many is open; so many jobs per person
DAY_BEFORE = NOW - timedelta(days=1)
AT_ONCE = 5_000  # rows of one statement


async def fill(engine: AsyncEngine, jobs: int, seed: int = 0) -> None:
    """`jobs` jobs of `jobs / 50` people over 60 days, one of 500 of them open, with outbox, collections and turns.

    The statistics of the planner are brought up to date, as PostgreSQL does it by itself; SQLite has none.
    """
    draw = random.Random(seed)
    users = max(jobs // USERS_SHARE, 10)
    async with engine.begin() as connection:
        for first in range(0, users, AT_ONCE):
            people = [{"id": _user(n), "created_at": NOW} for n in range(first, min(first + AT_ONCE, users))]
            await connection.execute(insert(t.User), people)
        for first in range(0, jobs, AT_ONCE):
            rows = [_job(n, jobs, users, draw) for n in range(first, min(first + AT_ONCE, jobs))]
            await connection.execute(insert(t.Job), rows)
            await connection.execute(insert(t.Outbox), [_parcel(row) for row in rows])
            await connection.execute(insert(t.Session), [_session(row) for row in rows[::4]])
            await connection.execute(insert(t.Turn), [_turn(row) for row in rows[::2]])
    if engine.dialect.name == "postgresql":
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE"))


def _user(number: int) -> str:
    return f"user{number:09d}"


def _job(number: int, jobs: int, users: int, draw: random.Random) -> dict[str, Any]:
    created = NOW - HISTORY * (1 - number / jobs)
    is_open = number % OPEN_SHARE == OPEN_SHARE - 1
    ended = draw.choices((JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED), (90, 5, 5))[0]
    status = draw.choice((JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.RUNNING)) if is_open else ended
    kinds: tuple[JobKind, ...] = ("portrait", "inspect", "train", "check_template")
    kind = draw.choices(kinds, (70, 20, 7, 3))[0]
    return {
        "id": f"job{number:09d}",
        "user_id": _user(draw.randrange(users)),
        "kind": kind,
        "status": status,
        "payload": {"job_id": f"job{number:09d}", "seed": number},
        "session_id": f"sess{number // 4:09d}",
        "platform": "telegram",
        "chat": str(number % users),
        "person": str(number % users),
        "shown": "no" if is_open else "yes",
        "score": created.timestamp(),
        "created_at": created,
        "started_at": created if status is not JobStatus.QUEUED else None,
        "finished_at": None if is_open else created + timedelta(seconds=draw.uniform(5, 200)),
    }


def _parcel(job: dict[str, Any]) -> dict[str, Any]:
    is_unsent = job["status"] is JobStatus.QUEUED and job["payload"]["seed"] % 100 == 0
    return {
        "job_id": job["id"],
        "attempt": 1,
        "created_at": job["created_at"],
        "next_try_at": job["created_at"],
        "sent_at": None if is_unsent else job["created_at"],
    }


def _session(job: dict[str, Any]) -> dict[str, Any]:
    number = job["payload"]["seed"]
    return {
        **{name: job[name] for name in ("user_id", "platform", "chat", "person", "created_at")},
        "id": job["session_id"],
        "state": "collecting" if number % OPEN_SHARE == 0 else "trained",
        "version": 6,
        "checked_version": 5 if number % (2 * OPEN_SHARE) == 0 else 6,
        "touched_at": job["created_at"],
    }


def _turn(job: dict[str, Any]) -> dict[str, Any]:
    is_unsaid = job["payload"]["seed"] % (2 * OPEN_SHARE) == 0
    return {
        "platform": "telegram",
        "event_id": job["id"],
        "person": job["person"] if is_unsaid else None,
        "tellings": [{"job": job["id"]}] if is_unsaid else [],
        "at": job["created_at"],
        "said_at": None if is_unsaid else job["created_at"],
    }


Question = Callable[[Store, StoredJob], Awaitable[Any]]

# What is asked while a person waits, and what a loop of the bot asks every few seconds.
QUESTIONS: dict[str, Question] = {
    "place in the queue": lambda store, job: store.jobs.place_of(job, Workers(4)),
    "length of the queue": lambda store, job: store.jobs.waiting(),
    "open jobs of a person": lambda store, job: store.jobs.open_of(job.user_id),
    "quota of a person": lambda store, job: store.operations.allowance(job.user_id, "portrait", DAY_BEFORE),
    "last check of a collection": lambda store, job: store.jobs.last_inspection(job.session_id or ""),
    "outcomes not shown": lambda store, job: store.jobs.unshown(),
    "cancelled lately": lambda store, job: store.jobs.cancelled_since(NOW - timedelta(hours=1)),
    "outbox": lambda store, job: store.jobs.unsent_parcels(NOW),
    "jobs not sent": lambda store, job: store.jobs.unsent(),
    "collections to be checked": lambda store, job: store.collections.to_be_checked(NOW, NOW),
    "jobs by state": lambda store, job: store.operations.jobs_by_state(NOW - timedelta(hours=1)),
    "jobs whose blobs are needed": lambda store, job: store.jobs.needed_among({job.job_id}),
    "models that are being trained": lambda store, job: store.jobs.learning_among({job.job_id}),
    "idle collections": lambda store, job: store.collections.idle_since(DAY_BEFORE, 100),
    "people who wait": lambda store, job: store.turns.waiting_people(NOW, NOW),
}


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    median: float
    p95: float
    worst: float


async def timed(db: Database, question: Question, times: int) -> Timing:
    """How long the answer takes, transaction included, for the youngest open jobs in turn."""
    async with db.transaction() as store:
        jobs = (await store.jobs.all_open())[-times:]
    took = []
    for number in range(times):
        begin = time.perf_counter()
        async with db.transaction() as store:
            await question(store, jobs[number % len(jobs)])
        took.append((time.perf_counter() - begin) * 1000)
    took.sort()
    return Timing(took[len(took) // 2], took[int(len(took) * 0.95)], took[-1])
