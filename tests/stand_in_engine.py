"""An engine for tests of everything around it: fast, without any model, and bad on demand.

It behaves as the real one towards its worker: reports steps, stops between two of them, writes checkpoints and resumes
from them, makes pictures. A photo (or template) that begins with `DO <what>` instead of a picture makes it misbehave:

    DO crash          dies of a signal, every time
    DO crash once     dies, unless the job's folder shows that it did already
    DO hang           neither ends nor hears a stop
    DO refuse         UnusablePhotos
    DO eat            takes more memory than there is
    DO fail           an error that nobody foresaw
    DO take <n>       trains n steps of 50 ms instead of 4 (none, where it is further already), or makes each
                      portrait in n instead of 3
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from PIL import Image

from engine.errors import OutOfGpuMemory, UnusablePhotos
from engine.progress import Progress, Report, Stage
from engine.types import PhotoReport, Reason, Verdict
from gpu_worker.contract.events import (
    AnyResult,
    Checkpoint,
    CheckTemplateResult,
    InspectResult,
    PhotoVerdict,
    PortraitFile,
    PortraitResult,
    Scores,
    TemplateFace,
    TrainResult,
)
from gpu_worker.contract.jobs import CheckTemplate, InspectPhotos, MakePortraits, TrainSubject
from gpu_worker.engine_child import Runner
from gpu_worker.engine_messages import Expected, Run

# Environment variables.
STARTS = "STAND_IN_STARTS"  # a file that gets a line for each start of a process that renders: what it is to expect
NO_ROOM = "STAND_IN_NO_ROOM"  # renders do not fit into the GPU's memory
HELD = "STAND_IN_HELD"  # no process gets ready while there is this file

STEP_S = 0.05
STEPS_PER_CHECKPOINT = 5


def load_checks(profile: str, device: str, expected: Expected) -> Runner:
    _wait_while_held()
    return _run


def load_renders(profile: str, device: str, expected: Expected) -> Runner:
    if STARTS in os.environ:
        with Path(os.environ[STARTS]).open("a", encoding="utf-8") as file:
            file.write(expected.model_dump_json() + "\n")
    if NO_ROOM in os.environ:
        raise OutOfGpuMemory("the GPU's free memory is too little for a portrait")
    _wait_while_held()
    return _run


def _wait_while_held() -> None:
    while os.path.exists(os.environ.get(HELD, "")):
        time.sleep(0.02)


def _run(request: Run, tell: Report) -> AnyResult:
    match request.job:
        case InspectPhotos() as job:
            return _inspect(job, request.folder)
        case CheckTemplate():
            return _check_template(request.folder)
        case TrainSubject() as job:
            return _train(job, request, tell)
        case MakePortraits() as job:
            return _portraits(job, request, tell)


def _check_template(folder: Path) -> CheckTemplateResult:
    """One face; a picture that is much wider than high shows two."""
    path = folder / "template.jpg"
    _obey(_order_in(path), folder)
    width, height = Image.open(path).size
    lefts = (0.1, 0.6) if width > 1.5 * height else (0.3,)
    return CheckTemplateResult(faces=tuple(TemplateFace(box_xyxy=(left, 0.2, left + 0.3, 0.6)) for left in lefts))


def _order_in(path: Path) -> str:
    data = path.read_bytes()
    return data.decode().removeprefix("DO ") if data.startswith(b"DO ") else ""


def _order(folder: Path) -> str:
    return next((order for path in sorted((folder / "photos").iterdir()) if (order := _order_in(path))), "")


def _obey(order: str, folder: Path) -> None:
    mark = folder / "crashed"
    if order == "crash" or (order == "crash once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    if order == "hang":
        time.sleep(3600)
    if order == "eat":
        bytearray(4_000_000_000)
    if order == "fail":
        raise RuntimeError("nobody foresaw this")
    if order == "refuse":
        names = [path.name for path in sorted((folder / "photos").iterdir())]
        raise UnusablePhotos(0, 5, [PhotoReport(name, Verdict.REFUSED, Reason.NO_FACE) for name in names])


def _steps(order: str, usual: int) -> int:
    return int(order.split()[1]) if order.startswith("take ") else usual


def _inspect(job: InspectPhotos, folder: Path) -> InspectResult:
    _obey(_order(folder), folder)
    verdicts = tuple(PhotoVerdict(photo_id=photo.photo_id, verdict="ok") for photo in job.photos)
    return InspectResult(photos=verdicts, usable=len(verdicts), reference=verdicts[0].photo_id)


def _train(job: TrainSubject, request: Run, tell: Report) -> TrainResult:
    order = _order(request.folder)
    tell(Progress(Stage.INSPECT, 1, 1))
    _obey(order, request.folder)
    first_look = request.folder / "first-look.jpg"
    _picture(first_look)
    tell(Progress(Stage.PREVIEW, 1, 1, first_look))
    steps = _steps(order, usual=4)
    state = request.folder / "checkpoints" / "state.json"
    begin = json.loads(state.read_text())["step"] if state.exists() else 0
    out = request.folder / "out"
    for step in range(begin + 1, steps + 1):
        tell(Progress(Stage.TRAIN, step, steps))
        time.sleep(STEP_S)
        if step % STEPS_PER_CHECKPOINT == 0:
            hidden = state.with_name(f".{state.name}")
            hidden.write_text(json.dumps({"step": step}))
            hidden.rename(state)
            preview = request.folder / f"preview-{step}.jpg"
            _picture(preview)
            tell(Progress(Stage.VALIDATE, step, steps, preview))
    (out / "lora.safetensors").write_bytes(b"weights")
    _picture(out / "reference.jpg")
    _picture(out / "card.jpg")
    (out / "subject.json").write_text(json.dumps({"resumed_at": begin}))
    return TrainResult(
        photos=tuple(PhotoVerdict(photo_id=photo.photo_id, verdict="ok") for photo in job.photos),
        usable=len(job.photos),
        held_out=(job.photos[0].photo_id,),
        steps=max(steps - begin, 0),
        checkpoints=(Checkpoint(step=steps, likeness=0.8),),
        likeness=0.8,
        recogniser="stand-in",
        files_prefix=request.prefix,
        preview_key=f"{request.prefix}/reference.jpg",
        card_key=f"{request.prefix}/card.jpg",
        seconds={"train": max(steps - begin, 0) * STEP_S},
    )


def _portraits(job: MakePortraits, request: Run, tell: Report) -> PortraitResult:
    template = request.folder / ("template.jpg" if job.template_key else "out/template.jpg")
    if job.template_to_paint:
        _picture(template)
    order = _order_in(template)
    _obey(order, request.folder)
    steps = _steps(order, usual=3)
    for sitter in job.sitters:
        (request.folder / "subjects" / sitter.subject_id / "lora.safetensors").read_bytes()
    for number in range(job.count):
        for done in range(steps):
            tell(Progress(Stage.FIRST_DIFFUSION, done, steps, part=number, parts=job.count))
            time.sleep(STEP_S)
        _picture(request.folder / "out" / f"portrait-{number + 1}.jpg")
    files = tuple(
        PortraitFile(
            key=f"{request.prefix}/portrait-{number + 1}.jpg",
            width=64,
            height=64,
            likeness=0.7 if number == 0 else None,
            scores=Scores(likeness=0.7, quality=1.0, seam=1.0, worth=0.35),
            seed=job.seed + number,
        )
        for number in range(job.count)
    )
    painted = f"{request.prefix}/template.jpg" if job.template_to_paint else None
    return PortraitResult(portraits=files, seconds={"first_diffusion": 0.1}, template_key=painted)


def _picture(path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(path, "JPEG")
