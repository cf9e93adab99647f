"""How busy the machine is: CPU and memory from /proc, GPUs by NVML where ``pynvml`` is installed.

| name | meaning |
|---|---|
| ``cpu.percent`` | of all processors since the reading before |
| ``memory.percent``, ``memory.used_bytes`` | what is not available to programs |
| ``gpu.N.percent``, ``gpu.N.memory.percent`` | busy, and in use, of GPU N |
| ``gpu.N.power.watts``, ``gpu.N.temperature`` | watts, degrees Celsius |
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Readings", "busy_share", "memory_in_use", "parse_ticks"]

_IDLE = (3, 4)
"""Fields of the cpu line of /proc/stat that count as idle: idle and iowait (proc_stat(5))."""
_FIELDS = 8
"""Those behind them, of guests, are in user and nice already."""

Ticks = tuple[int, int]
"""Of the processors: idle, and in all."""


def parse_ticks(stat: str) -> Ticks:
    """Read /proc/stat.

    Raises:
        ValueError: It is not as expected.
    """
    name, *fields = stat.partition("\n")[0].split()
    values = [int(field) for field in fields[:_FIELDS]]
    if name != "cpu" or len(values) <= max(_IDLE):
        raise ValueError(f"not the processors' ticks: {stat[:60]!r}")
    return sum(values[at] for at in _IDLE), sum(values)


def busy_share(before: Ticks, after: Ticks) -> float | None:
    """Percent between two moments; None when no time has passed."""
    idle, total = after[0] - before[0], after[1] - before[1]
    return max(0.0, min(100.0, 100.0 * (total - idle) / total)) if total > 0 else None


def memory_in_use(meminfo: str) -> dict[str, float]:
    """Read /proc/meminfo; empty when it does not say.

    Raises:
        ValueError: It is not as expected.
    """
    found = {}
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name in {"MemTotal", "MemAvailable"}:
            found[name] = int(value.split()[0]) * 1024
    if len(found) < 2 or not found["MemTotal"]:
        return {}
    used = found["MemTotal"] - found["MemAvailable"]
    return {"memory.percent": 100.0 * used / found["MemTotal"], "memory.used_bytes": used}


class Readings:
    """Takes readings. To be used by one thread."""

    def __init__(
        self, proc: Path = Path("/proc"), load: Callable[[str], Any] = import_module
    ) -> None:
        """Begin.

        Args:
            proc: Where the kernel shows itself.
            load: Imports NVML's module by name.
        """
        self._proc = proc
        self._ticks = self._read_ticks()
        self._nvml: Any = None
        self._gpus: list[Any] = []
        try:
            nvml = load("pynvml")
            nvml.nvmlInit()
            self._gpus = [
                nvml.nvmlDeviceGetHandleByIndex(number)
                for number in range(nvml.nvmlDeviceGetCount())
            ]
            self._nvml = nvml
        except Exception:  # noqa: BLE001  # no module, no driver, no GPU: there are no readings
            self._gpus = []

    def take(self) -> dict[str, float]:
        """What can be read now. Never raises."""
        values: dict[str, float] = {}
        before, self._ticks = self._ticks, self._read_ticks()
        if before is not None and self._ticks is not None:
            share = busy_share(before, self._ticks)
            if share is not None:
                values["cpu.percent"] = share
        with suppress(OSError, ValueError, IndexError):
            values |= memory_in_use((self._proc / "meminfo").read_text())
        for number, gpu in enumerate(self._gpus):
            values |= self._gpu(f"gpu.{number}.", gpu)
        return {name: round(value, 3) for name, value in values.items()}

    def _read_ticks(self) -> Ticks | None:
        try:
            return parse_ticks((self._proc / "stat").read_text())
        except (OSError, ValueError):
            return None

    def _gpu(self, prefix: str, gpu: Any) -> dict[str, float]:
        nvml = self._nvml

        def memory() -> float:
            memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
            return 100.0 * float(memory.used) / float(memory.total)

        asked: dict[str, Callable[[], float]] = {
            "percent": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
            "memory.percent": memory,
            "power.watts": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000.0,
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(gpu, 0),
        }
        values = {}
        for name, ask in asked.items():
            try:
                values[prefix + name] = float(ask())
            except Exception:  # noqa: BLE001  # each GPU supports some of it
                continue
        return values
