"""Energy in a run's record: what Linux's own counters say, over wraps and kills, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState
from trl import SFTConfig

from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes import energy, record
from usermirrorer.recipes.arguments import ReleaseArguments, parse
from usermirrorer.recipes.record import Metrics

MICRO = 1_000_000
WORDS = ("--model_name_or_path", "m", "--output_dir", "out", "--bf16", "false")


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine with two CPU packages, one of which counts a part of itself as well."""
    folder = tmp_path / "powercap"
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "max_energy_range_uj").write_text(f"{1000 * MICRO}\n")
        (folder / name / "energy_uj").write_text(f"{900 * MICRO}\n")
    monkeypatch.setattr(energy, "POWERCAP", folder)
    return folder


def use(machine: Path, package: str, counter: int) -> None:
    (machine / package / "energy_uj").write_text(f"{counter * MICRO}\n")


def test_packages_are_summed_once_and_over_their_wraps(machine):
    meter = energy.of_this_machine()
    use(machine, "intel-rapl:0", 950)
    use(machine, "intel-rapl:0:0", 940)
    assert meter.joules() == 50 and meter.kinds == ["CPU packages"]
    use(machine, "intel-rapl:1", 20)  # over the top, at 1,000, and 20 further
    assert meter.joules() == 170


def test_a_machine_without_a_meter_that_may_be_read_gives_no_number(machine, monkeypatch):
    for path in machine.glob("*/energy_uj"):
        path.unlink()
    assert energy.of_this_machine().joules() is None
    monkeypatch.setattr(energy, "POWERCAP", machine / "none")
    assert energy.of_this_machine().joules() is None


def trained(path: Path, machine: Path, steps: range) -> Metrics:
    """Log `steps`, each of which takes 5 joules, as a trainer does from a checkpoint on."""
    metrics, arguments = Metrics(path), SFTConfig(output_dir=str(path.parent), bf16=False)
    state = TrainerState(global_step=steps.start - 1, max_steps=steps.stop - 1)
    control = TrainerControl()
    metrics.on_train_begin(arguments, state, control)
    for step in steps:
        use(machine, "intel-rapl:0", 900 + 5 * step)
        metrics.on_log(arguments, TrainerState(global_step=step), control, {"loss": 1.0})
    return metrics


def test_energy_of_a_killed_run_counts_up_to_its_checkpoint(machine, tmp_path):
    path = tmp_path / "metrics.jsonl"
    trained(path, machine, range(1, 5))
    use(machine, "intel-rapl:0", 900)
    metrics = trained(path, machine, range(3, 7))  # killed after step 4, resumed from step 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[1]["joules"] == 10 and metrics.joules == 10 + 30


def test_energy_that_was_measured_in_part_only_is_not_told(machine, tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    with monkeypatch.context() as without:
        without.setattr(energy, "POWERCAP", tmp_path / "none")
        trained(path, machine, range(1, 3))
    assert trained(path, machine, range(3, 5)).joules is None


def test_emissions_are_the_energy_times_the_grid_of_the_country(machine, tmp_path):
    """By codecarbon's own reckoning of the same energy there, which asks no network."""
    core = pytest.importorskip("codecarbon.core.emissions")
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    metrics = trained(tmp_path / "metrics.jsonl", machine, range(1, 5))
    told = record._energy(metrics, 9.0, ReleaseArguments(carbon_country="FRA"))
    assert told["energy"]["joules"] == 20
    place = GeoMetadata(country_iso_code="FRA", country_name="France")
    theirs = core.Emissions(DataSource()).get_private_infra_emissions(Energy(20 / 3.6e6), place)
    assert told["co2"]["grams"] == pytest.approx(1000 * theirs) and theirs > 0
    stated = record._energy(Metrics(tmp_path / "none"), 9.0, ReleaseArguments(power_watts=100))
    assert stated == {"energy": {"joules": 900.0, "watts": 100}}


def test_a_country_that_is_none_is_told_before_training():
    with pytest.raises(UserError, match="--carbon_country: 'Utopia' is no country"):
        parse(SFTConfig, [*WORDS, "--carbon_country", "Utopia"])
