"""How a job travels through arq: as JSON on both sides, never as pickle, by which writing to Redis would run code."""

from __future__ import annotations

import json
from typing import Any

from gpu_worker.contract.jobs import JOB, CheckTemplate, InspectPhotos, MakePortraits, TrainSubject

AnyJob = InspectPhotos | CheckTemplate | TrainSubject | MakePortraits

# How long a queued job may wait before arq calls it expired. Its default, a day, would lose jobs over a long outage.
QUEUED_FOR_S = 30 * 24 * 3600
# How long arq remembers a finished id and refuses to run it again.
REMEMBERED_FOR_S = 24 * 3600


def to_bytes(data: Any) -> bytes:
    """arq's `job_serializer`. An exception among the data (arq stores them as results) becomes its text."""
    return json.dumps(data, separators=(",", ":"), default=str).encode()


def from_bytes(data: bytes) -> Any:
    """arq's `job_deserializer`. Raises ValueError."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("too deep") from None


def job_payload(job: AnyJob) -> dict[str, Any]:
    """The one argument with which a job's arq task is enqueued."""
    return job.model_dump(mode="json")


def read_job(payload: Any) -> AnyJob:
    """The job in a payload. Raises pydantic.ValidationError."""
    return JOB.validate_python(payload)
