"""The built-in templates: pictures in folders. Adding one is dropping a picture into `bot/gallery/<category>/`.

Beside `<id>.jpg` may lie `<id>.json` with {"title": {"en": …, "zh": …}}; without it the file's name is the title. A
picture of several people has "faces" there too: [[left, top, right, bottom], …] as shares of its size, left to right.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bot.domain import Box, Template
from gpu_worker.contract.blobs import BlobStore, built_in_template_key

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("gallery")
OWN = "own"  # the category of a person's own templates
_NAME = re.compile(r"[0-9a-z][0-9a-z_-]{0,15}")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class BuiltInTemplates:
    """In the order of the gallery: by category, then by file name."""

    templates: tuple[Template, ...]
    files: dict[str, Path]
    boxes: dict[str, tuple[Box, ...]] = field(default_factory=dict)  # of templates with several faces, left to right

    def find(self, template: str) -> Template | None:
        """By id, or by a title in any language, as a person would type it."""
        wanted = template.strip().casefold()
        for each in self.templates:
            if wanted in (each.template_id, *(title.casefold() for title in each.title.values())):
                return each
        return None

    async def publish(self, blobs: BlobStore) -> None:
        """Puts the pictures where workers and chats read them."""
        for template in self.templates:
            data = await asyncio.to_thread(self.files[template.template_id].read_bytes)
            if not await blobs.exists(template.key) or await blobs.get(template.key) != data:
                await blobs.put(template.key, data)


def numbered_key(template_key: str) -> str:
    """Where the template lies with numbers at its faces."""
    return f"{template_key.removesuffix('.jpg')}.faces.jpg"


def load_templates(folder: Path = FOLDER) -> BuiltInTemplates:
    """Raises nothing: what cannot be a template is named in the log and left out."""
    templates: list[Template] = []
    files: dict[str, Path] = {}
    boxes: dict[str, tuple[Box, ...]] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        category, name = path.parent.name, path.stem
        if not (_NAME.fullmatch(category) and _NAME.fullmatch(name)) or category == OWN or name in files:
            logger.warning("not a template: %s/%s (names: a-z, 0-9, -, at most 16, each once)", category, path.name)
            continue
        files[name] = path
        about = _about(path)
        if about.faces:
            boxes[name] = about.faces
        key = built_in_template_key(name)
        templates.append(Template(name, category, about.title, key, faces=max(len(about.faces), 1)))
    return BuiltInTemplates(tuple(templates), files, boxes)


def by_category(templates: Sequence[Template]) -> dict[str, list[Template]]:
    found: dict[str, list[Template]] = {}
    for template in templates:
        found.setdefault(template.category, []).append(template)
    return found


@dataclass(frozen=True)
class _About:
    title: dict[str, str]
    faces: tuple[Box, ...] = ()


def _about(path: Path) -> _About:
    """What stands beside the picture."""
    name = path.stem.replace("-", " ").replace("_", " ").capitalize()
    untitled = _About({"en": name, "zh": name})
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        title = {"en": str(about["title"]["en"]), "zh": str(about["title"]["zh"])}
        faces = [(float(a), float(b), float(c), float(d)) for a, b, c, d in about.get("faces", ())]
        return _About(title, tuple(faces) if len(faces) > 1 else ())
    except FileNotFoundError:
        return untitled
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read: %s", path.with_suffix(".json").name, error)
        return untitled
