"""Faults that feeding has found, each with the input that showed it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest
import telegram
import torch
from pydantic import ValidationError
from safetensors.torch import save

from bot.callback import ForgedButton, secret_of, unpack
from bot.db.database import open_database
from bot.db.migrate import upgrade
from bot.discord_chat.dialogs import submitted
from bot.parts import utc_now
from bot.sandbox.bot_api import BotApi
from bot.sandbox.calls import ApiError, Call
from bot.sandbox.markup import parse_html
from bot.sandbox.world import World
from bot.settings import Settings, WrongSettings, read_settings
from bot.telegram_chat.inbox import InboxQueue
from engine.lora import UnknownLora, load_kohya
from gpu_worker.contract import codec
from gpu_worker.contract.events import EVENT, Checkpoint, Failed, PhotoVerdict
from gpu_worker.contract.folder_blobs import FolderBlobs
from gpu_worker.contract.sealing import CannotOpen, MasterKeys
from gpu_worker.settings import WorkerSettings
from tests.conftest import ROOT
from tests.fuzz.chats import HeardApp
from tests.fuzz.lora_files import KOHYA
from tests.unit.gpu_worker.test_contract import ENVELOPE

SETTINGS: tuple[type[Settings | WorkerSettings], ...] = (Settings, WorkerSettings)


def test_a_payload_too_deep_to_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="deep"):
        codec.from_bytes(b"[" * 100_000)


@pytest.mark.parametrize("changed", [{"seq": 2**31}, {"attempt": -1}, {"run": 10**30}, {"at": float("inf")}])
def test_an_event_that_no_table_can_hold_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EVENT.validate_python({**ENVELOPE, "event": "started", **changed})


def test_measures_that_are_no_numbers_and_words_that_are_no_text_do_not_cost_the_result() -> None:
    assert Checkpoint(step=1, likeness=float("nan")).likeness is None
    measures = {"sharpness": float("inf"), "width_px": 3.0}
    assert PhotoVerdict(photo_id="photo1", verdict="ok", measures=measures).measures == {"width_px": 3.0}
    failed = Failed(**ENVELOPE, kind="permanent", reason="internal", detail="a\0b\ud800" + "x" * 10_000)
    assert failed.detail.startswith("ab?xxx")
    assert len(failed.model_dump_json()) < 5_000


@pytest.mark.parametrize("body", ["A===" * 20, "=" * 80, "A" * 77 + "===", ""])
def test_a_wrapped_key_that_is_none_does_not_open(body: str) -> None:
    keys = MasterKeys((bytes(32),))
    with pytest.raises(CannotOpen):
        keys.unwrap(f"{keys.names[0]}.{body}")


async def test_a_key_longer_than_a_file_name_is_no_key(tmp_path: Path) -> None:
    for key in ("a" * 300, "users/" + "b" * 250, "/".join(["abcdefgh"] * 150)):
        with pytest.raises(ValueError, match="key"):
            await FolderBlobs(tmp_path).get(key)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEP_PORTRAITS_DAYS", "1e300"),
        ("KEEP_SUBJECTS_DAYS", "inf"),
        ("QUIET_S", "nan"),
        ("LOG_LEVEL", "loud"),
        ("OPEN_PORTRAITS", "9" * 30),
    ],
)
def test_a_setting_that_would_break_the_bot_later_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"PORTRAIT_{name}", value)
    with pytest.raises(WrongSettings, match=f"^PORTRAIT_{name}: ") as wrong:
        read_settings()
    assert value not in str(wrong.value)


@pytest.mark.parametrize("command", [["bot"], ["bot", "check"], ["gpu_worker"]], ids=" ".join)
def test_a_wrong_setting_is_a_line_and_no_traceback(tmp_path: Path, command: list[str]) -> None:
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PORTRAIT_LOG_LEVEL": "a secret in the wrong place"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode not in (0, None)
    said = done.stdout + done.stderr
    assert "PORTRAIT_LOG_LEVEL: " in said
    assert "Traceback" not in said
    assert "wrong place" not in said


def test_half_a_character_is_no_button() -> None:
    for data, person in (("1:use:\ud800:AAAAAAAA", "1"), ("1:use:x:\udfff", "1"), ("1:use:x:AAAAAAAA", "\ud800")):
        with pytest.raises(ForgedButton):
            unpack(data, person, secret_of("42:token"))


async def test_a_stored_update_that_cannot_be_read_stops_nobody_else() -> None:
    app = HeardApp()
    message = '{"message_id": 1, "date": 1, "chat": {"id": 7, "type": "private"}}'
    app.rows = {1: "[[", 2: '{"update_id": "x", "message": 7}', 3: f'{{"update_id": 3, "message": {message}}}'}
    queue = InboxQueue(app)
    assert await queue.replay(telegram.Bot("42:token")) == 1
    update = queue.get_nowait()
    assert isinstance(update, telegram.Update)
    assert update.update_id == 3


async def test_what_stays_in_the_inbox_does_not_stay_for_ever(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    await asyncio.to_thread(upgrade, url)
    db = open_database(url)
    async with db.transaction() as store:
        await store.mail.store("telegram", {1: "[["}, utc_now() - timedelta(days=4))
        await store.mail.store("telegram", {2: "{}"}, utc_now())
        await store.mail.delete_before(utc_now() - timedelta(days=3))
    async with db.transaction() as store:
        assert await store.mail.pending("telegram") == ["{}"]
    await db.close()


@pytest.mark.parametrize(
    "data",
    [
        {"custom_id": "photos", "components": True},
        {"custom_id": "photos", "components": ["x", {"component": 3}, {"component": {"custom_id": {}, "values": 1}}]},
        {"custom_id": [], "components": [], "resolved": []},
        {
            "components": [{"component": {"custom_id": "first", "values": ["5"]}}],
            "resolved": {"attachments": {"5": {"id": float("inf"), "filename": "x", "size": 1}}},
        },
        {
            "components": [{"component": {"custom_id": "first", "values": ["5", [], "6"]}}],
            "resolved": {
                "attachments": {"5": "x", "6": {"id": "6", "filename": 1, "size": "x", "url": 1, "proxy_url": 1}}
            },
        },
    ],
)
def test_a_dialog_of_another_shape_brings_nothing(data: Any) -> None:
    state = SimpleNamespace(http=None)
    found = submitted(cast("discord.Interaction[Any]", SimpleNamespace(data=data, _state=state)))
    assert found.attachments == ()
    assert not found.agrees


@pytest.mark.parametrize(
    "tensors",
    [
        {".lora_down.weight": torch.ones(()), ".lora_up.weight": torch.ones(())},
        {".lora_down.weight": torch.ones(4, 8), ".lora_up.weight": torch.ones(8, 5)},
        {".lora_down.weight": torch.ones(4, 8), ".lora_up.weight": torch.ones(8, 4), ".alpha": torch.ones(3)},
        {".lora_down.weight": torch.ones(4, 8), ".lora_up.weight": torch.full((8, 4), float("nan"))},
        {".lora_down.weight": torch.ones(4, 8), ".lora_up.weight": torch.full((8, 4), 1e30)},
        {".lora_down.weight": torch.ones(0, 8), ".lora_up.weight": torch.ones(8, 0)},
        {".lora_down.weight": torch.ones(4, 8), ".lora_up.weight": torch.ones(8, 4), ".dora_scale": torch.ones(8)},
    ],
    ids=["scalars", "two ranks", "many alphas", "nan", "too large", "empty", "dora"],
)
def test_a_lora_whose_matrices_do_not_fit_is_refused_with_a_sentence(tmp_path: Path, tensors: dict[str, Any]) -> None:
    file = tmp_path / "theirs.safetensors"
    file.write_bytes(save({KOHYA + ending: tensor for ending, tensor in tensors.items()}))
    with pytest.raises(UnknownLora, match=r"^theirs\.safetensors is "):
        load_kohya(file)


async def test_the_sandbox_refuses_what_it_cannot_read_as_telegram_does(tmp_path: Path) -> None:
    api = BotApi(World(tmp_path))
    for method, parameters in (
        ("setMyCommands", {"commands": [3]}),
        ("deleteMessages", {"chat_id": 7, "message_ids": 5}),
    ):
        with pytest.raises(ApiError) as refused:
            await api.answer(Call(method, cast(dict[str, Any], parameters)))
        assert refused.value.code == 400
    assert parse_html("\ud800 <b>x</b>")[0] == "\ud800 x"
