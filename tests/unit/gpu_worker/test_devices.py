from __future__ import annotations

import pytest

from gpu_worker.devices import environment_of, gpus


def test_only_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []


def test_without_the_drivers_tool_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert gpus() == []


def test_a_worker_sees_its_gpu_only() -> None:
    environment = environment_of("3")
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["PORTRAIT_DEVICE"]) == ("3", "cuda:0")
