"""The README's settings table and .env.example name exactly the settings that exist."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from bot.settings import Settings
from gpu_worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]


def rows() -> list[str]:
    """The table as it should be. When the test fails, paste these lines."""
    read_by: dict[str, tuple[str, str, list[str]]] = {}
    kinds: list[tuple[type[BaseSettings], str]] = [(Settings, "bot"), (WorkerSettings, "worker")]
    for kind, who in kinds:
        prefix = kind.model_config["env_prefix"]
        for name, field in kind.model_fields.items():
            variable = f"{prefix}{name}".upper()
            value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
            default = "" if value is None or field.is_required() else str(value)
            read_by.setdefault(variable, (default, field.description or "", []))[2].append(who)
    return [
        f"| `{variable}` | {f'`{default}`' if default else ''} | {'both' if len(who) == 2 else who[0]} | {text} |"
        for variable, (default, text, who) in sorted(read_by.items())
    ]


TABLE = ["| variable | default | read by | what it does |", "|---|---|---|---|"]


def test_the_readme_table_lists_every_setting() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- settings:begin.*?-->\n(.*?)<!-- settings:end -->", text, re.DOTALL)
    assert match
    assert match[1].strip().splitlines() == [*TABLE, *rows()]


def test_the_example_env_names_only_settings_that_exist() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^#?\s*(PORTRAIT_[A-Z0-9_]+)=", example, re.MULTILINE))
    known = {row.split("`")[1] for row in rows()}
    assert named
    assert not named - known
