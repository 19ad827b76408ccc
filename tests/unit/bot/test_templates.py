"""The built-in templates: a picture dropped into a folder is one."""

from __future__ import annotations

from pathlib import Path

from bot.templates import by_category, load_templates
from gpu_worker.contract.folder_blobs import FolderBlobs
from tests.fakes import jpeg


def drop(folder: Path, name: str, about: str | None = None) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg())
    if about is not None:
        path.with_suffix(".json").write_text(about, "utf-8")


def test_a_picture_alone_is_a_template(tmp_path: Path) -> None:
    drop(tmp_path, "studio/warm-light.jpg")
    (template,) = load_templates(tmp_path).templates
    assert (template.template_id, template.category, template.title["en"]) == ("warm-light", "studio", "Warm light")


def test_titles_come_from_the_file_beside_it(tmp_path: Path) -> None:
    drop(tmp_path, "film/rain.jpg", '{"title": {"en": "Rain", "zh": "雨"}}')
    found = load_templates(tmp_path)
    assert found.find("rain") is found.find(" RAIN ") is found.find("雨") is found.templates[0]
    assert found.find("snow") is None


def test_what_cannot_be_a_template_is_left_out(tmp_path: Path) -> None:
    drop(tmp_path, "film/rain.jpg", "{not json")
    drop(tmp_path, "film/Ümläut.jpg")
    drop(tmp_path, "own/mine.jpg")
    drop(tmp_path, "id/rain.jpg")
    drop(tmp_path, "film/notes.txt")
    assert [template.category for template in load_templates(tmp_path).templates] == ["film"]


async def test_workers_find_the_pictures_among_the_blobs(tmp_path: Path) -> None:
    drop(tmp_path / "gallery", "film/rain.jpg")
    found, blobs = load_templates(tmp_path / "gallery"), FolderBlobs(tmp_path / "blobs")
    await found.publish(blobs)
    assert await blobs.get(found.templates[0].key) == jpeg()


def test_the_gallery_that_is_shipped_can_be_loaded() -> None:
    found = load_templates()
    assert len(found.templates) >= 8
    assert all(set(template.title) == {"en", "zh"} for template in found.templates)
    assert len(by_category(found.templates)) >= 3
