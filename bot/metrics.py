"""Numbers for Prometheus. Labels are closed lists: no person, job, name or place is ever one."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bot.domain import JobStatus, StoredJob
from gpu_worker.contract.events import FAILURE_REASONS, Failed, Progress, Started, Succeeded

_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)


class Metrics:
    """Counted as it happens, and measured when somebody asks (see bot/health.py)."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._updates = Counter("portrait_updates", "Events of the chats", ["platform", "outcome"], registry=registry)
        self._refusals = Counter(
            "portrait_delivery_refusals", "Messages that a chat did not take", ["platform", "how"], registry=registry
        )
        self._waited = Histogram(
            "portrait_job_waiting_seconds", "From order to start", ["kind"], buckets=_SECONDS, registry=registry
        )
        self._took = Histogram(
            "portrait_job_seconds", "From start to success", ["kind"], buckets=_SECONDS, registry=registry
        )
        self._failed = Counter("portrait_job_failures", "Failed attempts", ["kind", "reason"], registry=registry)
        self._jobs = Gauge("portrait_jobs", "Jobs by state; ended ones of a day", ["kind", "state"], registry=registry)
        self._queue = Gauge("portrait_queue_length", "Trainings and portraits that wait or run", registry=registry)
        self._stored = Gauge("portrait_stored", "What people own", ["what"], registry=registry)
        self._workers = Gauge(
            "portrait_workers", "Workers alive", ["profile", "device", "version", "state"], registry=registry
        )

    # --- as it happens ---

    def update(self, platform: str, outcome: str) -> None:
        """`outcome`: handled, repeated, failed."""
        self._updates.labels(platform, outcome).inc()

    def refused(self, platform: str, *, for_good: bool) -> None:
        self._refusals.labels(platform, "for_good" if for_good else "for_now").inc()

    def job_event(self, job: StoredJob, event: Started | Progress | Succeeded | Failed, now: datetime) -> None:
        """`job` as it was before the event."""
        if job.status is JobStatus.QUEUED:
            self._waited.labels(job.kind).observe((now - job.created_at).total_seconds())
        match event:
            case Succeeded() if job.started_at:
                self._took.labels(job.kind).observe((now - job.started_at).total_seconds())
            case Failed(reason=reason):
                self._failed.labels(job.kind, reason if reason in FAILURE_REASONS else "other").inc()
            case _:
                pass

    # --- when asked ---

    def measured(
        self, jobs: list[tuple[str, str, int]], totals: dict[str, int], workers: list[tuple[str, str, str, str]]
    ) -> None:
        """`workers`: (profile, device, version, state) of each."""
        for gauge in (self._jobs, self._stored, self._workers):
            gauge.clear()
        for kind, state, count in jobs:
            self._jobs.labels(kind, state).set(count)
        self._queue.set(sum(n for kind, state, n in jobs if kind in ("train", "portrait") and state in _OPEN))
        for what, count in totals.items():
            self._stored.labels(what).set(count)
        for worker in workers:
            self._workers.labels(*worker).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


_OPEN = (JobStatus.QUEUED, JobStatus.RUNNING)
