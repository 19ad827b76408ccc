"""One worker process per GPU, each of which sees that GPU only."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

_PAUSE_BEFORE_RESTART_S = 2.0


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
    """The environment in which a worker has that GPU only. Health pages take ports in a row, GPU by GPU."""
    here = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "PORTRAIT_DEVICE": "cuda:0"}
    if port := os.environ.get("PORTRAIT_HEALTH_PORT"):
        here["PORTRAIT_HEALTH_PORT"] = str(int(port) + int(gpu))
    return here


def supervise(environments: Sequence[Mapping[str, str]]) -> int:
    """Keeps one worker per environment running until SIGTERM or SIGINT, which they get too. Returns 0."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    processes = [_worker(environment) for environment in environments]
    while not stopping.wait(0.5):
        for place, process in enumerate(processes):
            if process.poll() is not None and not stopping.wait(_PAUSE_BEFORE_RESTART_S):
                logger.error("worker %d ended with %s, starting another", place, process.returncode)
                processes[place] = _worker(environments[place])
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
    return 0


def _worker(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "gpu_worker"], env=dict(environment))
