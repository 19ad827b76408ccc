"""What an operator may set for a worker: environment variables with the prefix PORTRAIT_, or a file `.env`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpu_worker.contract.jobs import JobKind
from gpu_worker.contract.sealing import MasterKeys

_MONTH_S = 30 * 24 * 3600


class WorkerSettings(BaseSettings):
    """Every field's description is its row in the README's settings table."""

    model_config = SettingsConfigDict(
        env_prefix="PORTRAIT_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

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
    master_key_file: Path = Field(
        Path("./data/master.key"),
        description="File with that key instead. The bot makes `master.key` in its data folder without both.",
    )
    profile: str = Field("mini", description="The models that the engine uses: mini (CPU) or sd15 (GPU).")
    models_dir: Path = Field(
        Path("./data/models"), description="Folder of the networks of the profile sd15 (`python -m engine models`)."
    )
    models_checkpoint: Path | None = Field(
        None, description="An SD1.5 checkpoint (file or diffusers folder) instead of the catalogue's."
    )
    few_step_lora: Literal["none", "lcm-lora", "hyper-sd-lora"] = Field(
        "none",
        description="Fast portraits of the profile sd15: in 4 and 2 steps with this LoRA "
        "(`python -m engine models fetch lcm-lora`).",
    )
    small_gpu: bool = Field(
        False,
        description="For a card of 8 GiB: one engine process, ControlNets are on the card only for their pass, a "
        "training keeps to 7 GiB of it and leaves nothing there; all takes longer.",
    )
    device: str = Field("auto", description="Device of the engine: auto, cpu, cuda or cuda:N.")
    one_engine: bool = Field(
        False,
        description="For a card of 12 GiB: trainings and portraits share one engine process, and a portrait waits for "
        "the training that runs. Otherwise each has its own, and a training pauses while a portrait is made.",
    )
    portraits_per_job: int = Field(1, ge=1, le=8, description="Candidates made for one request of a portrait.")
    lease_s: float = Field(
        30,
        gt=0.5,
        le=_MONTH_S,
        description="Seconds after which another worker takes over the job of one that died or hangs.",
    )
    max_deaths: int = Field(
        3,
        ge=1,
        le=1000,
        description="A job during which this many workers in a row died is given up instead of tried again.",
    )
    inspect_timeout_s: float = Field(
        120, gt=0, le=_MONTH_S, description="Longest check of a set of photos or of a template, seconds."
    )
    train_timeout_s: float = Field(7200, gt=0, le=_MONTH_S, description="Longest training, seconds.")
    portrait_timeout_s: float = Field(1200, gt=0, le=_MONTH_S, description="Longest portrait job, seconds.")
    start_timeout_s: float = Field(
        600, gt=0, le=_MONTH_S, description="Longest start of the engine (loading its models), seconds."
    )
    stop_grace_s: float = Field(
        10,
        gt=0,
        le=_MONTH_S,
        description="Seconds that a stopped job gets to end between two steps before its process is killed.",
    )
    report_every_s: float = Field(
        2, ge=0, le=_MONTH_S, description="Least seconds between two progress events of one stage."
    )
    work_dir: Path = Field(
        Path("./data/work"),
        description="Folder for the files of running jobs; emptied after each job and at the start.",
    )
    engine_memory_mib: int = Field(
        0, ge=0, le=2**32, description="Limit of an engine process's memory in MiB; 0: none."
    )
    engine_entry: str = Field(
        "gpu_worker.engine_jobs", description="Module with `load_checks` and `load_renders`; tests put in a stand-in."
    )
    health_host: str = Field("127.0.0.1", description="Address of the health page; 0.0.0.0 in a container.")
    health_port: int | None = Field(
        None, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics. Empty: there is no such page."
    )
    log_format: Literal["plain", "json"] = Field("plain", description="Log lines for people or for machines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    @property
    def has_one_engine(self) -> bool:
        """Trainings and portraits share a process: a small card does not hold the networks twice."""
        return self.one_engine or self.small_gpu

    def master_keys(self) -> MasterKeys:
        """Raises ValueError and OSError."""
        if self.master_key:
            return MasterKeys.read(self.master_key.get_secret_value())
        return MasterKeys.read(self.master_key_file.read_text("ascii"))

    def timeout_s(self, kind: JobKind) -> float:
        """Longest run of a job of that kind."""
        if kind == "train":
            return self.train_timeout_s
        return self.portrait_timeout_s if kind == "portrait" else self.inspect_timeout_s
