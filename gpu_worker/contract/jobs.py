"""Jobs: one unit of work for a worker, as meaning (photos, style, count), never as sampler settings.

A job travels through arq as JSON under the task name of its kind. The same job may be delivered more than once; the
pair (`job_id`, `attempt`) names one decision of the bot to have it run.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from gpu_worker.contract.blobs import KEY_PATTERN

CONTRACT_VERSION: Final = 1

# Checks are short and answer people who are typing, a portrait takes seconds, a training minutes: none of them waits
# behind a longer kind (see gpu_worker/main.py).
CHECK_QUEUE = "portrait:check"
PORTRAIT_QUEUE = "portrait:portrait"
TRAIN_QUEUE = "portrait:train"
QUEUES = (CHECK_QUEUE, PORTRAIT_QUEUE, TRAIN_QUEUE)

Id = Annotated[str, Field(pattern=r"^[0-9a-z]{6,40}$")]
BlobKey = Annotated[str, Field(pattern=f"^{KEY_PATTERN}$", max_length=300)]
Count = Annotated[int, Field(ge=0, lt=2**31)]  # what the tables' integers take
Style = Literal["natural", "polished", "strict"]

MORE_CANDIDATES: Final = 4  # of "more like this"; a worker makes itself ready for so many, too
MOST_PEOPLE: Final = 5  # subjects in one portrait
MOST_FACES: Final = 20  # of a template that are counted


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobBase(Message):
    version: Literal[1] = CONTRACT_VERSION
    job_id: Id
    attempt: Annotated[Count, Field(ge=1)] = 1
    # The key of the user's blobs, wrapped by the master key that the worker has too (contract/sealing.py). It is put in
    # when the job is queued, so that the database holds it in one place only.
    user_key: Annotated[str, Field(pattern=r"^[0-9a-f]{8}\.[0-9A-Za-z_=-]{80}$")] | None = None


class PhotoRef(Message):
    photo_id: Id
    key: BlobKey


class InspectPhotos(JobBase):
    """Verdict on every photo of a collection, together: who the subject is shows only in the set."""

    kind: Literal["inspect"] = "inspect"
    photos: tuple[PhotoRef, ...]


class CheckTemplate(JobBase):
    """Which faces a user's own template shows, before anybody waits for a portrait in it."""

    kind: Literal["check_template"] = "check_template"
    template_key: BlobKey


class TrainSubject(JobBase):
    """A LoRA of the person on the photos.

    Its files go to a folder of their own under `output_prefix`, one per run; the result says which (`files_prefix`).
    Before it learns anything the worker shows a first look, as the preview of a progress event of the stage "preview":
    the person's best photo fused into `preview_template_key`, or into a plain ID photo that suits them.
    """

    kind: Literal["train"] = "train"
    subject_id: Id
    photos: tuple[PhotoRef, ...]
    output_prefix: BlobKey
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    preview_template_key: BlobKey | None = None


class Sitter(Message):
    """Who sits for a face of a template. `subject_prefix` is the `files_prefix` of the training's result."""

    subject_id: Id
    subject_prefix: BlobKey


class TemplateToPaint(Message):
    """A template that does not exist yet: the worker paints it from a recipe of the engine, from words, or from both
    (the words then come first)."""

    recipe: Annotated[str, Field(pattern=r"^([a-z0-9_-]{1,40})?$")] = ""
    prompt: Annotated[str, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.recipe or self.prompt.strip()):
            raise ValueError("neither a recipe nor words")
        return self


class MakePortraits(JobBase):
    """`count` portraits in a template, all candidates of one request: the result has the best one first.

    `faces` says who goes into which face, in the order of `CheckTemplateResult.faces` (left to right); None, and faces
    beyond it, stay as they are. Empty: the one subject goes into the largest face.
    """

    kind: Literal["portrait"] = "portrait"
    subject_id: Id  # the subject; of several, the first
    subject_prefix: BlobKey
    faces: Annotated[tuple[Sitter | None, ...], Field(max_length=MOST_FACES)] = ()
    template_key: BlobKey | None = None
    template_to_paint: TemplateToPaint | None = None  # either this or `template_key`
    output_prefix: BlobKey
    style: Style = "natural"
    count: Annotated[int, Field(ge=1, le=8)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    @property
    def sitters(self) -> tuple[Sitter, ...]:
        """Everybody in the portrait, once each."""
        alone = Sitter(subject_id=self.subject_id, subject_prefix=self.subject_prefix)
        return tuple(dict.fromkeys(sitter for sitter in self.faces if sitter)) or (alone,)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if (self.template_key is None) == (self.template_to_paint is None):
            raise ValueError("exactly one of template_key and template_to_paint is needed")
        seated = [sitter for sitter in self.faces if sitter]
        if self.faces and not 1 <= len(seated) <= MOST_PEOPLE:
            raise ValueError(f"{len(seated)} faces with a subject, 1 to {MOST_PEOPLE} are possible")
        if seated and self.subject_id != seated[0].subject_id:
            raise ValueError("subject_id is not the first of the faces")
        return self


Job = Annotated[InspectPhotos | CheckTemplate | TrainSubject | MakePortraits, Field(discriminator="kind")]
JOB: TypeAdapter[InspectPhotos | CheckTemplate | TrainSubject | MakePortraits] = TypeAdapter(Job)
JobKind = Literal["inspect", "check_template", "train", "portrait"]

TASK_OF_KIND: dict[JobKind, str] = {
    "inspect": "inspect_photos",
    "check_template": "check_template",
    "train": "train_subject",
    "portrait": "make_portraits",
}
QUEUE_OF_KIND: dict[JobKind, str] = {
    "inspect": CHECK_QUEUE,
    "check_template": CHECK_QUEUE,
    "train": TRAIN_QUEUE,
    "portrait": PORTRAIT_QUEUE,
}


def arq_job_id(job_id: str, attempt: int) -> str:
    """The id under which one attempt stands in arq: enqueuing it twice is one job."""
    return f"{job_id}:{attempt}"


def cancel_key(job_id: str) -> str:
    """Redis key whose presence tells workers to drop or stop the job. The bot sets it, with a day to live."""
    return f"portrait:cancel:{job_id}"


def lease_key(job_id: str) -> str:
    """Redis key held by the worker that runs the job, with seconds to live. Its value is `<attempt>:<run>:<worker>`."""
    return f"portrait:lease:{job_id}"


def claims_key(job_id: str) -> str:
    """Redis hash that workers keep per job: `attempt` and `run` of the last claim, `seq` of its last event, `done`."""
    return f"portrait:claims:{job_id}"


EPOCH_KEY = "portrait:epoch"  # set once in an empty Redis: shows that it has forgotten everything since


def worker_key(worker_id: str) -> str:
    """Redis key (hash) refreshed by a live worker every few seconds: profile, device, one_engine, jobs, started_at."""
    return f"portrait:worker:{worker_id}"


WORKER_KEYS = "portrait:worker:*"
