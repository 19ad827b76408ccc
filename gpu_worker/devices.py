"""One worker process per GPU, each of which sees that GPU only."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

logger = logging.getLogger(__name__)

_PAUSE_BEFORE_RESTART_S = 5.0


def gpus() -> list[str]:
    """The numbers of this machine's GPUs, without loading torch. CUDA_VISIBLE_DEVICES is respected."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [number for number in visible.split(",") if number]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


def environment_of(gpu: str) -> dict[str, str]:
    """The environment in which a worker has that GPU only."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "PORTRAIT_DEVICE": "cuda:0"}


def supervise(environments: Sequence[Mapping[str, str]]) -> int:
    """Keeps one worker per environment running until SIGTERM or SIGINT, which they get too. Returns 0."""
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)
        for process in processes:
            process.terminate()

    processes = [_worker(environment) for environment in environments]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping:
        for place, process in enumerate(processes):
            if process.poll() is not None and not stopping:
                logger.error("worker %d ended with %s, starting another", place, process.returncode)
                time.sleep(_PAUSE_BEFORE_RESTART_S)
                processes[place] = _worker(environments[place])
        time.sleep(0.5)
    for process in processes:
        process.terminate()
        process.wait()
    return 0


def _worker(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "gpu_worker"], env=dict(environment))
