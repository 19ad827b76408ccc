"""The bot's settings: environment variables with the prefix PORTRAIT_, or the same names in a file `.env`.

Built once in `bot/__main__.py` and passed; nothing reads settings at import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bot.domain import Platform
from bot.replies import Terms

_MOST = 1_000_000  # of anything that a person may have or do
_MOST_BYTES = 2_000_000_000  # of a file or its pixels: what one process can hold
_CENTURY_DAYS = 36_500


class WrongSettings(Exception):
    """A line for the operator per setting that is wrong, without its value: it may be a secret."""


def read_settings() -> Settings:
    """From the environment and `.env`. Raises WrongSettings."""
    try:
        return Settings()
    except ValidationError as error:
        lines = (f"{_name(each['loc'])}: {each['msg']}" for each in error.errors(include_input=False))
        raise WrongSettings("\n".join(lines)) from None


def _name(place: tuple[int | str, ...]) -> str:
    return f"PORTRAIT_{'_'.join(map(str, place)).upper()}"


class Settings(BaseSettings):
    """What can be set from outside. Every field's description is its row in the README."""

    model_config = SettingsConfigDict(
        env_prefix="PORTRAIT_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    telegram_token: SecretStr | None = Field(None, description="Token from @BotFather. Empty: Telegram is off.")
    telegram_api_url: str = Field(
        "https://api.telegram.org", description="Server of the Telegram Bot API: the official one or a local one."
    )
    discord_token: SecretStr | None = Field(
        None, description="Token from the Discord developer portal. Empty: Discord is off."
    )
    discord_api_url: str = Field(
        "https://discord.com/api", description="Server of the Discord API: the official one, or a proxy before it."
    )
    data_dir: Path = Field(Path("data"), description="Folder for what has no address of its own.")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the database (SQLite or PostgreSQL). Empty: SQLite in the data folder."
    )
    migrate_at_start: bool = Field(True, description="Bring the database to the newest revision when the bot starts.")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey server of the queue: redis://, rediss:// or unix:// (a socket's path).",
    )
    blobs_url: str = Field(
        "./data/blobs", description="Where photos, LoRAs and portraits lie: a folder, or s3://bucket/prefix."
    )
    master_key: SecretStr | None = Field(
        None, description="Key that wraps every user's key, from `python -m bot keys new`; after a change: new and old."
    )
    master_key_file: Path | None = Field(
        None, description="File with that key instead. The bot makes `master.key` in its data folder without both."
    )
    portraits_per_job: int = Field(1, ge=1, le=8, description="Candidates made for one request of a portrait.")
    trainings_per_day: int = Field(
        5, ge=0, le=_MOST, description="Trainings a person may start in 24 hours; failed ones are free."
    )
    portraits_per_day: int = Field(
        50, ge=0, le=_MOST, description="Portraits a person may request in 24 hours; failed ones are free."
    )
    open_portraits: int = Field(
        3, ge=1, le=_MOST, description="Portrait requests of one person that may be open at once."
    )
    subjects_per_user: int = Field(5, ge=1, le=_MOST, description="Trained models a person may keep.")
    own_templates_per_user: int = Field(
        20, ge=1, le=_MOST, description="Templates of their own that a person may keep."
    )
    max_file_bytes: int = Field(
        20_000_000, ge=100_000, le=_MOST_BYTES, description="Largest picture file that is looked at."
    )
    max_pixels: int = Field(
        50_000_000, ge=1_000_000, le=_MOST_BYTES, description="Largest picture, width times height."
    )
    intake_processes: int = Field(2, ge=1, le=16, description="Pictures decoded at once, each in its own process.")
    progress_every_s: float = Field(
        3.0, ge=0.1, le=3600, description="Least seconds between two progress edits in one chat."
    )
    quiet_s: float = Field(
        1.0, ge=0, le=60, description="Seconds without a new photo after which an album is answered."
    )
    keep_photos: bool = Field(False, description="Keep a person's photos after a training that succeeded.")
    keep_collections_days: float = Field(
        2, gt=0, le=_CENTURY_DAYS, description="Untrained photos are deleted after this time."
    )
    keep_portraits_days: float = Field(30, gt=0, le=_CENTURY_DAYS, description="Portraits are deleted after this time.")
    keep_subjects_days: float = Field(
        90, gt=0, le=_CENTURY_DAYS, description="Trained models are deleted when unused for this time."
    )
    warn_days: float = Field(
        3, gt=0, le=_CENTURY_DAYS, description="People are told that something expires this long before."
    )
    job_attempts: int = Field(
        5, ge=1, le=20, description="Times that a lost job is started before it counts as failed."
    )
    admins: str = Field("", description="Who may use /admin: `telegram:123,discord:456`, ids of the platforms.")
    health_host: str = Field("127.0.0.1", description="Address of the health page; 0.0.0.0 in a container.")
    health_port: int | None = Field(
        None, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics. Empty: there is no such page."
    )
    log_format: Literal["plain", "json"] = Field("plain", description="Log lines for people or for machines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    @field_validator("admins")
    @classmethod
    def _names_admins(cls, value: str) -> str:
        for word in value.replace(",", " ").split():
            platform, _, person = word.partition(":")
            if platform not in get_args(Platform) or not person.isdecimal():
                raise ValueError(f"{word!r} is not like telegram:123 or discord:456")
        return value

    @property
    def admin_list(self) -> tuple[tuple[str, str], ...]:
        """(platform, person) of each."""
        return tuple((word.partition(":")[0], word.partition(":")[2]) for word in self.admins.replace(",", " ").split())

    @property
    def terms(self) -> Terms:
        """What /privacy says of how long things are kept."""
        return Terms(self.keep_collections_days, self.keep_portraits_days, self.keep_subjects_days, self.warn_days)

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{(self.data_dir / 'bot.sqlite3').absolute()}"
