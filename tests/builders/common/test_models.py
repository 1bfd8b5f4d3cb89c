"""The kind of numbers that is fast on this machine."""

import os
import subprocess
import sys

import pytest


def chosen(**environment: str) -> str:
    code = "from usermirrorer.builders.common.models import fast_dtype; print(fast_dtype())"
    kept = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_cpu_without_bfloat16_computes_in_float32():
    """Also one that has it, with the wider instructions switched off in torch."""
    assert chosen(ATEN_CPU_CAPABILITY="avx2") == "float32"


def test_a_cpu_that_multiplies_in_bfloat16_uses_it():
    torch = pytest.importorskip("torch")
    here = torch.cpu.get_capabilities()
    if not (here.get("avx512_bf16") or here.get("amx_bf16")):
        pytest.skip("this CPU has no bfloat16")
    assert chosen() == "bfloat16"
