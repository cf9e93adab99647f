"""Readings of the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from publishers.wrapper.readings import Readings, busy_share, memory_in_use, parse_ticks

STAT = "cpu  {} 0 50 {} 10 0 0 0 0 0\ncpu0 1 2 3 4\n"
MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"


def no_nvml(name: str) -> Any:
    raise ModuleNotFoundError(name)


def test_processors_are_busy_by_the_ticks_between_two_readings(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT.format(100, 800))
    (tmp_path / "meminfo").write_text(MEMINFO)
    readings = Readings(tmp_path, no_nvml)
    (tmp_path / "stat").write_text(STAT.format(130, 870))
    assert readings.take() == {
        "cpu.percent": 30.0,
        "memory.percent": 75.0,
        "memory.used_bytes": 750 * 1024,
    }
    assert "cpu.percent" not in readings.take()


def test_without_proc_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert Readings(tmp_path, no_nvml).take() == {}
    (tmp_path / "stat").write_text("odd")
    (tmp_path / "meminfo").write_text("MemTotal: many kB\n")
    assert Readings(tmp_path, no_nvml).take() == {}


def test_odd_numbers_are_no_readings() -> None:
    assert busy_share((5, 10), (5, 10)) is None
    assert memory_in_use("MemTotal: 5 kB\n") == {}
    with pytest.raises(ValueError, match="ticks"):
        parse_ticks("intr 1 2 3 4 5 6\n")


def test_each_gpu_tells_what_it_can(tmp_path: Path) -> None:
    def refuse(gpu: int) -> None:
        raise RuntimeError("not supported")

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=50 + gpu),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=1, total=4),
        nvmlDeviceGetPowerUsage=lambda gpu: 70_000,
        nvmlDeviceGetTemperature=lambda gpu, sensor: refuse(gpu),
    )
    assert Readings(tmp_path, lambda name: nvml).take() == {
        "gpu.0.percent": 50.0,
        "gpu.0.memory.percent": 25.0,
        "gpu.0.power.watts": 70.0,
        "gpu.1.percent": 51.0,
        "gpu.1.memory.percent": 25.0,
        "gpu.1.power.watts": 70.0,
    }
