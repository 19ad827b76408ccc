"""Job events: what a worker reports, on a Redis stream that the bot reads with a consumer group.

Events of one job are ordered by (`attempt`, `run`, `seq`). `attempt` is the bot's count of decisions to run the job,
`run` the count of claims of that attempt (a worker that was killed is followed by one with the next run), `seq` counts
up within a run. A reader drops every event whose (attempt, run) is older than one it has seen: that fences off a worker
that was paused and woke up after another had taken over.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from gpu_worker.contract.jobs import BlobKey, Count, Id, Message

EVENT_STREAM = "portrait:events"
EVENT_FIELD = "event"  # the one field of a stream entry; its value is the event's JSON
EVENT_GROUP = "bot"

EVENT_STREAM_LENGTH = 20_000  # entries kept, roughly; a bot that was away longer finds the truth by reconciling

FailureKind = Literal["user", "transient", "permanent", "cancelled"]

# Every `Failed.reason` that a worker gives; bot/texts.py has words for each (a test compares).
FAILURE_REASONS = frozenset(
    {
        "too_few_photos",  # user: `Failed.photos` says what is wrong with which
        "too_many_photos",  # user
        "no_face_in_template",  # user
        "unreadable",  # user: a picture cannot be decoded
        "unsafe_content",  # user: no candidate is fit to be shown (nudity); only where the profile has such a check
        "cancelled",  # cancelled
        "out_of_memory",  # transient
        "storage",  # transient: blobs cannot be reached
        "engine_died",  # permanent: the engine process crashed, and again in a fresh one
        "worker_died",  # permanent: worker after worker died while it ran this job
        "timeout",  # permanent
        "missing_weights",  # permanent, until somebody fetches them
        "input_missing",  # permanent: a photo, template or subject is not there any more
        "contract_version",  # permanent: the bot speaks another version than this worker
        "internal",  # permanent: a mistake of ours
    }
)


MAX_NOTE = 4000  # characters


def _finite(measured: Any) -> Any:
    """None for a measure that is no number: JSON has no word for it, and PostgreSQL refuses it."""
    return None if isinstance(measured, float) and not math.isfinite(measured) else measured


def _finite_ones(measures: Any) -> Any:
    return {k: v for k, v in measures.items() if _finite(v) is not None} if isinstance(measures, dict) else measures


def _storable(words: Any) -> Any:
    """Words of libraries, as far as every database and log takes them."""
    return words.replace("\0", "").encode("utf-8", "replace").decode()[:MAX_NOTE] if isinstance(words, str) else words


def _score(measured: Any) -> Any:
    """0 for what could not be measured: it ranks last."""
    return 0.0 if isinstance(measured, float) and not math.isfinite(measured) else measured


Score = Annotated[float, BeforeValidator(_score)]
Measure = Annotated[float | None, BeforeValidator(_finite)]
Note = Annotated[str, BeforeValidator(_storable)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]  # of a closed list, as reasons and stages are


class PhotoVerdict(Message):
    photo_id: Id
    verdict: Literal["ok", "warning", "refused"]
    reason: Word | None = None
    measures: Annotated[dict[str, float], BeforeValidator(_finite_ones)] = Field(default_factory=dict)


class InspectResult(Message):
    kind: Literal["inspect"] = "inspect"
    photos: tuple[PhotoVerdict, ...]
    usable: Count
    reference: Id | None = None


class TemplateFace(Message):
    box_xyxy: tuple[float, float, float, float]  # as shares of width and height, 0..1


class CheckTemplateResult(Message):
    kind: Literal["check_template"] = "check_template"
    faces: tuple[TemplateFace, ...]  # from left to right
    reason: Word | None = None  # why it cannot serve: "no_face", "too_small", "unreadable"


class Checkpoint(Message):
    step: Count
    likeness: Measure  # None: its renders show no face


class TrainResult(Message):
    kind: Literal["train"] = "train"
    photos: tuple[PhotoVerdict, ...]
    usable: Count
    held_out: tuple[Id, ...]
    steps: Count
    checkpoints: tuple[Checkpoint, ...]
    likeness: Measure  # merged LoRA to the held-out photos
    real_likeness: Measure = None  # between the subject's own photos: what 100 % would be
    recogniser: Note
    files_prefix: BlobKey | None = None  # where the subject's files lie: the `subject_prefix` of its portraits
    preview_key: BlobKey | None = None  # a picture for the chat
    card_key: BlobKey | None = None  # how the training went, drawn for the person (engine/training_card.py)
    report_key: BlobKey | None = None  # the engine's full report, JSON
    seconds: dict[str, float]
    peak_mib: Measure = None


class Scores(Message):
    """By what candidates are ranked. `worth` is likeness x quality / (1 + seam), the mean over several people."""

    likeness: Score  # to the reference photos, 1 is identical
    quality: Score  # sharpness of the face, 1 is the template's or better
    seam: Score  # colour step at the face's rim, in delta E; 0 is as seamless as the template
    worth: Score


class PortraitFile(Message):
    key: BlobKey  # JPEG for the chat
    width: Count
    height: Count
    likeness: Measure = None  # to held-out photos; measured on the best one only, the mean over several people
    notes: tuple[Note, ...] = ()  # what the engine did not do and why, for logs and reports
    report_key: BlobKey | None = None
    scores: Scores | None = None
    seed: Count | None = None  # of its noise


# Every `SkippedFace.reason` that a worker gives; bot/texts has words for each (a test compares).
SKIP_REASONS = frozenset(
    {
        "no_such_face",  # the template has fewer faces
        "subject_unreadable",  # no photo of the subject shows a face any more
        "face_failed",  # the pipeline could not do this face
    }
)


class SkippedFace(Message):
    """A face of the template that stayed as it was although somebody was to go there."""

    face: Count  # index in MakePortraits.faces
    subject_id: Id
    reason: Word


class PortraitResult(Message):
    """`portraits` are the candidates, best first. A face that could not be done is `skipped`, the others are there."""

    kind: Literal["portrait"] = "portrait"
    portraits: tuple[PortraitFile, ...]
    seconds: dict[str, float]  # of each stage; "files": writing them; "all": the engine's time from job to result
    skipped: tuple[SkippedFace, ...] = ()
    template_key: BlobKey | None = None  # of a template that was painted for this request


AnyResult = InspectResult | CheckTemplateResult | TrainResult | PortraitResult
Result = Annotated[AnyResult, Field(discriminator="kind")]
RESULT: TypeAdapter[AnyResult] = TypeAdapter(Result)


class EventBase(Message):
    version: Literal[1] = 1
    job_id: Id
    attempt: Count
    run: Count
    seq: Count
    at: float  # seconds since the epoch, the worker's clock: for display, never for order
    worker: Note


class Started(EventBase):
    event: Literal["started"] = "started"


class Progress(EventBase):
    event: Literal["progress"] = "progress"
    stage: Word
    done: Count
    total: Count
    fraction: Annotated[float, Field(ge=0, le=1)]  # of the whole job
    preview_key: BlobKey | None = None


class Succeeded(EventBase):
    event: Literal["succeeded"] = "succeeded"
    result: Result


class Failed(EventBase):
    """`reason` is a code from a closed list with words in bot/texts.py; `detail` is for logs, never shown."""

    event: Literal["failed"] = "failed"
    kind: FailureKind
    reason: Word
    photos: tuple[PhotoVerdict, ...] = ()
    detail: Note = ""


Event = Annotated[Started | Progress | Succeeded | Failed, Field(discriminator="event")]
EVENT: TypeAdapter[Started | Progress | Succeeded | Failed] = TypeAdapter(Event)
