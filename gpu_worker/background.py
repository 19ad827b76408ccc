"""Work that goes on beside other work, and ends when it is told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` while the block runs, then cancels it. If it breaks off before, that is logged, not raised."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s broke off", work, exc_info=error)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits until they are over.

    Asking once is not enough: `asyncio.wait_for` of Python 3.11, by which the Redis client sends its commands, swallows
    a cancellation that arrives together with its result.
    """
    unfinished = set(tasks)
    while unfinished:
        for task in unfinished:
            task.cancel()
        unfinished = (await asyncio.wait(unfinished, timeout=0.5))[1]
