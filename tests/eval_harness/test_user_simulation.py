"""`evaluate.load` of our module works from its file, with no network."""

import evaluate
import pytest

from usermirrorer.eval_harness import user_simulation


def test_module_loads_offline_and_agrees_with_hand_values(monkeypatch, tmp_path):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("touched the network"))
    metric = evaluate.load(user_simulation.__file__, cache_dir=str(tmp_path))
    found = metric.compute(predictions=[[0.5, 0.25, 0.25], [0, 1, 0]], references=[0, 2])
    assert found["accuracy"] == 0.5
    assert found["entropy"] == pytest.approx(0.75)
    assert found["brier"] == pytest.approx((0.375 + 2) / 2)
    assert found["accuracy_stderr"] == pytest.approx(0.5)
    assert found["calibration_error"] == pytest.approx((0.5 + 1) / 2)
