"""What travels between bot and worker, and what names a blob or a setting: job payloads, events, keys, environment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from bot.settings import Settings
from gpu_worker.contract import codec
from gpu_worker.contract.blobs import BlobNotFound, open_blobs
from gpu_worker.contract.events import EVENT
from gpu_worker.contract.sealing import CannotOpen, MasterKeys, seal, unseal
from gpu_worker.settings import WorkerSettings
from tests.fuzz.mutations import NUMBERS, json_bytes, spoiled, text
from tests.unit.gpu_worker.test_contract import EVENTS, JOBS

SQL_INTEGER = 2**31
SECRETS = {
    *("PORTRAIT_TELEGRAM_TOKEN", "PORTRAIT_DISCORD_TOKEN", "PORTRAIT_MASTER_KEY"),
    *("PORTRAIT_DATABASE_URL", "PORTRAIT_REDIS_URL"),
}
BIG = datetime(2026, 11, 22, tzinfo=UTC)


class JobPayloads:
    name = "job payload"
    longest_s = 30.0

    def make(self, draw: Random) -> bytes:
        return json_bytes(draw, draw.choice(JOBS))

    def feed(self, made: bytes) -> str:
        try:
            job = codec.read_job(codec.from_bytes(made))
        except ValueError:  # pydantic's ValidationError is one
            return "refused"
        data = job.model_dump()
        assert 1 <= data["attempt"] < SQL_INTEGER
        for place in _texts(data):
            folder = Path("/work-dir/job")
            assert (folder / place).resolve().is_relative_to(folder), place
        assert codec.read_job(codec.from_bytes(codec.to_bytes(codec.job_payload(job)))) == job
        return "taken"

    def close(self) -> None: ...


class JobEvents:
    name = "job event"
    longest_s = 30.0

    def make(self, draw: Random) -> bytes:
        return json_bytes(draw, draw.choice(EVENTS))

    def feed(self, made: bytes) -> str:
        try:
            event = EVENT.validate_json(made)
        except ValidationError as error:
            error.errors(include_input=False)  # what the bot logs
            return "refused"
        data = event.model_dump(mode="json")
        assert json.loads(event.model_dump_json()) == data
        json.dumps(data, allow_nan=False)  # PostgreSQL takes no NaN
        for number in _numbers(data):
            assert isinstance(number, float) or -SQL_INTEGER <= number < SQL_INTEGER, number
        for words in _texts(data):
            assert "\0" not in words, "PostgreSQL takes no NUL"
            words.encode()
        return "taken"

    def close(self) -> None: ...


def _texts(data: Any) -> list[str]:
    if isinstance(data, str):
        return [data]
    parts = list(data.values()) if isinstance(data, dict) else list(data) if isinstance(data, list | tuple) else []
    return [found for part in parts for found in _texts(part)]


def _numbers(data: Any) -> list[int | float]:
    if isinstance(data, int | float) and not isinstance(data, bool):
        return [data]
    parts = list(data.values()) if isinstance(data, dict) else list(data) if isinstance(data, list | tuple) else []
    return [found for part in parts for found in _numbers(part)]


class BlobKeys:
    """A folder of blobs with a secret beside it: no key reads or deletes what is not under it."""

    name = "blob key"
    longest_s = 30.0

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-keys-")
        root = Path(self._folder.name)
        self._secret = root / "secret"
        self._secret.write_text("secret")
        (root / "blobs" / "users" / "u1" / "photos").mkdir(parents=True)
        self._photo = root / "blobs" / "users" / "u1" / "photos" / "photo1.jpg"
        self._photo.write_text("photo")
        self._blobs = open_blobs(str(root / "blobs"))
        self._loop = asyncio.new_event_loop()

    def make(self, draw: Random) -> str:
        kind = draw.random()
        if kind < 0.3:
            return text(draw)
        if kind < 0.7:
            parts = (
                "..",
                ".",
                "",
                "users",
                "u1",
                "u2",
                "photos",
                "photo1.jpg",
                "secret",
                "x" * 300,
                "a" * 255,
                text(draw),
            )
            return "/".join(draw.choice(parts) for _ in range(draw.randint(1, 6)))
        key = b"users/u1/photos/photo1.jpg"
        return spoiled(draw, key, (b"../secret", b"\n", b"//"), most=2).decode("utf-8", "replace")

    def feed(self, made: str) -> str:
        return self._loop.run_until_complete(self._feed(made))

    async def _feed(self, key: str) -> str:
        is_owner = "users/u1/photos/photo1.jpg".startswith(key)
        try:
            found = await self._blobs.get(key)
        except (ValueError, BlobNotFound) as error:
            outcome = "refused" if isinstance(error, ValueError) else "not there"
        else:
            assert found == b"photo"
            outcome = "found"
        try:
            await self._blobs.exists(key)
            listed = await self._blobs.keys(key)
            assert all(name.startswith("users/u1/") for name in listed)
            if not is_owner:
                assert await self._blobs.delete_prefix(key) == 0
        except ValueError:
            assert outcome == "refused"
        assert self._secret.exists()
        assert self._photo.exists()
        return outcome

    def close(self) -> None:
        self._loop.close()
        self._folder.cleanup()


class Environments:
    """Settings as an operator may mistype them: refused with a sentence that shows no secret, or usable."""

    name = "settings"
    longest_s = 30.0

    def __init__(self) -> None:
        kinds: tuple[type[BaseSettings], ...] = (Settings, WorkerSettings)
        self._names = sorted({f"PORTRAIT_{name.upper()}" for kind in kinds for name in kind.model_fields})

    def make(self, draw: Random) -> dict[str, str]:
        names = draw.sample(self._names, draw.randint(1, 4))
        return {name: f"{_setting(draw)}{'-secret-' + name if name in SECRETS else ''}" for name in names}

    def feed(self, made: dict[str, str]) -> str:
        with patch.dict(os.environ, made, clear=True):
            return f"{self._bot(made)}, {self._worker(made)}"

    def _bot(self, made: dict[str, str]) -> str:
        try:
            settings = Settings(_env_file=None)  # type: ignore[call-arg]
        except ValidationError as error:
            _hides_secrets(str(error.errors(include_input=False)), made)
            return "bot refused"
        _hides_secrets(repr(settings), made)
        for days in (settings.keep_collections_days, settings.keep_portraits_days, settings.keep_subjects_days):
            assert BIG - timedelta(days=days)
        assert 0 <= settings.quiet_s + settings.progress_every_s < timedelta(days=1).total_seconds()
        limits = (
            *(
                settings.trainings_per_day,
                settings.portraits_per_day,
                settings.open_portraits,
                settings.subjects_per_user,
            ),
            *(settings.own_templates_per_user, settings.max_file_bytes, settings.max_pixels),
        )
        assert all(limit < SQL_INTEGER for limit in limits)
        assert settings.log_level in ("DEBUG", "INFO", "WARNING", "ERROR")
        return "bot taken"

    def _worker(self, made: dict[str, str]) -> str:
        try:
            settings = WorkerSettings(_env_file=None)  # type: ignore[call-arg]
        except ValidationError as error:
            _hides_secrets(str(error.errors(include_input=False)), made)
            return "worker refused"
        _hides_secrets(repr(settings), made)
        spans = (
            "lease_s",
            "train_timeout_s",
            "portrait_timeout_s",
            "inspect_timeout_s",
            "start_timeout_s",
            "stop_grace_s",
            "report_every_s",
        )
        for span in spans:
            assert 0 <= getattr(settings, span) <= timedelta(days=365).total_seconds(), span
        assert settings.engine_memory_mib * 2**20 < 2**63
        return "worker taken"

    def close(self) -> None: ...


def _setting(draw: Random) -> str:
    kind = draw.random()
    if kind < 0.3:
        return str(draw.choice(NUMBERS))
    if kind < 0.4:
        return draw.choice(
            (
                "redis://:secretsecret@h:99999/x",
                "redis://[",
                "sqlite://",
                "s3://",
                "unix://",
                "postgresql+asyncpg://u:secretsecret@h/d",
            )
        )
    # The environment holds neither NUL nor what cannot be encoded.
    return text(draw).replace("\0", "").encode("utf-8", "replace").decode()[:5000]


def _hides_secrets(shown: str, made: dict[str, str]) -> None:
    for name in SECRETS & set(made):
        assert f"-secret-{name}" not in shown, name


class SealedBlobs:
    """What is stored, damaged or moved, and keys as jobs carry them: opened as it was, or not at all."""

    name = "sealed blob"
    longest_s = 30.0

    def __init__(self) -> None:
        self._key, self._master = bytes(range(32)), MasterKeys((bytes(32),))
        self._data = b"a person's photo " * 20
        self._sealed = seal(self._data, self._key, "users/u1/photos/photo1.jpg")
        self._wrapped = self._master.wrap(self._key)

    def make(self, draw: Random) -> tuple[bytes, str, str]:
        kind = draw.random()
        sealed = (
            self._sealed if kind < 0.2 else spoiled(draw, self._sealed, (self._sealed, b"portrait-sealed-1\n"), most=2)
        )
        name = (
            "users/u1/photos/photo1.jpg"
            if draw.random() < 0.8
            else draw.choice(("users/u2/photos/photo1.jpg", text(draw)))
        )
        letters = "ABCDwxyz0189_=-"
        wrapped = self._wrapped
        for _ in range(draw.randint(0, 3)):
            at = draw.randrange(len(wrapped))
            wrapped = wrapped[:at] + draw.choice(letters) + wrapped[at + 1 :]
        if draw.random() < 0.2:
            wrapped = f"{wrapped[:8]}.{''.join(draw.choice(letters) for _ in range(80))}"
        return sealed, name.encode("utf-8", "replace").decode(), wrapped

    def feed(self, made: tuple[bytes, str, str]) -> str:
        sealed, name, wrapped = made
        try:
            opened = unseal(sealed, self._key, name) == self._data
            assert opened
            assert name == "users/u1/photos/photo1.jpg"
        except CannotOpen:
            opened = False
        try:
            is_ours = self._master.unwrap(wrapped) == self._key
            assert is_ours
        except CannotOpen:
            is_ours = False
        with contextlib.suppress(ValueError):
            MasterKeys.read(name)
        return f"blob {'opened' if opened else 'refused'}, key {'opened' if is_ours else 'refused'}"

    def close(self) -> None: ...
