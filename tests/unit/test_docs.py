"""What the docs name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
MAX_PICTURE_BYTES = 150_000


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_pictures_and_pages_that_are_linked_exist(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


def test_tests_that_the_flows_name_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "chat-flows.md").read_text(encoding="utf-8")))
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert not [name for name in named if f"def {name}(" not in source]


def test_pictures_of_the_flows_are_small() -> None:
    pictures = [*(ROOT / "docs" / "img").glob("telegram-*.jpg")]
    assert pictures
    assert not [picture.name for picture in pictures if picture.stat().st_size > MAX_PICTURE_BYTES]
