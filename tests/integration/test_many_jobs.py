"""With a long history every question that a person waits for is answered by an index, never by reading all jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from bot.db.database import Database, open_engine
from bot.db.migrate import upgrade
from tests.integration.postgres import database_url
from tests.load.many_jobs import QUESTIONS, Question, fill

__all__ = ["database_url"]

JOBS = 20_000
GROWING = {"jobs", "outbox", "sessions", "turns"}


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    await asyncio.to_thread(upgrade, database_url)
    made = open_engine(database_url)
    await fill(made, JOBS)
    yield made
    await made.dispose()


async def scans(engine: AsyncEngine, question: Question) -> list[str]:
    """The plan's steps that read a growing table from end to end, over all statements of a question."""
    db, asked = Database(engine), list[tuple[str, Any]]()

    def note(_c: Any, _u: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            asked.append((statement, parameters))

    async with db.transaction() as store:
        job = (await store.jobs.all_open())[-1]
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    async with db.transaction() as store:
        await question(store, job)
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    assert asked, "the question asks nothing"
    found: list[str] = []
    async with engine.connect() as connection:
        for statement, parameters in asked:
            if engine.dialect.name == "sqlite":
                rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found += [str(row[3]) for row in rows if _is_scan(str(row[3]))]
            else:
                row = (
                    await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                ).scalar()
                found += _long_reads((json.loads(row) if isinstance(row, str) else row)[0]["Plan"])
    return found


def _is_scan(step: str) -> bool:
    """`SCAN jobs` reads all rows, also along an index, and a search by the status alone reads almost all of them; a
    partial index of the few rows that are still to be dealt with may be read as a whole."""
    words = step.split()
    if words[0] not in ("SCAN", "SEARCH") or words[1] not in GROWING or "_uns" in words[-1]:
        return False
    return words[0] == "SCAN" or step.endswith("(status=?)")


def _long_reads(plan: dict[str, Any]) -> list[str]:
    """The steps of a plan that read more rows than a hundredth of the jobs."""
    read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    found = [f"{plan['Node Type']} of {plan.get('Relation Name')}: {read} rows"] if read > JOBS / 100 else []
    return found + [step for child in plan.get("Plans", ()) for step in _long_reads(child)]


async def test_no_question_reads_all_jobs(engine: AsyncEngine) -> None:
    assert {name: found for name, question in QUESTIONS.items() if (found := await scans(engine, question))} == {}
