"""docker-compose.yml comes up in an order in which everything finds what it needs, and sets only what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bot.settings import Settings
from gpu_worker.settings import WorkerSettings

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
WAITS_FOR = {
    "bot": {"redis": "service_healthy", "postgres": "service_healthy"},
    "worker": {"redis": "service_healthy", "models": "service_completed_successfully"},
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return read


def test_who_needs_something_waits_until_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waits = {
        name: {other: how["condition"] for other, how in service["depends_on"].items()}
        for name, service in services.items()
        if "depends_on" in service
    }
    assert waits == WAITS_FOR
    for others in waits.values():
        for other, condition in others.items():
            assert condition != "service_healthy" or "healthcheck" in services[other]


def test_everything_that_stays_is_watched(compose: dict[str, Any]) -> None:
    stays = {name: service for name, service in compose["services"].items() if service["restart"] == "unless-stopped"}
    assert set(stays) == {"redis", "postgres", "bot", "worker"}
    assert all("healthcheck" in service for service in stays.values())


def test_only_settings_that_exist_are_set(compose: dict[str, Any]) -> None:
    known = {f"PORTRAIT_{name}".upper() for kind in (Settings, WorkerSettings) for name in kind.model_fields}
    for service in compose["services"].values():
        named = {name for name in service.get("environment", {}) if name.startswith("PORTRAIT_")}
        assert named <= known


def test_bot_and_worker_share_key_queue_and_storage_and_the_worker_has_no_token(compose: dict[str, Any]) -> None:
    bot, worker = (compose["services"][name] for name in ("bot", "worker"))
    for name in ("PORTRAIT_MASTER_KEY", "PORTRAIT_REDIS_URL", "PORTRAIT_BLOBS_URL"):
        assert bot["environment"][name] == worker["environment"][name]
    assert "blobs:/blobs" in bot["volumes"]
    assert "blobs:/blobs" in worker["volumes"]
    assert "PORTRAIT_DATABASE_URL" not in worker["environment"]
    assert "env_file" not in worker, "tokens stand in that file"


def test_what_compose_asks_for_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert asked == {name for name in asked if re.search(rf"^{name}=", example, re.MULTILINE)}
