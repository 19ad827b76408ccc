"""What is on the wire: a change that breaks one of these breaks jobs that are queued while a release is rolled out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gpu_worker import failures
from gpu_worker.contract import codec, events, jobs
from gpu_worker.contract.blobs import job_prefix, photo_key, subject_prefix

ENVELOPE: dict[str, Any] = {
    "version": 1, "job_id": "job001", "attempt": 1, "run": 2, "seq": 3, "at": 1.5, "worker": "host-cpu-1",
}  # fmt: skip
PHOTO = {"photo_id": "photo1", "key": "users/u1/photos/photo1.jpg"}
VERDICT = {"photo_id": "photo1", "verdict": "refused", "reason": "no_face", "measures": {"width_px": 40.0}}

KEY = "0123abcd." + "k" * 80

JOBS: list[dict[str, Any]] = [
    {"version": 1, "job_id": "job001", "attempt": 1, "user_key": KEY, "kind": "inspect", "photos": [PHOTO]},
    {
        "version": 1,
        "job_id": "job001",
        "attempt": 2,
        "user_key": KEY,
        "kind": "check_template",
        "template_key": "users/u1/t.jpg",
    },
    {
        "version": 1,
        "job_id": "job001",
        "attempt": 1,
        "user_key": KEY,
        "kind": "train",
        "subject_id": "subj01",
        "photos": [PHOTO],
        "output_prefix": "users/u1/subjects/subj01",
        "seed": 7,
        "preview_template_key": None,
    },
    {
        "version": 1,
        "job_id": "job001",
        "attempt": 1,
        "user_key": KEY,
        "kind": "portrait",
        "subject_id": "subj01",
        "subject_prefix": "users/u1/subjects/subj01/1-1",
        "faces": [],
        "template_key": "templates/a.jpg",
        "template_to_paint": None,
        "output_prefix": "users/u1/jobs/job001",
        "style": "natural",
        "count": 2,
        "seed": 7,
    },
]
SITTERS = [{"subject_id": f"subj0{n}", "subject_prefix": f"users/u1/subjects/subj0{n}/1-1"} for n in range(1, 7)]

EVENTS: list[dict[str, Any]] = [
    {**ENVELOPE, "event": "started"},
    {
        **ENVELOPE, "event": "progress", "stage": "train", "done": 1, "total": 4, "fraction": 0.25,
        "preview_key": None,
    },
    {
        **ENVELOPE, "event": "failed", "kind": "user", "reason": "too_few_photos", "photos": [VERDICT], "detail": "",
    },
    {
        **ENVELOPE, "event": "succeeded",
        "result": {"kind": "inspect", "photos": [VERDICT], "usable": 0, "reference": None},
    },
    {
        **ENVELOPE, "event": "succeeded",
        "result": {"kind": "check_template", "faces": [{"box_xyxy": [0.1, 0.1, 0.5, 0.5]}], "reason": None},
    },
    {
        **ENVELOPE, "event": "succeeded",
        "result": {
            "kind": "train", "photos": [VERDICT], "usable": 5, "held_out": ["photo1"], "steps": 800,
            "checkpoints": [{"step": 100, "likeness": 0.5}], "likeness": 0.6, "real_likeness": 0.7,
            "recogniser": "dlib", "files_prefix": "users/u1/subjects/subj01/1-1",
            "preview_key": "users/u1/subjects/subj01/1-1/reference.jpg",
            "card_key": "users/u1/subjects/subj01/1-1/card.jpg", "report_key": None,
            "seconds": {"train": 60.0}, "peak_mib": 900.0,
        },
    },
    {
        **ENVELOPE, "event": "succeeded",
        "result": {
            "kind": "portrait",
            "portraits": [
                {
                    "key": "users/u1/jobs/job001/1-1/p.jpg", "width": 10, "height": 20, "likeness": 0.5,
                    "notes": ["fusion_skipped"], "report_key": None,
                    "scores": {"likeness": 0.5, "quality": 0.9, "seam": 1.2, "worth": 0.2}, "seed": 7,
                }
            ],
            "seconds": {"fuse": 1.0},
            "skipped": [{"face": 1, "subject_id": "subj02", "reason": "face_failed"}],
            "template_key": "users/u1/jobs/job001/1-1/template.jpg",
        },
    },
]  # fmt: skip


@pytest.mark.parametrize("wire", JOBS, ids=lambda job: str(job["kind"]))
def test_a_job_on_the_wire_is_read_and_written_unchanged(wire: dict[str, Any]) -> None:
    job = codec.read_job(codec.from_bytes(json.dumps(wire).encode()))
    assert codec.from_bytes(codec.to_bytes(codec.job_payload(job))) == wire


@pytest.mark.parametrize("wire", EVENTS, ids=lambda event: str(event["event"]))
def test_an_event_on_the_wire_is_read_and_written_unchanged(wire: dict[str, Any]) -> None:
    assert json.loads(events.EVENT.validate_json(json.dumps(wire)).model_dump_json()) == wire


@pytest.mark.parametrize("changed", [{"version": 2}, {"kind": "video"}, {"job_id": "../x"}, {"surprise": 1}])
def test_a_job_of_another_version_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        codec.read_job({**JOBS[0], **changed})


def portrait(**changed: Any) -> jobs.MakePortraits:
    job = codec.read_job({**JOBS[3], **changed})
    assert isinstance(job, jobs.MakePortraits)
    return job


def test_a_job_from_before_there_were_groups_is_read() -> None:
    old = {key: value for key, value in JOBS[3].items() if key not in ("faces", "template_to_paint")}
    assert codec.read_job(old) == codec.read_job(JOBS[3])


def test_everybody_in_a_portrait_is_named_once() -> None:
    assert [sitter.subject_id for sitter in portrait().sitters] == ["subj01"]
    group = portrait(faces=[None, SITTERS[0], SITTERS[1], SITTERS[0]])
    assert [sitter.subject_id for sitter in group.sitters] == ["subj01", "subj02"]


@pytest.mark.parametrize(
    "changed",
    [
        {"faces": [None, None]},
        {"faces": SITTERS},
        {"faces": [SITTERS[1], SITTERS[0]]},
        {"template_key": None},
        {"template_to_paint": {"prompt": "a forest"}},
        {"template_key": None, "template_to_paint": {"prompt": " ", "recipe": ""}},
        {"template_key": None, "template_to_paint": {"recipe": "../secret"}},
    ],
    ids=["nobody", "six", "another first", "no template", "two templates", "no words", "a path"],
)
def test_an_impossible_portrait_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        portrait(**changed)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.hidden", "a b", "a/ü", "a\n"])
def test_what_could_leave_the_store_is_no_blob_key(key: str) -> None:
    with pytest.raises(ValidationError):
        jobs.PhotoRef(photo_id="photo1", key=key)


def test_the_key_scheme_gives_blob_keys() -> None:
    for key in (photo_key("u1", "photo1"), subject_prefix("u1", "subj01"), job_prefix("u1", "job001")):
        jobs.PhotoRef(photo_id="photo1", key=key)


def test_every_kind_of_job_has_a_task_and_a_queue() -> None:
    kinds = {job["kind"] for job in JOBS}
    assert kinds == set(jobs.TASK_OF_KIND) == set(jobs.QUEUE_OF_KIND)


def test_the_reasons_of_the_table_are_the_reasons_of_the_contract() -> None:
    constants = {value.reason for value in vars(failures).values() if hasattr(value, "reason")}
    assert constants <= events.FAILURE_REASONS


def test_an_exception_among_arqs_data_becomes_text() -> None:
    assert codec.from_bytes(codec.to_bytes({"r": ValueError("x")})) == {"r": "x"}
