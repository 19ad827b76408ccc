"""The bot's settings: environment variables with the prefix PORTRAIT_, or the same names in a file `.env`.

Built once in `bot/__main__.py` and passed; nothing reads settings at import.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What can be set from outside. Every field's description is its row in the README."""

    model_config = SettingsConfigDict(env_prefix="PORTRAIT_", env_file=".env", env_ignore_empty=True, extra="ignore")

    telegram_token: SecretStr | None = Field(None, description="Token from @BotFather. Empty: Telegram is off.")
    telegram_api_url: str = Field(
        "https://api.telegram.org", description="Server of the Telegram Bot API: the official one or a local one."
    )
    discord_token: SecretStr | None = Field(
        None, description="Token from the Discord developer portal. Empty: Discord is off."
    )
    data_dir: Path = Field(Path("data"), description="Folder for everything that has no address of its own.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the database. Empty: SQLite in the data folder."
    )
    migrate_at_start: bool = Field(True, description="Bring the database to the newest revision when the bot starts.")
    redis_url: str | None = Field(
        None, description="Redis or Valkey. Empty: the bot starts its own server in the data folder."
    )
    blobs_url: str | None = Field(
        None, description="Pictures and models: a folder or s3://bucket/prefix. Empty: `blobs` in the data folder."
    )
    embedded_worker: bool | None = Field(
        None, description="Run a worker as a child of the bot. Empty: yes when the bot starts its own Redis."
    )
    portraits_per_job: int = Field(1, ge=1, le=8, description="Candidates made for one request of a portrait.")
    trainings_per_day: int = Field(5, ge=0, description="Trainings a person may start in 24 hours.")
    portraits_per_day: int = Field(50, ge=0, description="Portrait requests a person may make in 24 hours.")
    waiting_portraits: int = Field(3, ge=1, description="Portrait requests of one person that may be open at once.")
    subjects_per_user: int = Field(5, ge=1, description="Trained models a person may keep.")
    own_templates_per_user: int = Field(20, ge=1, description="Templates of their own that a person may keep.")
    max_file_bytes: int = Field(20_000_000, ge=100_000, description="Largest picture file that is looked at.")
    max_pixels: int = Field(50_000_000, ge=1_000_000, description="Largest picture, width times height.")
    intake_processes: int = Field(2, ge=1, le=16, description="Pictures decoded at once, each in its own process.")
    progress_every_s: float = Field(3.0, ge=1.0, description="Least time between two edits of a progress message.")
    keep_photos: bool = Field(False, description="Keep a person's photos after a training that succeeded.")
    keep_collections_days: float = Field(2, gt=0, description="Untrained photos are deleted after this time.")
    keep_portraits_days: float = Field(30, gt=0, description="Portraits are deleted after this time.")
    keep_subjects_days: float = Field(90, gt=0, description="Trained models are deleted when unused for this time.")
    job_attempts: int = Field(5, ge=1, le=20, description="Times that a lost job is started again before it fails.")
    log_level: str = Field("INFO", description="Python logging level.")

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{(self.data_dir / 'bot.sqlite3').absolute()}"

    @property
    def blobs(self) -> str:
        return self.blobs_url or str((self.data_dir / "blobs").absolute())

    @property
    def runs_worker(self) -> bool:
        return self.embedded_worker if self.embedded_worker is not None else self.redis_url is None
