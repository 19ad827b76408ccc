from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from gpu_worker.claims import Claim, Lease
from gpu_worker.contract.blobs import BlobNotFound
from gpu_worker.contract.folder_blobs import FolderBlobs
from gpu_worker.contract.jobs import MakePortraits, PhotoRef, Sitter, TemplateToPaint, TrainSubject
from gpu_worker.contract.sealing import CHUNK_BYTES, CannotOpen, new_key
from gpu_worker.workspace import (
    CheckpointMirror,
    Workspace,
    checkpoints_prefix,
    fetch_inputs,
    persistently,
    store_results,
)
from tests.sealed import blobs_of_one_key

JOB = TrainSubject(
    job_id="job001",
    subject_id="subj01",
    photos=(PhotoRef(photo_id="photo1", key="users/u1/photos/photo1.jpg"),),
    output_prefix="users/u1/subjects/subj01",
    seed=1,
)
PORTRAIT = MakePortraits(
    job_id="job002",
    subject_id="subj01",
    subject_prefix="users/u1/subjects/subj01/1-1",
    template_key="templates/a.jpg",
    output_prefix="users/u1/jobs/job002",
    seed=1,
)


@dataclass
class FakeLease:
    claim: Claim
    is_held: bool = True

    async def is_ours(self) -> bool:
        return self.is_held


def lease(attempt: int = 1, run: int = 1, *, is_held: bool = True) -> Lease:
    return cast(Lease, FakeLease(Claim("job001", attempt, run, "worker", deaths=0), is_held))


def go_on() -> None:
    pass


@pytest.fixture
async def blobs(tmp_path: Path) -> FolderBlobs:
    store = FolderBlobs(tmp_path / "blobs")
    await store.put(JOB.photos[0].key, b"photo")
    return store


def filled(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def found_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_next_run_gets_the_checkpoint_of_the_last(tmp_path: Path, blobs: FolderBlobs) -> None:
    for run, step in ((9, "200"), (10, "300")):
        folder = filled(tmp_path / f"run{run}", state__json=step, lora__bin="weights")
        await CheckpointMirror(JOB, lease(run=run), folder, blobs).store()
    await fetch_inputs(JOB, tmp_path / "next", blobs)
    assert (tmp_path / "next/photos/photo1.jpg").read_bytes() == b"photo"
    assert (tmp_path / "next/checkpoints/state.json").read_text() == "300"
    assert (tmp_path / "next/checkpoints/lora.bin").read_text() == "weights"


async def test_a_later_attempt_counts_more_than_a_later_run(tmp_path: Path, blobs: FolderBlobs) -> None:
    await CheckpointMirror(JOB, lease(2, 1), filled(tmp_path / "a", state__json="new"), blobs).store()
    stale = CheckpointMirror(JOB, lease(1, 5), filled(tmp_path / "b", state__json="old"), blobs)
    stale._delete_all_but = lambda kept: asyncio.sleep(0)  # type: ignore[method-assign, assignment]
    await stale.store()
    await fetch_inputs(JOB, tmp_path / "next", blobs)
    assert (tmp_path / "next/checkpoints/state.json").read_text() == "new"


async def test_only_the_newest_state_is_kept(tmp_path: Path, blobs: FolderBlobs) -> None:
    folder = filled(tmp_path / "run", state__json="1", step_1__bin="a")
    mirror = CheckpointMirror(JOB, lease(), folder, blobs)
    await mirror.store()
    (folder / "step_1.bin").unlink()
    filled(folder, state__json="22", step_2__bin="b")
    await mirror.store()
    names = {key.split("/")[-1] for key in await blobs.keys(checkpoints_prefix(JOB))}
    assert names == {"manifest.json", "state.json", "step_2.bin"}
    await mirror.store()
    await fetch_inputs(JOB, tmp_path / "next", blobs)
    assert {path.name for path in (tmp_path / "next/checkpoints").iterdir()} == {"state.json", "step_2.bin"}


async def test_a_file_that_is_being_written_is_not_stored(tmp_path: Path, blobs: FolderBlobs) -> None:
    folder = filled(tmp_path / "run", __state="half")
    await CheckpointMirror(JOB, lease(), folder, blobs).store()
    assert await blobs.keys(checkpoints_prefix(JOB)) == []


async def test_a_worker_without_the_lease_stores_no_checkpoint(tmp_path: Path, blobs: FolderBlobs) -> None:
    await CheckpointMirror(JOB, lease(is_held=False), filled(tmp_path / "run", state__json="1"), blobs).store()
    assert await blobs.keys(checkpoints_prefix(JOB)) == []


async def test_a_subject_that_is_gone_is_missing_not_empty(tmp_path: Path, blobs: FolderBlobs) -> None:
    await blobs.put("templates/a.jpg", b"template")
    with pytest.raises(BlobNotFound):
        await fetch_inputs(PORTRAIT, tmp_path / "job", blobs)


async def test_what_a_portrait_reads_is_fetched_as_it_was_and_nothing_else(tmp_path: Path) -> None:
    blobs = blobs_of_one_key(FolderBlobs(tmp_path / "blobs"), new_key())
    lora = secrets.token_bytes(2 * CHUNK_BYTES + 5)
    read = {"lora.safetensors": lora, "subject.json": b"{}", "digital_id.jpg": b"id", "reference.jpg": b"best"}
    read |= {f"references/{n:02}.jpg": f"photo {n}".encode() for n in range(12)}
    for name, data in (read | {"card.jpg": b"for people", "report.json": b"for people"}).items():
        await blobs.put(f"{PORTRAIT.subject_prefix}/{name}", data)
    await blobs.put("templates/a.jpg", b"template")
    await fetch_inputs(PORTRAIT, tmp_path / "job", blobs)
    folder = tmp_path / "job" / "subjects" / "subj01"
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == read
    assert (tmp_path / "job" / "template.jpg").read_bytes() == b"template"


class Counted(FolderBlobs):
    """Counts who opens at once. What it is told to lose or to refuse is listed, but not there or not readable."""

    def __init__(self, folder: Path, lost: str = "", refused: str = "") -> None:
        super().__init__(folder)
        self.lost, self.refused, self.now, self.most, self.ended = lost, refused, 0, 0, 0

    async def open(self, key: str) -> BinaryIO:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0 if key.endswith(self.refused or "none") else 0.02)
        self.now -= 1
        self.ended += 1
        if self.lost and key.endswith(self.lost):
            raise BlobNotFound(key)
        if self.refused and key.endswith(self.refused):
            raise ConnectionError("away")
        return await super().open(key)


async def of_a_subject(blobs: FolderBlobs) -> int:
    """How many blobs a portrait then needs."""
    names = ["lora.safetensors", *(f"references/{n:02}.jpg" for n in range(20))]
    for key in ("templates/a.jpg", *(f"{PORTRAIT.subject_prefix}/{name}" for name in names)):
        await blobs.put(key, b"x")
    return 1 + len(names)


async def test_inputs_are_fetched_side_by_side_but_not_all_at_once(tmp_path: Path) -> None:
    blobs = Counted(tmp_path / "blobs")
    assert await of_a_subject(blobs) == 22
    await fetch_inputs(PORTRAIT, tmp_path / "job", blobs)
    assert 2 <= blobs.most <= 8


async def test_an_input_that_was_deleted_counts_more_than_a_store_that_is_away(tmp_path: Path) -> None:
    blobs = Counted(tmp_path / "blobs", lost="references/19.jpg", refused="references/00.jpg")
    await of_a_subject(blobs)
    with pytest.raises(BlobNotFound):
        await fetch_inputs(PORTRAIT, tmp_path / "job", blobs)


async def test_nothing_is_written_into_the_jobs_folder_any_more_once_fetching_has_failed(tmp_path: Path) -> None:
    blobs = Counted(tmp_path / "blobs", refused="references/00.jpg")
    number = await of_a_subject(blobs)
    with pytest.raises(ConnectionError):
        await fetch_inputs(PORTRAIT, tmp_path / "job", blobs)
    assert (blobs.now, blobs.ended) == (0, number)
    written = {p for p in (tmp_path / "job").rglob("*") if p.is_file()}
    await asyncio.sleep(0.1)
    assert {p for p in (tmp_path / "job").rglob("*") if p.is_file()} == written
    assert len(written) == number - 1


async def test_an_input_under_another_key_is_no_input(tmp_path: Path) -> None:
    stored = FolderBlobs(tmp_path / "blobs")
    await of_a_subject(stored)
    with pytest.raises(CannotOpen, match="not sealed"):
        await fetch_inputs(PORTRAIT, tmp_path / "job", blobs_of_one_key(stored, new_key()))


async def test_every_result_is_stored(tmp_path: Path, blobs: FolderBlobs) -> None:
    results = {f"portrait-{n}.jpg": f"portrait {n}".encode() for n in range(12)} | {"sub/report.json": b"{}"}
    for name, data in results.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(data)
    await store_results(tmp_path / "out", "users/u1/jobs/job002/1-1", blobs)
    for name, data in results.items():
        assert await blobs.get(f"users/u1/jobs/job002/1-1/{name}") == data


async def test_a_result_that_cannot_be_stored_is_told(tmp_path: Path) -> None:
    filled(tmp_path / "out", a__jpg="a", b__jpg="b")
    (tmp_path / "blobs").write_text("no folder")
    with pytest.raises(FileExistsError):
        await store_results(tmp_path / "out", "users/u1/jobs/job002/1-1", FolderBlobs(tmp_path / "blobs"))


async def test_every_sitter_gets_a_folder_and_a_painted_template_is_not_fetched(
    tmp_path: Path, blobs: FolderBlobs
) -> None:
    sitters = [Sitter(subject_id=f"subj0{n}", subject_prefix=f"users/u{n}/subjects/subj0{n}/1-1") for n in (1, 2)]
    for sitter in sitters:
        await blobs.put(f"{sitter.subject_prefix}/references/01.jpg", sitter.subject_id.encode())
    job = MakePortraits(
        job_id="job002",
        **sitters[0].model_dump(),
        faces=(sitters[0], None, sitters[1]),
        template_to_paint=TemplateToPaint(prompt="two friends"),
        output_prefix="users/u1/jobs/job002",
        seed=1,
    )
    await fetch_inputs(job, tmp_path / "job", blobs)
    found = {p.relative_to(tmp_path / "job").as_posix() for p in (tmp_path / "job").rglob("*") if p.is_file()}
    assert found == {f"subjects/subj0{n}/references/01.jpg" for n in (1, 2)}


async def test_a_first_look_without_its_template_is_no_reason_not_to_train(tmp_path: Path, blobs: FolderBlobs) -> None:
    job = JOB.model_copy(update={"preview_template_key": "templates/gone.jpg"})
    await fetch_inputs(job, tmp_path / "job", blobs)
    assert not (tmp_path / "job" / "template.jpg").exists()


async def test_a_store_that_comes_back_is_waited_for() -> None:
    left = [OSError("away"), None]

    async def action() -> str:
        if error := left.pop(0):
            raise error
        return "stored"

    assert await persistently(action, 60, go_on) == "stored"


async def test_a_worker_that_shall_stop_does_not_wait_for_the_store() -> None:
    async def action() -> None:
        raise OSError("away")

    def stop() -> None:
        raise InterruptedError("asked to stop")

    with pytest.raises(InterruptedError):
        await persistently(action, 60, stop)


async def test_a_store_that_stays_away_is_given_up() -> None:
    async def action() -> None:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await persistently(action, 0.1, go_on)


async def test_two_workers_that_start_at_once_do_not_take_each_others_folder_for_a_dead_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, calls, others = tempfile.mkdtemp, 0, list[Workspace]()

    def made_while_another_starts(**options: Any) -> str:
        nonlocal calls
        calls += 1
        folder = make(**options)
        if calls == 1:  # the folder is not locked yet
            others.append(Workspace(tmp_path))
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", made_while_another_starts)
    workspace = Workspace(tmp_path)
    for one in (workspace, *others):
        async with one.job_folder(Claim("job001", 1, 1, "worker", deaths=0)) as folder:
            assert folder.is_dir()
        one.close()
    assert found_in(tmp_path) == []


async def test_folders_of_dead_workers_are_deleted_and_those_of_live_ones_are_not(tmp_path: Path) -> None:
    live = Workspace(tmp_path)
    (tmp_path / "worker-dead" / "photos").mkdir(parents=True)
    async with live.job_folder(lease().claim) as folder:
        other = Workspace(tmp_path)
        assert folder.is_dir()
        assert not (tmp_path / "worker-dead").exists()
        other.close()
    assert not folder.exists()
    live.close()
    assert found_in(tmp_path) == []


async def test_other_jobs_go_on_while_a_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training leaves gigabytes, which take a file system half a second; a portrait must not wait for that."""

    def deleted_slowly(folder: Path, ignore_errors: bool) -> None:
        time.sleep(0.5)
        delete(folder, ignore_errors=ignore_errors)

    async def longest_wait() -> float:
        longest = 0.0
        while folder.exists():
            asked = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - asked)
        return longest

    workspace, delete = Workspace(tmp_path / "work"), shutil.rmtree
    monkeypatch.setattr("gpu_worker.workspace.shutil.rmtree", deleted_slowly)
    async with workspace.job_folder(lease().claim) as folder:
        other = asyncio.create_task(longest_wait())
        await asyncio.sleep(0)
    assert not folder.exists()
    assert await other < 0.3
