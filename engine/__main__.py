"""The engine without bot, queue or database: `python -m engine inspect|train|portrait|recipes|lora|models|bench`.

Standard output holds one JSON object; everything else goes to standard error. The exit status is 0, or 1 with one
sentence about what is wrong, or 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import bench, models_cli
from engine.errors import EngineError
from engine.progress import Progress, Report, silent

if TYPE_CHECKING:
    from engine.profiles import Profile

PICTURES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff", ""}

Json = dict[str, Any]


class Unusable(Exception):
    """A sentence for the person at the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if "models_command" in options:
        return models_cli.run(options)
    # Torch's threads otherwise spin while they wait for each other: on busy cores that costs several times the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    command: Callable[[argparse.Namespace], Json] = options.command
    try:
        with _quiet_stdout():
            result = command(options)
    except (EngineError, Unusable) as error:
        print(f"{type(error).__name__}: {error}" if not str(error) else str(error), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'the result'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(json.dumps(result, ensure_ascii=False, indent=None if options.json else 2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description=__doc__.splitlines()[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON object on one line, and no progress")
    common.add_argument("--profile", default="mini", help="which models to use (default: %(default)s)")
    common.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    commands = parser.add_subparsers(required=True, metavar="command")

    inspect = commands.add_parser("inspect", parents=[common], help="say which photos can be learned from")
    inspect.add_argument("photos", type=Path, metavar="DIR")
    inspect.set_defaults(command=_inspect)

    train = commands.add_parser("train", parents=[common], help="learn a person from 5 to 20 photos")
    train.add_argument("photos", type=Path, metavar="DIR")
    train.add_argument("out", type=Path, metavar="OUT")
    train.add_argument("--seed", type=int, help="same photos and seed, same LoRA")
    train.add_argument("--config", type=Path, metavar="FILE", help="JSON object with fields of TrainingConfig")
    train.add_argument("--checkpoints", type=Path, metavar="DIR", help="keep checkpoints here and resume from them")
    train.set_defaults(command=_train)

    portrait = commands.add_parser("portrait", parents=[common], help="put learned people into a template")
    portrait.add_argument("subject", type=Path, nargs="?", metavar="SUBJECT", help="who goes into the largest face")
    portrait.add_argument(
        "--subject",
        dest="subjects",
        action="append",
        metavar="SUBJECT|none",
        help="once per face, from left to right; none leaves that face as it is",
    )
    portrait.add_argument("template", type=Path, metavar="TEMPLATE")
    portrait.add_argument("out", type=Path, metavar="OUT.jpg")
    portrait.add_argument("--seed", type=int)
    portrait.add_argument("--config", type=Path, metavar="FILE", help="JSON object with fields of PortraitConfig")
    portrait.set_defaults(command=_portrait)

    recipes = commands.add_parser("recipes", parents=[common], help="list recipes of templates, or paint templates")
    recipes.add_argument("out", type=Path, nargs="?", metavar="OUT", help="gallery folder that gets what is painted")
    recipes.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these recipes, not all")
    recipes.add_argument("--folder", type=Path, metavar="DIR", help="your own recipes instead of the built-in ones")
    recipes.add_argument("--prompt", help="one template from these words, called `words`")
    recipes.add_argument("--seed", type=int)
    recipes.set_defaults(command=_recipes)

    lora = commands.add_parser("lora", help="LoRA files of other programs")
    directions = lora.add_subparsers(required=True, metavar="direction")
    for direction, explanation in (("export", "SUBJECT to a LoRA file"), ("import", "a LoRA file into SUBJECT")):
        one = directions.add_parser(direction, parents=[common], help=explanation)
        one.add_argument("subject", type=Path, metavar="SUBJECT")
        one.add_argument("file", type=Path, metavar="FILE.safetensors")
        one.set_defaults(command=_export_lora if direction == "export" else _import_lora)
        if direction == "export":
            one.add_argument("--layout", choices=("kohya", "diffusers"), default="kohya")
    models_cli.add_parser(commands)
    bench.add_parser(commands, common)
    return parser


def _inspect(options: argparse.Namespace) -> Json:
    from engine.inspection import examine_file, judge
    from engine.profiles import load_profile

    profile = load_profile(options.profile, options.device)
    files = _pictures(options.photos)
    findings = [examine_file(path, profile.detector, profile.recogniser) for path in files]
    inspection = judge(findings, profile.recogniser)
    photos = [{"file": r.file, "verdict": r.verdict, "reason": r.reason} for r in inspection.reports]
    reference = inspection.reference.photo.name if inspection.reference else None
    return {"photos": photos, "usable": len(inspection.usable), "reference": reference}


def _train(options: argparse.Namespace) -> Json:
    profile = _load(options)  # first: it prepares the libraries that training imports
    from engine.training import train_subject

    config = _changed(profile.training, options.config, options.seed)
    with contextlib.ExitStack() as stack:
        checkpoints = options.checkpoints or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = train_subject(_pictures(options.photos), options.out, profile, config, _progress(options), checkpoints)
    return report.as_json()


def _portrait(options: argparse.Namespace) -> Json:
    from engine.portraits import make_portrait_file

    if (options.subject is None) == (options.subjects is None):
        raise Unusable("name either one SUBJECT, or one --subject per face")
    who = options.subject or [None if name == "none" else Path(name) for name in options.subjects]
    if isinstance(who, list) and not any(who):
        raise Unusable("no --subject names a subject")
    profile = _load(options)
    config = _changed(profile.portrait, options.config, options.seed)
    result: Json = make_portrait_file(who, options.template, options.out, profile, config, _progress(options))
    return result


def _recipes(options: argparse.Namespace) -> Json:
    from engine import text_to_photo

    folder = options.folder or text_to_photo.RECIPES
    names = options.only or text_to_photo.recipe_names(folder)
    changes = {} if options.seed is None else {"seed": options.seed}
    if options.prompt:
        recipes = {"words": text_to_photo.Recipe(prompt=options.prompt)}
    else:
        recipes = {name: text_to_photo.read_recipe(name, folder) for name in names}
    if options.out is None:
        return {"recipes": {name: recipe.model_dump(exclude_defaults=True) for name, recipe in recipes.items()}}
    wanted = {name: recipe.with_changes(**changes) for name, recipe in recipes.items()}
    return {"painted": text_to_photo.painted_gallery(wanted, options.out, _load(options))}


def _export_lora(options: argparse.Namespace) -> Json:
    from engine.lora import export_file

    if options.layout == "kohya":
        return export_file(options.subject, options.file)
    return export_file(options.subject, options.file, _load(options).diffusion)


def _import_lora(options: argparse.Namespace) -> Json:
    from engine.lora import import_file

    return import_file(options.file, options.subject)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise Unusable(f"{folder} is no folder")
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in PICTURES and p.name[0] != ".")
    if not files:
        raise Unusable(f"{folder} holds no pictures")
    return files


def _changed(config: Any, file: Path | None, seed: int | None) -> Any:
    changes: Json = {}
    if file is not None:
        try:
            changes = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Unusable(f"{file} cannot be read as JSON: {error}") from error
    if seed is not None:
        changes["seed"] = seed
    try:
        return config.with_changes(**changes)
    except ValueError as error:
        raise Unusable(f"{file or 'the seed'} does not fit: {error}") from error


def _load(options: argparse.Namespace) -> Profile:
    """The profile, its libraries told to draw no bars of their own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from engine.profiles import load_profile

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    return load_profile(options.profile, options.device)


def _progress(options: argparse.Namespace) -> Report:
    if options.json or not sys.stderr.isatty():
        return silent

    def show(progress: Progress) -> None:
        print(
            f"\r{progress.stage:<16} {progress.done:>4} of {progress.total}",
            end="\n" * (progress.done == progress.total),
            file=sys.stderr,
        )

    return show


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """What libraries print, C code included, goes to standard error: standard output is for the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
