"""What the documents say of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def tests_there_are() -> set[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
    return set(re.findall(r"def (test_\w+)", text)) | {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path, tests_there_are: set[str]) -> None:
    named = set(re.findall(r"`(?:[\w/]+\.py::)?(test_\w+)`", document.read_text(encoding="utf-8")))
    assert not named - tests_there_are
