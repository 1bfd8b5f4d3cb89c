"""The command `usermirrorer`: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import version

import click

from usermirrorer.builders.common import network
from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError

#: name -> (module:function, one line of help). Imports happen on use: `--help` stays instant.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "usermirrorer.recipes.quickstart.commands:command",
        "The main job: raw feedback to a released dataset, a trained simulator and its scores.",
    ),
    "reproduce": (
        "usermirrorer.recipes.reproduce.commands:reproduce",
        "The paper's tables and figures, at any scale, beside the published numbers.",
    ),
    "new": (
        "usermirrorer.builders.new:new",
        "Your own logs: look at the files, write the domain as YAML, show three scenes.",
    ),
    "sources": (
        "usermirrorer.builders.raw.commands:sources",
        "List the sources of feedback: licence, files, whether they may be passed on.",
    ),
    "fetch": (
        "usermirrorer.builders.raw.commands:fetch",
        "Download the raw files of a source, or say how to get them.",
    ),
    "tables": (
        "usermirrorer.builders.raw.commands:tables",
        "Write the canonical tables of a source from its raw files.",
    ),
    "scenes": (
        "usermirrorer.builders.commands:scenes",
        "Build train and test scenes from the raw files of a source.",
    ),
    "ablate": (
        "usermirrorer.builders.scenes.commands:ablate",
        "Scenes with one feature alone, and with each removed, for an ablation.",
    ),
    "decide": (
        "usermirrorer.builders.commands:decide",
        "Sample decision processes of a model for scenes and score the options.",
    ),
    "distil": (
        "usermirrorer.builders.commands:distil",
        "Distil preference pairs from decisions of a weak and a strong model.",
    ),
    "report": (
        "usermirrorer.model_cards.commands:report",
        "Report on a distillation: uncertainties, discarded scenes, tokens, plots.",
    ),
    "validate": (
        "usermirrorer.builders.commands:validate",
        "Prove the guarantees of any built or downloaded dataset.",
    ),
    "release": (
        "usermirrorer.hub.commands:release",
        "Build, push, pull, compare and verify versions of a dataset.",
    ),
    "hub": (
        "usermirrorer.hub.commands:hub",
        "Serve a local Hub that the ordinary clients talk to; manage its tokens.",
    ),
    "simulate": (
        "usermirrorer.recipes.simulator.commands:simulate",
        "Ask a trained simulator what it would choose: scenes in, choices out.",
    ),
    "serve": (
        "usermirrorer.recipes.service.commands:serve",
        "Serve a simulator: a page for people, an API for programs.",
    ),
    "calibrate": (
        "usermirrorer.recipes.simulator.commands:calibrate",
        "Fit a simulator's temperature and choice sets to held-out users.",
    ),
    "export": (
        "usermirrorer.recipes.export:export",
        "Write a trained model as a GGUF file, for llama.cpp.",
    ),
    "interact": (
        "usermirrorer.recipes.interact.commands:interact",
        "Let recommenders learn from simulated people, beside controls (Tables 3 and 9).",
    ),
    "sweep": (
        "usermirrorer.recipes.sweep:command",
        "Search learning rate and epochs of a recipe on held-out train users.",
    ),
    "analyse": (
        "usermirrorer.model_cards.analyse_commands:analyse",
        "The paper's analyses of decisions: factors, ablation, calibration, style, and more.",
    ),
    "leaderboard": (
        "usermirrorer.eval_harness.commands:leaderboard",
        "Rank models by lm_eval's output folders: a table and a web page.",
    ),
    "eval-results": (
        "usermirrorer.eval_harness.commands:eval_results",
        "Write or push .eval_results of a model from its lm_eval output.",
    ),
    "eval-yaml": (
        "usermirrorer.eval_harness.commands:eval_yaml",
        "Write or push eval.yaml of a dataset of scenes.",
    ),
    "eval-tasks": (
        "usermirrorer.eval_harness.commands:eval_tasks",
        "Write lm_eval's task files of every source, your own included.",
    ),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), function)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  usermirrorer quickstart",
)
@click.version_option(version("usermirrorer"))
@click.option("--debug", is_flag=True, help="Show Python tracebacks instead of one-line errors.")
@click.pass_context
def app(ctx: click.Context, debug: bool) -> None:
    """Build, release, train and score LLM user simulators from real recommender feedback."""
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run the command line: errors that users can mend are one line on stderr, exit code 1."""
    debug = "--debug" in sys.argv[1:]
    try:
        network.prepare()
        try:
            app(prog_name="usermirrorer")
        finally:
            _flush()
    except BrokenPipeError:
        _close_output()
        sys.exit(1)
    except Exception as error:
        told = _told(error)
        if debug or told is None:
            raise
        click.echo(f"error: {told}", err=True)
        sys.exit(1)


def _told(error: Exception) -> UserError | None:
    """Return what to tell of an error instead of its traceback; None of those that are ours."""
    if isinstance(error, UserError):
        return error
    if told := unwritable(error):
        return told
    if isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror:
        return UserError(f"cannot be opened: {error.strerror}", where=error.filename)
    return None


def _flush() -> None:
    """Write what is left of standard output, while it can still be said that it cannot be."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _close_output()
        error.filename = "standard output"
        raise


def _close_output() -> None:
    """Let the interpreter not try, at its end, to write what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
