"""`python -m engine models list|fetch|check`: what the catalogue holds, what of it is here, and how to get the rest."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.catalogue import DEFAULT_SET, Catalogue, Model, default_models_dir, load_catalogue
from engine.errors import EngineError
from engine.fetching import FetchFailed, Mirror, fetch, verify


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `models` with its own three commands."""
    models = subparsers.add_parser("models", help="list, fetch or check the networks of the production profile")
    commands = models.add_subparsers(dest="models_command", required=True)
    listing = commands.add_parser("list", help="every model with its licence, size and whether it is here")
    fetching = commands.add_parser("fetch", help="download what is missing")
    checking = commands.add_parser("check", help="say what is missing; exit status 1 if anything is")
    for command in (listing, fetching, checking):
        command.add_argument(
            "--dir",
            type=Path,
            default=default_models_dir(),
            help="folder of the models (default: PORTRAIT_MODELS_DIR or data/models)",
        )
    for command in (fetching, checking):
        command.add_argument("ids", nargs="*", metavar="ID", help="models (default: those of --set)")
        command.add_argument("--set", default=DEFAULT_SET, help=f"a set of the catalogue (default: {DEFAULT_SET})")
    listing.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    fetching.add_argument("--from", dest="mirror", type=Path, metavar="FOLDER", help="take files from this folder")
    fetching.add_argument("--hf-endpoint", metavar="URL", help="address instead of huggingface.co")
    fetching.add_argument("--ms-endpoint", metavar="URL", help="address instead of modelscope.cn")
    checking.add_argument("--hashes", action="store_true", help="read every file and compare its hash, too")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen command. 0: well; 1: something is missing or failed; 2: an unknown name."""
    catalogue = load_catalogue()
    if args.models_command == "list":
        _list(catalogue, args.dir, args.json)
        return 0
    try:
        models = catalogue.chosen(args.ids, args.set)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    if args.models_command == "fetch":
        return _fetch(models, args.dir, Mirror(args.mirror, args.hf_endpoint, args.ms_endpoint))
    return _check(models, args.dir, args.hashes)


def _list(catalogue: Catalogue, models_dir: Path, as_json: bool) -> None:
    if as_json:
        rows = [_row(model, catalogue, models_dir) for model in catalogue.models]
        print(json.dumps({"folder": str(models_dir), "models": rows}, indent=2))
        return
    for model in catalogue.models:
        size = f"{'' if model.size_is_exact else '~'}{model.about_mib} MiB"
        here = "not here" if model.missing(models_dir) else "here"
        sets = f" [{', '.join(_sets(model, catalogue))}]" if _sets(model, catalogue) else ""
        print(f"{model.id}: {model.role}, {size}, {here}{sets}")
        print(f"    {model.source.repo} @ {model.source.revision}" if model.is_on_a_hub else f"    {model.source.repo}")
        print(f"    {model.licence.name}; commercial use: {model.licence.commercial} ({model.licence.terms})")


def _row(model: Model, catalogue: Catalogue, models_dir: Path) -> dict[str, object]:
    return {
        "id": model.id,
        "role": model.role,
        "repository": model.source.repo,
        "revision": model.source.revision if model.is_on_a_hub else None,
        "licence": model.licence.model_dump(),
        "size_mib": model.about_mib,
        "size_is_exact": model.size_is_exact,
        "present": not model.missing(models_dir),
        "in_sets": _sets(model, catalogue),
    }


def _sets(model: Model, catalogue: Catalogue) -> list[str]:
    return [name for name, ids in catalogue.sets.items() if model.id in ids]


def _fetch(models: tuple[Model, ...], models_dir: Path, mirror: Mirror) -> int:
    failed = 0
    for number, model in enumerate(models, start=1):
        print(f"[{number}/{len(models)}] {model.id} ({model.about_mib} MiB; {model.licence.name})", flush=True)
        try:
            print("    fetched" if fetch(model, models_dir, mirror) else "    already here")
        except EngineError as error:
            failed += 1
            print(f"    {error}", file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - the hubs' clients raise anything; the other models go on
            failed += 1
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
            print(f"    {model.id} could not be fetched ({reason}): try again, or --from a folder", file=sys.stderr)
    return 1 if failed else 0


def _check(models: tuple[Model, ...], models_dir: Path, hashes: bool) -> int:
    found = {model.id: _trouble(model, models_dir, hashes) for model in models}
    for model_id, trouble in found.items():
        print(f"{model_id}: {trouble or 'complete'}")
    return 1 if any(found.values()) else 0


def _trouble(model: Model, models_dir: Path, hashes: bool) -> str | None:
    missing = model.missing(models_dir)
    if missing:
        return f"lacks {', '.join(missing)}: {model.remedy()}"
    if hashes:
        try:
            for file in model.files:
                verify(model.folder(models_dir) / file.path, file)
        except FetchFailed as error:
            return f"{error}: remove it and {model.remedy()}"
    return None
