"""Energy of a training run, read from the meters that the machine itself has.

Linux counts the energy of CPU packages (RAPL, on Intel and AMD alike; most systems let only root
read it), NVIDIA's driver that of each GPU. Both are whole devices: other work on them counts too.
Where there is no meter there is no number; `--power_watts` states a power to reckon with instead.

What the energy emitted depends on where it was made: `--carbon_country` names the place, and the
package `codecarbon` (extra `carbon`) brings the intensity of its grid, without asking any network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from usermirrorer.builders.common.errors import UserError

JOULES_A_KWH = 3.6e6
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


def emissions(joules: float, country: str) -> dict[str, float | str]:
    """Return what an energy emitted: `grams` of CO2 equivalents, and how they are known."""
    intensity = carbon_intensity(country)
    return {
        "grams": joules / JOULES_A_KWH * intensity,
        "country": country,
        "grams_per_kwh": intensity,
        "source": f"codecarbon {version('codecarbon')}",
    }


def carbon_intensity(country: str) -> float:
    """Return the grams of CO2 equivalents that a kWh of a country's grid emits.

    Codecarbon measures processes and estimates power where there is no meter; of it only its table
    of countries is used here, so that energy and emissions of a card come from the same meter.

    Args:
        country: ISO 3166 code of three letters, e.g. `DEU`.

    Raises:
        UserError: if the package is not installed, or has no number for the country.
    """
    try:
        from codecarbon.input import DataSource
    except ImportError:
        raise UserError(
            "codecarbon is not installed",
            where="--carbon_country",
            fix='Install it: pip install "usermirrorer[carbon]".',
        ) from None
    table = DataSource().get_global_energy_mix_data()
    intensity = table.get(country, {}).get("carbon_intensity")
    if intensity is None:
        known = f"It knows {', '.join(sorted(table))}."
        raise UserError(f"{country!r} is no country", where="--carbon_country", fix=known)
    return float(intensity)


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
