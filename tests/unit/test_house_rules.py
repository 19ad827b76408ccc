"""Rules about the code itself: sizes, import effects, and agreements that cross packages without an import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bot", "gpu_worker", "engine", "migrations")
MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 500


def sources() -> list[Path]:
    return [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES, "file too long"
    long = [
        f"{f.name}: {f.end_lineno - f.lineno + 1} lines"
        for f in functions(ast.parse(text))
        if f.end_lineno is not None and f.end_lineno - f.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils.py", "helpers.py", "common.py", "manager.py", "misc.py"}
    assert not [p for p in sources() if p.name in empty]


def test_the_bot_imports_with_an_empty_environment_and_without_torch() -> None:
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in sources()
        if p.parts[len(ROOT.parts)] == "bot" and p.name != "__main__.py"
    ]
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "assert not {'torch', 'engine', 'cv2', 'dlib'} & set(sys.modules), 'the bot must stay light'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_worker_parent_never_loads_torch() -> None:
    code = (
        "import sys, gpu_worker.main\n"
        "assert not {'torch', 'cv2', 'dlib', 'sqlalchemy', 'telegram', 'discord'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_inspection_does_not_load_torch() -> None:
    code = (
        "import sys, engine.inspection, engine.profiles\n"
        "p = engine.profiles.load_profile('mini', 'cpu'); p.detector; p.recogniser\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
