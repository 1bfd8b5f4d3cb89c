"""The card of a trained model, made from its run and its scores alone: no number is typed by hand.

    train_run.json (recipes/record.py)  \\
    scores: rows of metrics              >  README.md, figures/*.png, .eval_results/*.yaml
    facts of the dataset it was tested on /

Texts that come from data (names, ids, licences) are escaped, so that none can break the Markdown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import atomic, read_json
from usermirrorer.builders.common.versions import tag_of
from usermirrorer.eval_harness import hub_files, metric_table, verdict
from usermirrorer.eval_harness.metric_table import lookup, tell_gaps
from usermirrorer.eval_harness.task_names import config_of, title_of
from usermirrorer.model_cards import chat_inputs, paper, plots

Row = Mapping[str, Any]

TEMPLATES = Path(__file__).parent
FIGURES = "figures"
RUN = "train_run.json"
CALIBRATED = "calibration.json"
ACCURACY = ("acc",)
HEADLINE = ("acc_over_placebo", "acc")
#: Baselines that stand beside the model in every table: metric -> name.
BASELINES = metric_table.BASELINES
CONFIDENCE = metric_table.of_group("confidence")
CALIBRATION = metric_table.of_group("calibration")
TASTE = metric_table.of_group("taste")
GAPS = metric_table.of_group("gap")
STAGES = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def escape(text: str) -> str:
    """Return `text` on one line, every sign that means something in Markdown or HTML disarmed."""
    one_line = " ".join(str(text).split())
    return _SPECIAL.sub(
        lambda m: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(m[1], f"\\{m[1]}"), one_line
    )


class _Markdown(str):
    """Text that is Markdown already and must not be escaped again."""

    __slots__ = ()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> _Markdown:
    """Return a Markdown table, its cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [
        [escape(cell) if index != 1 else cell for cell in line] for index, line in enumerate(lines)
    ]
    return _Markdown("\n".join(f"| {' | '.join(line)} |" for line in cells))


def _finalize(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, _Markdown):
        return escape(value)
    return value


def write(
    run_dir: Path,
    *,
    scores: Sequence[Row] | None,
    dataset: Row | None,
    repo_id: str,
    version: str,
) -> Path:
    """Write README.md, its figures and `.eval_results` into the model's folder; return the README.

    Args and errors: see `render`.
    """
    run_dir = Path(run_dir)
    text = render(run_dir, scores=scores, dataset=dataset, repo_id=repo_id, version=version)
    draw(run_dir, read_json(run_dir / RUN), _with_baselines(scores, repo_id), repo_id)
    own = _own(scores, repo_id)
    if dataset and dataset.get("id") and hub_files.accuracies(own):
        results = hub_files.eval_results(own, dataset["id"], dataset.get("commit") or "")
        with atomic(run_dir / hub_files.RESULTS_FILE) as temporary:
            temporary.write_text(results, encoding="utf-8")
    with atomic(run_dir / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return run_dir / "README.md"


def render(
    run_dir: Path,
    *,
    scores: Sequence[Row] | None,
    dataset: Row | None,
    repo_id: str,
    version: str,
) -> str:
    """Return the card's Markdown with its YAML metadata.

    Args:
        run_dir: Folder with `train_run.json`.
        scores: Rows of `model`, `task`, `metric`, `value`, `stderr`, `n`, `lower`, `upper`. Rows
            whose model is `repo_id` are this model's; others (base model, `chance`,
            `most popular`, ...) stand beside them, as do the baselines that lm_eval reports as
            metrics (`acc_chance`, ...) of this model. Entropies in bits. Further columns as
            `results.card_rows` gives them.
        dataset: The dataset it was tested on: `id`, and where known `revision`, `commit`,
            `licence`, `sources` (rows of `title`, `licence`).
        repo_id: Repository the model goes to, `name` or `owner/name`.
        version: This version, `1.2.0` or `v1.2.0`; "" if it has none.

    Raises:
        UserError: if there is no record of the run, `repo_id` is not a repository id, or the
            scores lack a column or hold no row of this model.
    """
    run = read_json(Path(run_dir) / RUN)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(str(error), where=repo_id) from error
    scores = _with_baselines(scores, repo_id)
    context = _context(run, scores, dataset or {}, repo_id, version)
    context["calibrated"] = _calibrated(Path(run_dir))
    context |= _inputs(Path(run_dir), run)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=_finalize,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["table"] = table
    body = environment.get_template("model_card.md.jinja").render(context)
    metadata = card_data(run, scores, dataset, repo_id).to_yaml()
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{metadata}\n---\n\n{body}\n"


def card_data(
    run: Row, scores: Sequence[Row] | None, dataset: Row | None, repo_id: str
) -> ModelCardData:
    """Return the card's YAML metadata: what is not known is left out."""
    base, data = run["base_model"], run["data"]
    adapter_only = run["adapter_only"]
    trained_on = None if data["local"] else data["name"]
    results = eval_results(scores, dataset, repo_id)
    named: dict[str, Any] = {"eval_results": results, "model_name": repo_id} if results else {}
    licence, _, licence_name = (run["license"] or "").partition(":")
    return ModelCardData(
        base_model=base.get("name"),
        datasets=trained_on or (dataset or {}).get("id"),
        language="en",
        library_name="peft" if adapter_only else "transformers",
        license=licence or None,
        license_name=licence_name or None,
        pipeline_tag="text-generation",
        tags=["usermirrorer", "user-simulation", "recommendation", "trl", run["stage"]],
        **_co2_eq_emissions(run),
        **named,
    )


def eval_results(
    scores: Sequence[Row] | None, dataset: Row | None, repo_id: str
) -> list[EvalResult]:
    """Return this model's accuracies for `model-index`; none without a dataset to name."""
    if not dataset or not dataset.get("id"):
        return []
    return [
        EvalResult(
            task_type="text-generation",
            task_name=row["task"],
            dataset_type=dataset["id"],
            # The Hub groups results by configuration and names a group but once.
            dataset_name=f"{dataset['id']} {title_of(row['task'])}",
            dataset_config=config_of(row["task"], row.get("domain", "")),
            dataset_split="test",
            dataset_revision=dataset.get("commit") or dataset.get("revision"),
            metric_type="accuracy",
            metric_name="Accuracy",
            metric_value=round(row["value"], hub_files.DIGITS),
        )
        for row in hub_files.accuracies(_own(scores, repo_id))
    ]


def draw(run_dir: Path, run: Row, scores: Sequence[Row] | None, repo_id: str) -> None:
    """Write the figures there is data for into `figures/`."""
    if _has_curve(run):
        plots.loss_curve(run["curve"], run_dir / FIGURES / "loss.png")
    if own := _accuracies(_own(scores, repo_id)):
        others = [row for row in _accuracies(scores) if row["model"] != repo_id]
        plots.accuracy_bars(_named(own), _named(others), run_dir / FIGURES / "accuracy.png")


def _alt_texts(run: Row, scores: Sequence[Row], repo_id: str) -> dict[str, str]:
    texts = {}
    if _has_curve(run):
        texts["loss.png"] = plots.describe_loss(run["curve"])
    if own := _accuracies(_own(scores, repo_id)):
        texts["accuracy.png"] = plots.describe_accuracy(_named(own))
    return texts


def _has_curve(run: Row) -> bool:
    return len([row for row in run["curve"] if "loss" in row]) > 1


def _accuracies(scores: Sequence[Row] | None) -> list[Row]:
    return [row for row in scores or [] if row["metric"] in ACCURACY]


def _named(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "task": title_of(row["task"])} for row in rows]


def _with_baselines(scores: Sequence[Row] | None, repo_id: str) -> list[Row]:
    """Turn the baselines that come as metrics of this model into rows of their own.

    That entropies are estimates is said only where they are.
    """
    rows = []
    for row in scores or []:
        if row.get("metric") == "entropy_is_estimate" and not row["value"]:
            continue
        if row.get("metric") not in BASELINES:
            rows.append(row)
        elif row.get("model") == repo_id:
            rows.append({**row, "model": BASELINES[row["metric"]], "metric": "acc"})
    return rows


def _own(scores: Sequence[Row] | None, repo_id: str) -> list[Row]:
    rows = list(scores or [])
    for row in rows:
        missing = [name for name in ("model", "task", "metric", "value", "n") if name not in row]
        if missing:
            raise UserError(f"a row of scores lacks {', '.join(missing)}", where=repo_id)
    own = [row for row in rows if row["model"] == repo_id]
    if rows and not own:
        models = ", ".join(sorted({str(row["model"]) for row in rows}))
        raise UserError(f"the scores are of {models}, none of this model", where=repo_id)
    return own


def _inputs(run_dir: Path, run: Row) -> dict[str, Any]:
    """Return what the card's code gives the chat template: it sees what training showed it."""
    given = run["data"].get("chat_template_kwargs") or {}
    settings = chat_inputs.arguments(run_dir, given)
    return {
        "template_inputs": _Markdown(chat_inputs.in_python(given)),
        "day": settings.get(chat_inputs.CLOCK, "") if "date_string" not in settings else "",
        "serve_more": _Markdown(chat_inputs.in_vllm(settings)),
    }


def _context(
    run: Row, scores: list[Row], dataset: Row, repo_id: str, version: str
) -> dict[str, Any]:
    base = run["base_model"]
    return {
        "title": repo_id.rsplit("/", maxsplit=1)[-1],
        "repo": _Markdown(repo_id),  # a valid repository id: nothing in it is special in code
        "version": _version(version),
        "run": run,
        "more": _Markdown(", prompts" if "prompts" in run["data"] else ""),
        "stage": STAGES[run["stage"]],
        "base": base.get("name") or base["folder"],
        "licence": (run["license"] or "").removeprefix("other:"),
        "lineage": [STAGES[stage["stage"]] for stage in base.get("lineage", [])],
        "data_version": _data_version(run["data"]),
        "hyperparameters": [
            [name, _plain(value)] for name, value in run["hyperparameters"].items()
        ],
        "training": _training(run),
        "hardware": _hardware(run),
        "alt": _alt_texts(run, scores, repo_id),
        "domains": _domains(run["data"]["domains"]),
        "sources": [[row["title"], row["licence"]] for row in dataset.get("sources", [])],
        "accuracy": _table(scores, repo_id, HEADLINE),
        "references": _references(scores, repo_id),
        "scenes": _scenes(scores, repo_id),
        "verdict": _verdict(scores, repo_id),
        "taste": _taste(scores, repo_id),
        "ablations": _table(scores, repo_id, TASTE),
        "gaps": _table(scores, repo_id, GAPS),
        "confidence": _table(scores, repo_id, CONFIDENCE),
        "calibration": _table(scores, repo_id, CALIBRATION),
        "others": _table(scores, repo_id, _other_metrics(scores)),
        "dataset": {"licence": dataset.get("licence")},
        "base_in_code": _Markdown(_code_safe(base.get("name") or base["folder"])),
        "base_commit": _Markdown(_code_safe(base.get("commit") or "")),
        "rank": run["hyperparameters"].get("LoRA rank", 0),
        "tasks": _Markdown("usermirror-direct_*" if run["mode"] == "direct" else "usermirror_*"),
        "scored": _Markdown(_scored(run, repo_id, _version(version))),
        "metadata": _Markdown(_task_metadata(run["data"])),
        "arxiv": paper.ARXIV,
        "paper": _Markdown(paper.LINK),
        "bibtex": _Markdown(paper.BIBTEX),
    }


def _data_version(described: Row) -> str | None:
    """Return the revision that was asked for, and the commit that was read."""
    asked, commit = described.get("revision"), described.get("commit")
    return f"{asked} (commit {commit})" if asked and commit and asked != commit else asked or commit


def _scored(run: Row, repo_id: str, version: str) -> str:
    """Return the model's arguments for lm_eval, which has one revision for base and adapter.

    So the adapter is given as the folder that it was downloaded to.
    """
    base, words = run["base_model"], {"pretrained": repo_id, "revision": version}
    if run["adapter_only"]:
        name = _code_safe(base.get("name") or base["folder"])
        words = {"pretrained": name, "revision": _code_safe(base.get("commit") or "")}
        words |= dict.fromkeys(("peft", "tokenizer"), "$adapter")
    words = {name: value for name, value in words.items() if value}
    given = chat_inputs.in_lm_eval(run["data"].get("chat_template_kwargs") or {})
    if not given:
        return ",".join(f"{name}={value}" for name, value in words.items())
    pairs = [f'"{name}": "{value}"' for name, value in words.items()]
    pairs.append(f'"chat_template_args": {given}')
    return f"'{{{', '.join(pairs)}}}'".replace("$adapter", "'$adapter'")


def _task_metadata(described: Row) -> str:
    """Return lm_eval's `--metadata` for scenes of the commit that was trained on, and prompts."""
    given = []
    if not described["local"]:
        revision = described.get("commit") or described.get("revision") or ""
        given.append(f'"dataset": "{_code_safe(described["name"])}"')
        given += [f'"dataset_revision": "{_code_safe(revision)}"'] if revision else []
    if "prompts" in described:
        given.append('"prompt_folder": "\'$prompts\'"')
    return f" --metadata '{{{', '.join(given)}}}'" if given else ""


def _calibrated(run_dir: Path) -> dict[str, Any] | None:
    """Return what `usermirrorer calibrate` found on other users; None if it was not run."""
    path = run_dir / CALIBRATED
    if not path.is_file():
        return None
    kept = read_json(path)
    report = kept["report"]
    rows = [
        [
            title,
            f"{100 * report[name]['ece']:.1f} %",
            f"{report[name]['log_loss_bits']:.3f}",
            f"{100 * report[name]['coverage']:.1f} %",
            f"{report[name]['options_per_set']:.2f}",
        ]
        for title, name in (("before", "before"), ("after", "after"))
    ]
    return {
        "temperature": f"{kept['temperature']:.3f}",
        "level": f"{100 * report['level']:.0f} %",
        "users": report["users"]["report"],
        "scenes": report["scenes"]["report"],
        "held_out": bool(report.get("held_out")),
        "header": ["", "Calibration error", "Log-loss (bits)", "Coverage", "Options per set"],
        "rows": rows,
    }


def _version(version: str) -> _Markdown:
    return _Markdown(tag_of(version) if version else "")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code_safe(name: str) -> str:
    return re.sub(r"[^\w./\-]", "-", name)


def _domains(counts: Mapping[str, int]) -> list[list[str]]:
    whole = sum(counts.values())
    return [[name, f"{n:,}", f"{100 * n / whole:.1f} %"] for name, n in counts.items()]


def _training(run: Row) -> list[list[str]]:
    results = run["results"]
    rows = [
        ["Optimizer steps", f"{results['steps']:,}"],
        ["Passes over the data", f"{results['epochs']:.2f}"],
        ["Trained parameters", f"{results['trained_parameters']:,} of {results['parameters']:,}"],
        ["Tokens seen", f"{results['tokens']:,.0f}"],
        ["Tokens per second", f"{results['tokens_per_second']:,.0f}"],
        ["Time", f"{results['seconds'] / 3600:.2f} h ({results['seconds']:,.0f} s)"],
        ["Energy", _energy(run)],
        *([["Emissions", _emissions(results["co2"])]] if "co2" in results else []),
        ["Peak memory of a process", f"{results['peak_memory_bytes'] / 2**30:.2f} GiB"],
    ]
    if results["first_loss"] is not None:
        rows.append(["Loss", f"{results['first_loss']:.4f} to {results['final_loss']:.4f}"])
    return rows


def _energy(run: Row) -> str:
    """Say how much and how it is known: never a number without its source."""
    energy = run["results"].get("energy")
    if energy is None:
        return "not measured: no meter that could be read"
    told = f"{energy['joules'] / 3.6e6:.4g} kWh"
    if "watts" in energy:
        return f"{told}, reckoned as time at {energy['watts']:g} W, not measured"
    machines = run["hardware"].get("machines", 1)
    told += f", measured: {' and '.join(energy['measured'])}, other work on them included"
    return told + (f"; on the first of {machines} machines" if machines > 1 else "")


def _emissions(co2: Row) -> str:
    return (
        f"{co2['grams']:.4g} g of CO2 equivalents, at {co2['grams_per_kwh']:.4g} g a kWh of the "
        f"grid of {co2['country']} ({co2['source']})"
    )


def _co2_eq_emissions(run: Row) -> dict[str, Any]:
    """Return the Hub's field of this name; nothing where the emissions are not known."""
    if "co2" not in run["results"]:
        return {}
    co2 = run["results"]["co2"]
    fields = {
        "emissions": round(co2["grams"], 6),  # grams
        "source": co2["source"],
        "training_type": "fine-tuning",
        "geographical_location": co2["country"],
        "hardware_used": _hardware(run),
    }
    return {"co2_eq_emissions": fields}


def _hardware(run: Row) -> str:
    hardware = run["hardware"]
    processes = f"{hardware['processes']} x " if hardware["processes"] > 1 else ""
    return (
        f"{processes}{hardware['device']} ({hardware['kind']}), {hardware['threads']} threads a "
        f"process, {hardware['memory_bytes'] / 2**30:.0f} GiB of memory"
    )


def _other_metrics(scores: Sequence[Row]) -> tuple[str, ...]:
    shown = {*HEADLINE, *TASTE, *GAPS, *CONFIDENCE, *CALIBRATION, "users"}
    return tuple(dict.fromkeys(row["metric"] for row in scores if row["metric"] not in shown))


def _table(
    scores: Sequence[Row], repo_id: str, metrics: Sequence[str]
) -> dict[str, list[Any]] | None:
    """Return header and rows (task, metric, this model, others); None if there is nothing."""
    own = [row for row in _own(scores, repo_id) if row["metric"] in metrics]
    if not own:
        return None
    tasks = list(dict.fromkeys(row["task"] for row in own))
    own.sort(key=lambda row: (tasks.index(row["task"]), metrics.index(row["metric"])))
    others = list(
        dict.fromkeys(
            row["model"] for row in scores if row["metric"] in metrics and row["model"] != repo_id
        )
    )
    by_key = {(row["model"], row["task"], row["metric"]): row for row in scores}
    rows = []
    for row in own:
        key = (row["task"], row["metric"])
        beside = [by_key.get((name, *key)) for name in others]
        rows.append(
            [
                title_of(row["task"]),
                lookup(row["metric"]).title,
                _cell(row),
                *(_cell(one) if one else "" for one in beside),
                f"{row['n']:,}",
            ]
        )
    return {"header": ["Task", "Metric", "This model", *others, "Scenes"], "rows": rows}


def _cell(row: Row) -> str:
    unit = lookup(row["metric"]).unit
    scale, form = (100, ".1f") if unit in ("share", "difference", "exact") else (1, ".3f")
    if unit == "difference":
        form = f"+{form}"
    sign = {"share": " %", "exact": " %", "difference": " points"}.get(unit, "")
    text = f"{scale * row['value']:{form}}{sign}"
    lower, upper = row.get("lower"), row.get("upper")
    if _known(lower) and _known(upper) and lower < upper:
        if unit == "share":
            lower, upper = max(lower, 0.0), min(upper, 1.0)
        text += f" ({scale * lower:{form}} to {scale * upper:{form}})"
    return text


def _known(value: Any) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _references(scores: Sequence[Row], repo_id: str) -> str:
    """Say what accuracy is compared with: `placebo`, or `chance` where there is none."""
    rows = [row for row in _own(scores, repo_id) if row["metric"] == "acc_over_placebo"]
    tasks: dict[str, list[str]] = {}
    for row in rows:
        reference = str(row.get("facts", {}).get("reference", "placebo"))
        tasks.setdefault(reference, []).append(title_of(row["task"]))
    if set(tasks) == {"placebo", "chance"}:
        return f"placebo ({', '.join(tasks['chance'])}: chance)"
    return next(iter(tasks), "")


def _scenes(scores: Sequence[Row], repo_id: str) -> list[str]:
    """Say of each task what its scenes are like, where the run recorded it."""
    told = []
    for row in _accuracies(_own(scores, repo_id)):
        facts = row.get("facts", {})
        modes, gaps = facts.get("exposure_modes"), facts.get("gaps")
        parts = [f"{row['n']:,} scenes of {row['users']:,} users"] if "users" in row else []
        parts += [f"exposures: {', '.join(modes)}"] if modes else []
        parts += [f"time since the history: {tell_gaps(gaps)}"] if gaps else []
        if '"rotations": true' in str(row.get("settings")):
            parts.append("asked with the options in every order (rotations), ablations in one")
        if parts:
            told.append(f"{title_of(row['task'])}: {'; '.join(parts)}")
    return told


def _taste(scores: Sequence[Row], repo_id: str) -> list[str]:
    """Say of each task whether its ablations show taste."""
    own = {(row["task"], row["metric"]): row for row in _own(scores, repo_id)}
    told = []
    for row in _accuracies(list(own.values())):
        losses = [own.get((row["task"], f"acc_loss_{n}")) for n in ("no_history", "swapped")]
        if any(losses):
            words = verdict.in_words(*map(_loss, losses))
            told.append(f"On {title_of(row['task'])} this model {words}.")
        elif row.get("facts", {}).get("ablations") is False:
            told.append(f"On {title_of(row['task'])} the ablations were turned off.")
    return told


def _loss(row: Row | None) -> verdict.Loss | None:
    if row is None:
        return None
    low, high = row.get("lower", math.nan), row.get("upper", math.nan)
    return verdict.Loss(row["value"], low, high)


def _verdict(scores: Sequence[Row], repo_id: str) -> str:
    """Say on how many tasks the whole interval lies above everything it is compared with."""
    own = _accuracies(_own(scores, repo_id))
    judged = []
    for row in own:
        others = [
            other["value"]
            for other in scores
            if other["metric"] == row["metric"]
            and other["task"] == row["task"]
            and other["model"] != repo_id
        ]
        if others and _known(row.get("lower")):
            judged.append(row["lower"] > max(others))
    if not judged:
        return ""
    return (
        f"The whole 95 % interval lies above everything compared with on {sum(judged)} of "
        f"{len(judged)} tasks."
    )
