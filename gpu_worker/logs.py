"""Log lines that name their job, for people or as JSON. They hold ids, never names, photos or prompts."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_JOB_ID: ContextVar[str] = ContextVar("job_id", default="-")


@contextmanager
def job_in_logs(job_id: str) -> Iterator[None]:
    """Every line logged inside, also by tasks started inside, carries `job_id`."""
    token = _JOB_ID.set(job_id)
    try:
        yield
    finally:
        _JOB_ID.reset(token)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "job_id": getattr(record, "job_id", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _with_job_id(record: logging.LogRecord) -> bool:
    record.job_id = _JOB_ID.get()
    return True


def set_up_logs(style: str, level: str) -> None:
    """Logs to stderr. Called once, by a process's entry point."""
    handler = logging.StreamHandler()
    handler.addFilter(_with_job_id)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s [%(job_id)s] %(message)s")
    handler.setFormatter(_JsonLines() if style == "json" else plain)
    # Libraries say credentials and whole payloads when they are asked to say everything.
    logging.basicConfig(level="INFO" if level == "DEBUG" else level, handlers=[handler], force=True)
    for ours in ("gpu_worker", "engine"):
        logging.getLogger(ours).setLevel(level)
    logging.getLogger("arq").setLevel(logging.WARNING)  # its lines of level INFO repeat whole payloads
