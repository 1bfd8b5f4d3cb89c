"""Figures: deterministic PNGs that show the data they are given, and alt texts that tell it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from usermirrorer.model_cards import plots

CURVE = [{"step": s, "loss": 2 / s} for s in range(1, 9)] + [{"step": 4, "eval_loss": 1.0}]
BARS = [{"task": "mind", "value": 0.5, "lower": 0.4, "upper": 0.6}]
OTHERS = [{"model": "chance", "task": "mind", "value": 0.2}]


def loss(path):
    return plots.loss_curve(CURVE, path)


def accuracy(path):
    return plots.accuracy_bars(BARS, OTHERS, path)


def entropy(path):
    return plots.entropy_histogram([1.0, 2.0, 2.5], [0.1, 0.2, 0.0], path)


def position(path):
    return plots.position_histogram([0, 1, 2, 0], [3, 3, 3, 2], path)


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (loss, "2.000 at step 1, 0.250 at step 8"),
        (accuracy, "mind 50.0 %"),
        (entropy, "mean 1.833 bits for weak, 0.100 bits for strong"),
        (position, "4 exposures"),
    ],
)
def test_a_figure_is_drawn_and_told(draw, told, tmp_path):
    assert told in draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = imread(tmp_path / "a.png")
    assert pixels.shape[1] == 1050
    # Nothing is cut off: a margin of one pixel around is white.
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert edge.min() == 1.0


def test_other_data_makes_another_figure(tmp_path):
    plots.position_histogram([0, 1, 2, 0], [3, 3, 3, 2], tmp_path / "a.png")
    plots.position_histogram([0, 1, 2, 1], [3, 3, 3, 2], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def drawn(monkeypatch, draw):
    """The axes of a figure in the moment in which it is written."""
    seen = []
    monkeypatch.setattr(plots, "write_png", lambda figure, path: seen.append(figure.axes[0]))
    draw()
    return seen[0]


def test_intervals_of_accuracies_are_drawn_in_percent_from_end_to_end(monkeypatch, tmp_path):
    axes = drawn(monkeypatch, lambda: plots.accuracy_bars(BARS, OTHERS, tmp_path / "a.png"))
    (bar,) = [patch for patch in axes.patches if patch.get_width() > 0]
    interval, chance = axes.lines
    assert bar.get_width() == pytest.approx(50)
    assert list(interval.get_xdata()) == pytest.approx([40, 60])
    assert list(chance.get_xdata()) == pytest.approx([20])
    assert "%" in axes.get_xlabel()


def test_intervals_of_a_sweep_are_drawn_in_percent_of_their_full_width(monkeypatch, tmp_path):
    points = [{"learning_rate": 1e-4, "epochs": 1, "accuracy": 0.4, "stderr": 0.05}]
    axes = drawn(monkeypatch, lambda: plots.sweep_lines(points, tmp_path / "a.png"))
    ((start, end),) = axes.collections[0].get_segments()
    assert (start[1], end[1]) == pytest.approx((40 - 9.8, 40 + 9.8))


def test_what_was_learnt_is_drawn_in_percent_with_intervals_from_end_to_end(monkeypatch, tmp_path):
    rows = [{"name": "trained", "kind": "result", "value": 0.4, "lower": 0.3, "upper": 0.55}]
    axes = drawn(monkeypatch, lambda: plots.compared_bars(rows, 0.2, tmp_path / "a.png"))
    assert axes.patches[0].get_width() == pytest.approx(40)
    ends, chance = ([float(x) for x in line.get_xdata()] for line in axes.lines)
    assert ends == pytest.approx([30, 55]) and chance == pytest.approx([20, 20])


def test_models_beside_each_other_are_told_apart_by_shape_and_colour():
    assert len(set(plots.MARKERS)) == len({shape for shape, _ in plots.MARKERS}) == 8
