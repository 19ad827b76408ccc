"""The files of a running job: fetched from blobs into a folder of its own, results and checkpoints stored from there.

In the folder: `photos/<photo_id>.jpg`, `template.jpg`, `subjects/<subject_id>/…`, `checkpoints/…` (inputs), `out/…`
(results). The engine process sees this folder and nothing else.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import ValidationError

from gpu_worker.claims import Claim, Lease
from gpu_worker.contract.blobs import PIECE_BYTES, BlobNotFound, BlobStore
from gpu_worker.contract.codec import AnyJob
from gpu_worker.contract.events import RESULT, AnyResult, PortraitResult, TrainResult
from gpu_worker.contract.jobs import CheckTemplate, InspectPhotos, MakePortraits, PhotoRef, Sitter, TrainSubject

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_PAUSE_S = 15.0
_AT_ONCE = 8  # blobs that are fetched or stored
_NOT_FOR_PORTRAITS = ("card.jpg", "report.json")  # of a subject's files: they are for people


class Workspace:
    """A folder for job folders, locked while this worker lives. What dead workers left beside it is deleted."""

    def __init__(self, work_dir: Path) -> None:
        work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _delete_leftovers(work_dir)
        self._folder, self._lock = _own_folder(work_dir.absolute())

    @asynccontextmanager
    async def job_folder(self, claim: Claim) -> AsyncIterator[Path]:
        """An empty folder that is gone afterwards."""
        folder = self._folder / f"{claim.job_id}-{claim.attempt}-{claim.run}"
        folder.mkdir(mode=0o700)
        for name in ("out", "checkpoints"):
            (folder / name).mkdir()
        try:
            yield folder
        finally:  # in a thread: a training's gigabytes take half a second, for which no other job may wait
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def _own_folder(work_dir: Path) -> tuple[Path, int]:
    """A new folder and the handle that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="worker-", dir=work_dir))
        # A worker that starts at this moment may take the folder for a dead worker's before it is locked.
        with suppress(FileNotFoundError):
            lock = _locked(folder)
            if lock is not None and folder.exists():
                return folder, lock
            if lock is not None:
                os.close(lock)


def _locked(folder: Path) -> int | None:
    """A handle that holds the folder's lock, or None when another process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _delete_leftovers(work_dir: Path) -> None:
    for folder in work_dir.glob("worker-*"):
        try:
            handle = _locked(folder)
        except FileNotFoundError:  # another worker deletes it at this moment
            continue
        if handle is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


async def persistently(action: Callable[[], Awaitable[T]], for_s: float, may_go_on: Callable[[], None]) -> T:
    """The result of `action`, tried again after an OSError for `for_s` seconds; then that error is raised.

    Before each further try `may_go_on` is asked, which may raise.
    """
    deadline, pause_s = asyncio.get_running_loop().time() + for_s, 0.5
    while True:
        try:
            return await action()
        except OSError as error:
            if asyncio.get_running_loop().time() + pause_s > deadline:
                raise
            logger.warning("blobs cannot be reached, trying again: %s", error)
        await asyncio.sleep(pause_s)
        may_go_on()
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def fetch_inputs(job: AnyJob, folder: Path, blobs: BlobStore) -> None:
    """What the job needs. Raises BlobNotFound when a blob is not there any more, OSError."""
    match job:
        case InspectPhotos():
            await _fetch(_photos(job.photos, folder), blobs)
        case CheckTemplate():
            await _fetch({folder / "template.jpg": job.template_key}, blobs)
        case TrainSubject():
            await _fetch(_photos(job.photos, folder), blobs)
            await _fetch_checkpoint(job, folder / "checkpoints", blobs)
            if job.preview_template_key is not None:
                await _fetch_if_there(job.preview_template_key, folder / "template.jpg", blobs)
        case MakePortraits():
            template = {} if job.template_key is None else {folder / "template.jpg": job.template_key}
            subjects = [
                await _subject(sitter, folder / "subjects" / sitter.subject_id, blobs) for sitter in job.sitters
            ]
            await _fetch(template | {path: key for subject in subjects for path, key in subject.items()}, blobs)


def _photos(photos: tuple[PhotoRef, ...], folder: Path) -> dict[Path, str]:
    return {folder / "photos" / f"{photo.photo_id}.jpg": photo.key for photo in photos}


async def _subject(sitter: Sitter, folder: Path, blobs: BlobStore) -> dict[Path, str]:
    """What portraits read of a subject. Raises BlobNotFound, OSError."""
    names = [key.removeprefix(f"{sitter.subject_prefix}/") for key in await blobs.keys(sitter.subject_prefix)]
    wanted = [name for name in names if name not in _NOT_FOR_PORTRAITS]
    if not wanted:
        raise BlobNotFound(sitter.subject_prefix)
    return {folder / name: f"{sitter.subject_prefix}/{name}" for name in wanted}


async def _fetch_if_there(key: str, path: Path, blobs: BlobStore) -> None:
    """For what a job can do without."""
    try:
        await _fetch({path: key}, blobs)
    except BlobNotFound:
        logger.warning("%s is not there any more", key)


async def _fetch(keys: Mapping[Path, str], blobs: BlobStore) -> None:
    """The blobs, each to its path. Raises BlobNotFound, OSError."""

    async def fetch(path: Path, key: str) -> None:
        with await blobs.open(key) as source:
            await asyncio.to_thread(_write, path, source)

    await _side_by_side([partial(fetch, path, key) for path, key in keys.items()])


def _write(path: Path, source: BinaryIO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, PIECE_BYTES)


async def store_results(folder: Path, prefix: str, blobs: BlobStore) -> None:
    """Every file under `folder` as a blob under `prefix`. Raises OSError."""

    async def store(path: Path) -> None:
        with path.open("rb") as file:
            await blobs.put(f"{prefix}/{path.relative_to(folder).as_posix()}", file)

    await _side_by_side([partial(store, path) for path in _visible_files(folder)])


async def _side_by_side(actions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Does them all, a few at a time. It ends when the last one has, also when one raised: nothing may be written to a
    folder that is being deleted. Of several errors it raises a BlobNotFound, which no further try would help."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(action: Callable[[], Awaitable[None]]) -> None:
        async with turns:
            await action()

    endings = await asyncio.gather(*map(in_turn, actions), return_exceptions=True)
    errors = [ending for ending in endings if ending is not None]
    for error in sorted(errors, key=lambda error: not isinstance(error, BlobNotFound)):
        raise error


# A result is kept beside the files that it speaks of: should Redis forget that the job is done, the next run finds it.


def _result_key(job: TrainSubject | MakePortraits) -> str:
    return f"{job.output_prefix}/result-{job.job_id}.json"


async def keep_result(job: AnyJob, result: AnyResult, blobs: BlobStore) -> None:
    """After `store_results`. Checks are cheap: they are done again. Raises OSError."""
    if isinstance(job, TrainSubject | MakePortraits):
        await blobs.put(_result_key(job), result.model_dump_json().encode())


async def kept_result(job: AnyJob, blobs: BlobStore) -> AnyResult | None:
    """What an earlier run of the job came to, if one got that far. Raises OSError."""
    if not isinstance(job, TrainSubject | MakePortraits):
        return None
    try:
        return RESULT.validate_json(await blobs.get(_result_key(job)))
    except (BlobNotFound, ValidationError):
        return None


def files_of(result: AnyResult) -> list[str]:
    """Keys, and prefixes of keys, that a result speaks of."""
    match result:
        case TrainResult():
            return [result.files_prefix] if result.files_prefix else []
        case PortraitResult():
            return [portrait.key for portrait in result.portraits]
        case _:
            return []


def _visible_files(folder: Path) -> list[Path]:
    """Files that are whole: one that is being written has a name with a dot in front."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


# Checkpoints: a run stores files under a prefix of its own and names them in a manifest, which is replaced in one step.


def checkpoints_prefix(job: TrainSubject) -> str:
    """Where the checkpoints of a training lie until it has ended."""
    return f"{job.output_prefix}/checkpoint-{job.job_id}"


async def _fetch_checkpoint(job: TrainSubject, folder: Path, blobs: BlobStore) -> None:
    keys = await blobs.keys(checkpoints_prefix(job))
    manifests = [key for key in keys if key.endswith("/manifest.json")]
    if not manifests:
        return
    newest = max(manifests, key=lambda key: tuple(int(number) for number in key.split("/")[-2].split("-")))
    await _fetch({folder / name: key for name, key in json.loads(await blobs.get(newest)).items()}, blobs)
    logger.info("resuming from a checkpoint of run %s", newest.split("/")[-2])


class CheckpointMirror:
    """Keeps the newest state of a training's checkpoint folder in blobs, so that any worker can go on from it."""

    def __init__(self, job: TrainSubject, lease: Lease, folder: Path, blobs: BlobStore) -> None:
        self._lease, self._folder, self._blobs = lease, folder, blobs
        self._all_runs = checkpoints_prefix(job)
        self._this_run = f"{self._all_runs}/{lease.claim.attempt}-{lease.claim.run}"
        self._stored: dict[str, tuple[int, int]] = {}
        self._keys: dict[str, str] = {}
        self._versions = 0

    async def keep(self, every_s: float) -> None:
        """Stores what is new until cancelled. A store that is away costs a warning: the training goes on."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.store()
            except OSError as error:
                logger.warning("checkpoint not stored: %s", error)

    async def store(self) -> None:
        """Stores the folder if it changed. Raises OSError."""
        seen = self._look()
        if seen == self._stored or not await self._lease.is_ours():
            return
        keys: dict[str, str] = {}
        for name, version in seen.items():
            keys[name] = self._keys[name] if self._stored.get(name) == version else await self._put(name)
        if self._look() != seen:
            return  # it was being written: files of two checkpoints may be mixed; next time
        await self._blobs.put(f"{self._this_run}/manifest.json", json.dumps(keys).encode())
        self._stored, self._keys = seen, keys
        await self._delete_all_but({f"{self._this_run}/manifest.json", *keys.values()})

    def _look(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in _visible_files(self._folder):
            try:
                status = path.stat()
            except FileNotFoundError:  # deleted between listing and looking
                continue
            found[path.relative_to(self._folder).as_posix()] = (status.st_mtime_ns, status.st_size)
        return found

    async def _put(self, name: str) -> str:
        self._versions += 1  # a key is never written twice: an older manifest stays true until it is replaced
        key = f"{self._this_run}/{self._versions}/{name}"
        with (self._folder / name).open("rb") as file:
            await self._blobs.put(key, file)
        return key

    async def _delete_all_but(self, kept: set[str]) -> None:
        for key in await self._blobs.keys(self._all_runs):
            if key not in kept:
                await self._blobs.delete_prefix(key)
