"""Energy of a training run, read from the meters that the machine itself has.

Linux counts the energy of CPU packages (RAPL, on Intel and AMD alike; most systems let only root
read it), NVIDIA's driver that of each GPU. Both are whole devices: other work on them counts too.
Where there is no meter there is no number; `--power_watts` states a power to reckon with instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Counter:
    """A meter that only rises: `read` gives joules, and begins at 0 again after `wraps` of them."""

    kind: str
    read: Callable[[], float]
    wraps: float | None = None
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.read()

    def advance(self) -> float:
        """Return the joules since the last call. A meter has to be read before it wraps twice."""
        before, self.last = self.last, self.read()
        gained = self.last - before
        return gained + (self.wraps or 0.0) if gained < 0 else gained


class Meter:
    """Sums up the counters of one machine."""

    def __init__(self, counters: list[Counter]) -> None:
        self.counters, self._joules = counters, 0.0

    @property
    def kinds(self) -> list[str]:
        """What is measured, for example `CPU packages` and `GPUs`."""
        return sorted({counter.kind for counter in self.counters})

    def joules(self) -> float | None:
        """Return the joules since the meter was made; None if this machine has no counter."""
        if not self.counters:
            return None
        self._joules += sum(counter.advance() for counter in self.counters)
        return self._joules


def of_this_machine() -> Meter:
    """Return a meter of the CPU packages and of the GPUs that this process may use."""
    return Meter([*cpu_packages(POWERCAP), *_gpus()])


def cpu_packages(folder: Path) -> list[Counter]:
    """Return a counter for each CPU package in Linux's `powercap` folder that may be read."""
    counters = []
    for package in sorted(folder.glob("intel-rapl:*")):
        if package.name.count(":") != 1:  # parts of a package, which has counted them
            continue
        with contextlib.suppress(OSError, ValueError):
            wraps = int((package / "max_energy_range_uj").read_text()) / 1e6
            energy = package / "energy_uj"
            counters.append(Counter("CPU packages", _microjoules(energy), wraps))
    return counters


def _microjoules(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) / 1e6


def _gpus() -> list[Counter]:
    if not torch.cuda.is_available():
        return []
    try:
        import pynvml
    except ImportError:
        return []
    counters = []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(torch.cuda.device_count()):
            uuid = torch.cuda.get_device_properties(index).uuid
            counters.append(Counter("GPUs", _millijoules(pynvml, f"GPU-{uuid}")))
    return counters


def _millijoules(pynvml: object, uuid: str) -> Callable[[], float]:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)  # type: ignore[attr-defined]
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # type: ignore[attr-defined]
