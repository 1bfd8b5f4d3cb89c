"""The commands answer at once and say plainly what is wrong."""

import subprocess
import sys

from click.testing import CliRunner

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import commands


def test_commands_load_without_the_heavy_libraries():
    code = (
        "import sys, usermirrorer.eval_harness.commands;"
        "print([m for m in ('torch', 'lm_eval', 'datasets', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_folder_without_results_and_doubled_names(tmp_path):
    run = CliRunner().invoke(commands.leaderboard, [f"a={tmp_path}"])
    assert isinstance(run.exception, UserError)
    assert "--output_path" in str(run.exception)
    run = CliRunner().invoke(commands.leaderboard, [f"a={tmp_path}", f"a={tmp_path}"])
    assert "two models are called 'a'" in str(run.exception)
