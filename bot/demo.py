"""`python -m bot demo`: a whole conversation, from selfies to a portrait, for real, on this machine.

Everything that a real chat would need runs: database, queue, one worker process, the Telegram frontend, and the sandbox
in Telegram's place. A program plays the person. What is said is printed as it is said and kept as a transcript; what
can be measured goes into `report.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot import texts
from bot.app import StartFailure
from bot.db.database import Database
from bot.domain import JobStatus, PhotoVerdict, StoredJob
from bot.embedded import ServiceFailure
from bot.keys import NoMasterKey
from bot.replies import PhotoNotTaken
from bot.sandbox.local import LocalStudio, local_studio
from bot.sandbox.person import Person, find_button, words
from bot.sandbox.transcript import Transcript
from bot.sandbox.visit import TemplateUnusable, VisitFailed, Visitor
from bot.sandbox.world import Json
from bot.templates import BuiltInTemplates, load_templates
from gpu_worker.contract.blobs import BlobStore

TRAINING_S = 1800.0  # a busy machine; an idle one needs minutes
PORTRAIT_S = 600.0
NOT_TAKEN = ("unreadable", "animated", "too_big", "too_many_pixels", "not_a_picture", "too_many_photos", "expired")
EXIT_FAILED = 1
EXIT_TEMPLATE = 2  # the template cannot serve: no face, no such name


@dataclass(frozen=True)
class Plan:
    photos: tuple[Path, ...]
    template: str | Path  # a built-in template's id, or a picture
    out: Path


@dataclass
class Report:
    """What is written to report.json, also after a failure: as far as it went."""

    began: float = field(default_factory=time.monotonic)
    data: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        self.data["seconds"] = {**self.data.get("seconds", {}), "all": round(time.monotonic() - self.began, 2)}
        path.write_text(json.dumps(self.data, indent=2, ensure_ascii=False) + "\n", "utf-8")


class Records:
    """What the demo looks up in the bot's own database: verdicts and results, for the report."""

    def __init__(self, db: Database, blobs: BlobStore) -> None:
        self._db, self._blobs = db, blobs
        self.session_id = ""

    async def is_judged(self, session_id: str) -> bool:
        self.session_id = session_id
        async with self._db.transaction() as store:
            stored = await store.collections.get(session_id)
        return stored is not None and bool(stored.collection.photos) and not stored.collection.is_checking

    async def photos(self) -> tuple[PhotoVerdict, ...]:
        async with self._db.transaction() as store:
            stored = await store.collections.get(self.session_id)
        return stored.collection.photos if stored else ()

    async def job(self, job_id: str) -> StoredJob:
        async with self._db.transaction() as store:
            job = await store.jobs.get(job_id)
        if job is None:
            raise VisitFailed("the job is not in the database")
        return job

    async def has_failed(self, job_id: str) -> bool:
        return (await self.job(job_id)).status in (JobStatus.FAILED, JobStatus.CANCELLED)

    async def engine_report(self, key: str | None) -> Any:
        """What the engine wrote about its work, if it did."""
        return json.loads(await self._blobs.get(key)) if key else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or a sentence on stderr and 1; 2 when the template cannot serve."""
    options = _parser().parse_args(arguments)
    templates = load_templates()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        template = _template(options.template, templates)
        return asyncio.run(_demo(options.photos, template, out))
    except TemplateUnusable as error:
        return _sorry(str(error), EXIT_TEMPLATE)
    except (VisitFailed, StartFailure, ServiceFailure, NoMasterKey) as error:
        return _sorry(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return _sorry("stopped", EXIT_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bot demo", description="From selfies to a portrait, on this machine."
    )
    parser.add_argument("--photos", type=Path, help="folder with 5 to 20 selfies of one person (default: a sample)")
    parser.add_argument(
        "--template", help="a built-in template's name, or a picture (default: the first of the gallery)"
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="where the results go (default: demo-out)")
    return parser


def _template(wanted: str | None, templates: BuiltInTemplates) -> str | Path:
    """A built-in template's id or a picture's path. Raises TemplateUnusable."""
    if wanted is None:
        if not templates.templates:
            raise TemplateUnusable("there are no built-in templates: name a picture with --template")
        return templates.templates[0].template_id
    if found := templates.find(wanted):
        return found.template_id
    if Path(wanted).is_file():
        return Path(wanted)
    names = ", ".join(template.template_id for template in templates.templates)
    raise TemplateUnusable(f"{wanted} is neither a picture nor one of the templates {names}")


async def _demo(photos_folder: Path | None, template: str | Path, out: Path) -> int:
    report, transcript = Report(), Transcript(print)
    try:
        folder = photos_folder or await _sample_photos(out)
        plan = Plan(_photos_in(folder), template, out)
        print(f"Starting database, queue, worker, Telegram frontend and the sandbox; {len(plan.photos)} photos.")
        # Photos and all else that the bot keeps are gone when the demo ends.
        with tempfile.TemporaryDirectory(prefix="portrait-demo-", ignore_cleanup_errors=True) as data:
            await _run(plan, Path(data), transcript, report)
    except VisitFailed as error:
        report.data["failed"] = str(error)
        raise
    finally:
        (out / "transcript.txt").write_text("\n".join(transcript.lines) + "\n", "utf-8")
        report.write(out / "report.json")
    print(f"\nportrait    {report.data['portraits'][0]['file']}")
    print(f"transcript  {out / 'transcript.txt'}")
    print(f"report      {out / 'report.json'}")
    return 0


async def _run(plan: Plan, data: Path, transcript: Transcript, report: Report) -> None:
    async with local_studio(data) as studio, Person(studio.url, 1001) as person:
        report.data["seconds"] = {"start": round(time.monotonic() - report.began, 2)}
        following = asyncio.create_task(transcript.follow(person))
        try:
            await _visit(plan, studio, Visitor(person, transcript), report)
        except VisitFailed:
            shutil.copyfile(studio.worker_log, plan.out / "worker.log")
            raise
        finally:
            await asyncio.sleep(0.3)  # the last words arrive
            following.cancel()


async def _visit(plan: Plan, studio: LocalStudio, visitor: Visitor, report: Report) -> None:
    records = Records(studio.db, studio.blobs)
    await visitor.begin()
    sent = await visitor.send_photos(plan.photos)
    collection = await visitor.verdicts(records.is_judged)
    reasons = _reasons_in_words(visitor.person)
    report.data["photos"] = _verdicts(sent, await records.photos(), reasons)
    if find_button(collection, "start") is None:
        raise VisitFailed(f"the training cannot start: {' '.join(words(collection).split())}")
    training = await visitor.order(collection, "start")
    try:
        await visitor.outcome("trained model", "gallery", lambda: records.has_failed(training), TRAINING_S)
    finally:
        report.data["photos"] = _verdicts(sent, await records.photos(), reasons)
        report.data["training"] = await _job_report(records, training)
        _note_held_out(report.data)
    if isinstance(plan.template, Path):
        choice = await visitor.bring_template(plan.template)
    else:
        choice = await visitor.find_template(plan.template)
    drawing = await visitor.order(choice, "use")
    try:
        portraits = await visitor.outcome("portrait", "original", lambda: records.has_failed(drawing), PORTRAIT_S)
    finally:
        report.data["template"] = str(plan.template)
        report.data["portrait"] = await _job_report(records, drawing)
        report.data["seconds"] |= {f"waited for {what}": round(s, 2) for what, s in visitor.waits.items()}
    files = await visitor.original(portraits)
    report.data["portraits"] = _keep_portraits(files, report.data["portrait"], plan.out)


def _keep_portraits(files: list[bytes], job: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    made = job["result"]["portraits"]
    kept = []
    for number, (data, about) in enumerate(zip(files, made, strict=True), 1):
        path = out / f"portrait-{number}.jpg"
        path.write_bytes(data)
        size = [about["width"], about["height"]]
        kept.append({"file": str(path), "size": size, "likeness": about["likeness"], "notes": about["notes"]})
    return kept


async def _job_report(records: Records, job_id: str) -> dict[str, Any]:
    """How a job went: waits, stages, likeness, and everything that the engine wrote about it."""
    job = await records.job(job_id)
    told: dict[str, Any] = {"job_id": job_id, "status": job.status.value, "failure": job.failure, "result": job.result}
    if job.started_at:
        told["waited_s"] = round((job.started_at - job.created_at).total_seconds(), 2)
        if job.finished_at:
            told["took_s"] = round((job.finished_at - job.started_at).total_seconds(), 2)
    result = job.result or {}
    keys = [result.get("report_key"), *(portrait.get("report_key") for portrait in result.get("portraits", ()))]
    told["engine"] = [await records.engine_report(key) for key in keys if key]
    return told


def _verdicts(sent: list[Json], photos: Sequence[PhotoVerdict], reasons: list[str]) -> list[dict[str, Any]]:
    """Verdict and reason per file. `reasons` are those that the bot gave for files that never became photos."""
    are_photos = [item for item in sent if "photo" in item["message"]]
    taken = sent if len(photos) == len(sent) else are_photos
    by_message = {item["message"]["message_id"]: photo for item, photo in zip(taken, photos, strict=False)}
    left = iter(reasons)
    told: list[dict[str, Any]] = []
    for item in sent:
        photo = by_message.get(item["message"]["message_id"])
        if photo is None:
            told.append({"file": item["file"], "verdict": "refused", "reason": next(left, "unreadable")})
        else:
            about = {"photo_id": photo.photo_id, "is_reference": photo.is_reference}
            told.append({"file": item["file"], "verdict": photo.verdict, "reason": photo.reason, **about})
    return told


def _reasons_in_words(person: Person) -> list[str]:
    """The reasons of all "not taken" in the chat, one per file, read back from the bot's sentences."""
    said = [words(message) for message in person.messages.values() if message["from"]["is_bot"]]
    meant = {
        str(texts.say(PhotoNotTaken(reason, count), "en")): [reason] * count
        for reason in NOT_TAKEN
        for count in range(1, 100)
    }
    return [reason for sentence in said for reason in meant.get(sentence, ())]


def _note_held_out(report: dict[str, Any]) -> None:
    """Marks the photos that the training kept aside to measure likeness honestly."""
    held_out = (report["training"]["result"] or {}).get("held_out", ())
    for photo in report["photos"]:
        photo["is_held_out"] = photo.get("photo_id") in held_out


def _photos_in(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise VisitFailed(f"{folder} is not a folder with photos")
    photos = tuple(path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    if not photos:
        raise VisitFailed(f"there are no photos in {folder}")
    return photos


async def _sample_photos(out: Path) -> Path:
    """Selfies of the sample subject, made by the engine in a process of its own: the bot never imports the engine."""
    folder = out / "sample-selfies"
    command = (sys.executable, "-m", "engine.sample", str(folder))
    making = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await making.wait() != 0:
        raise VisitFailed("the sample selfies could not be made: the engine is not installed (see README)")
    return folder


def _sorry(sentence: str, status: int) -> int:
    print(f"\ndemo: {sentence}", file=sys.stderr)
    return status
