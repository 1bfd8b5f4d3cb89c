"""Likeness of decisions to a teacher's of the same scenes, and their length.

Table 13 and section D.5 of the paper. What is compared is all that a decision says before its
Behavior line, thinking left out, sample i of a scene with the teacher's sample i (the teacher's
samples start anew where they are fewer). `evaluate` fetches its metrics from a Hub; here the same
values come from libraries: ROUGE by `rouge_score`, which its `rouge` wraps (F-measure without
stemming, mean over decisions), and BLEU over words and pairs of words by `sacrebleu` (of the whole
corpus, tokenizer 13a, no smoothing), as its `bleu` with `max_order=2`. Tables:

    style    result, model, scenes, users, decisions, rouge_l, rouge_2, bleu_2 (0 to 1), length,
             length_unit (`tokens` or `words`), length_ratio (to the teacher's); the last row is
             the teacher's, compared with nothing
    sources  result, source, scenes, decisions, rouge_l, rouge_2, bleu_2, length (only where there
             are several)

Texts are compared up to `MOST_WORDS` words: the time of ROUGE-L grows with their product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import thought_of
from usermirrorer.eval_harness import metrics, published
from usermirrorer.eval_harness.analysis.answers import Answer, Run
from usermirrorer.eval_harness.analysis.inference import common_scenes, mean_cells, user_of
from usermirrorer.eval_harness.analysis.result import Column, Result, Table, ends

#: Longest text that is compared, in words.
MOST_WORDS = 1_000
Count = Callable[[str], int]
Row = dict[str, Any]

_LIKENESS = (
    Column("rouge_l", "F-measure of the longest common subsequence, 0 to 1", "number", True),
    Column("rouge_2", "F-measure of pairs of words, 0 to 1", "number", True),
    Column("bleu_2", "BLEU over words and pairs of words, of all decisions", "number", True),
    Column("length", "of a decision", "number", interval=True),
)
_STYLE = (
    Column("result", "name of the results"),
    Column("model", "as its files name it"),
    Column("scenes", "that the teacher decided too", "count"),
    Column("users", "people behind them", "count"),
    Column("decisions", "compared", "count"),
    *_LIKENESS,
    Column("length_unit", "tokens or words"),
    Column("length_ratio", "to the teacher's", "number"),
)
_SOURCES = (
    Column("result", "name of the results"),
    Column("source", "of the scenes"),
    Column("scenes", "that the teacher decided too", "count"),
    Column("decisions", "compared", "count"),
    *_LIKENESS,
)


@dataclass(frozen=True)
class _Pair:
    """A decision beside the teacher's.

    `counts` are the terms of BLEU: matches and totals of words and of pairs of words, and the
    lengths of the decision and of the teacher's, [6].
    """

    scene_id: str
    source: str
    user: str
    rouge_l: float
    rouge_2: float
    counts: NDArray[np.float64]


def analyse(runs: Sequence[Run], teacher: Run, count: Count | None = None) -> Result:
    """Compare the decisions of models with a teacher's.

    Args:
        runs: Of models that write decisions.
        teacher: Of the model whose decisions are the references.
        count: Counts the tokens of a text; by default what decision files say, or else words.

    Raises:
        UserError: if a run has no decisions, or no scene in common with the teacher.
    """
    unit = "tokens" if count or _has_tokens([*runs, teacher]) else "words"
    reference = _lengths(teacher, list(teacher.answers.values()), count, unit)
    rows, by_source = [], []
    for run in runs:
        scenes = common_scenes(teacher, run)
        pairs = list(_pairs(run, teacher, scenes))
        if not pairs:
            raise UserError(
                "has no decision of a scene that the teacher decided",
                where=run.name,
                fix="Give results of the same scenes, from the decision tasks.",
            )
        answers = [run.answers[scene_id] for scene_id in scenes]
        row = {"model": run.public_model, **_row(run, answers, pairs, count, unit)}
        row["length_ratio"] = row["length"] / reference["length"] if reference["length"] else None
        rows.append({**row, "length_unit": unit})
        sources = sorted({pair.source for pair in pairs})
        for source in sources if len(sources) > 1 else ():
            own = [answer for answer in answers if answer.scene.source == source]
            theirs = [pair for pair in pairs if pair.source == source]
            by_source.append({"source": source, **_row(run, own, theirs, count, unit)})
    rows.append(_teacher_row(teacher, reference, unit))
    tables = {"style": Table("Likeness to the teacher", _TEXT, _STYLE, rows)}
    if by_source:
        tables["sources"] = Table("By source", "The same by source.", _SOURCES, by_source)
    notes = [
        "Computed by rouge_score, which `evaluate` wraps, and sacrebleu, which gives the values of "
        "its `bleu`: the wrappers themselves are fetched from a Hub."
    ]
    return Result(tables, notes, {"table13": _printed()}, {"teacher": teacher.facts})


_TEXT = "ROUGE and BLEU-2 of decisions against the teacher's of the same scene; length."


def counter(tokenizer: str) -> Count | None:
    """Return what counts the tokens of a text by a model's tokenizer; None for "".

    Raises:
        UserError: if it cannot be loaded.
    """
    if not tokenizer:
        return None
    from usermirrorer.builders.common import assets
    from usermirrorer.builders.common.models import load_tokenizer

    loaded = load_tokenizer(assets.resolve_model(tokenizer))
    return lambda text: len(loaded(text, add_special_tokens=False).input_ids)


def _has_tokens(runs: Sequence[Run]) -> bool:
    return all(len(a.tokens) == len(a.texts) for run in runs for a in run.answers.values())


def _pairs(run: Run, teacher: Run, scenes: Sequence[str]) -> Iterator[_Pair]:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    rouge = RougeScorer(["rouge2", "rougeL"], use_stemmer=False)
    # Only the counts of each are used; the effective order keeps it from warning of its score.
    bleu = BLEU(max_ngram_order=2, smooth_method="none", effective_order=True)
    for scene_id in scenes:
        answer, references = run.answers[scene_id], teacher.answers[scene_id].texts
        for number, text in enumerate(answer.texts if references else ()):
            mine, theirs = _said(text), _said(references[number % len(references)])
            scores = rouge.score(theirs, mine)
            told = bleu.sentence_score(mine, [theirs])
            counts = [*told.counts, *told.totals, told.sys_len, told.ref_len]
            yield _Pair(
                scene_id,
                answer.scene.source,
                user_of(answer),
                float(scores["rougeL"].fmeasure),
                float(scores["rouge2"].fmeasure),
                np.array(counts, dtype=np.float64),
            )


def _said(text: str) -> str:
    words = thought_of(text).split(" ")
    return " ".join(words[:MOST_WORDS])


def bleu_2(counts: NDArray[np.float64]) -> float:
    """Return BLEU-2 of decisions, 0 to 1, from the sums of their counts.

    Args:
        counts: [n, 6], see `_Pair`.
    """
    from sacrebleu.metrics.bleu import BLEU

    sums = counts.sum(axis=0).astype(int).tolist()
    score = BLEU.compute_bleu(
        correct=sums[:2],
        total=sums[2:4],
        sys_len=sums[4],
        ref_len=sums[5],
        smooth_method="none",
        max_ngram_order=2,
    )
    return float(score.score) / 100


def _row(
    run: Run, answers: Sequence[Answer], pairs: Sequence[_Pair], count: Count | None, unit: str
) -> Row:
    users = [pair.user for pair in pairs]
    several = len(set(users)) > 1
    counts = np.stack([pair.counts for pair in pairs])
    estimate = metrics.bootstrap(bleu_2, counts, users) if several else None
    bounds = (estimate.low, estimate.high) if estimate else (np.nan, np.nan)
    return {
        "result": run.name,
        "scenes": len({pair.scene_id for pair in pairs}),
        "users": len(set(users)),
        "decisions": len(pairs),
        **mean_cells("rouge_l", [pair.rouge_l for pair in pairs], users, "number"),
        **mean_cells("rouge_2", [pair.rouge_2 for pair in pairs], users, "number"),
        **ends("bleu_2", bleu_2(counts), *bounds),
        **_lengths(run, answers, count, unit),
    }


def _lengths(
    run: Run, answers: Sequence[Answer], count: Count | None, unit: str
) -> dict[str, float]:
    sizes: list[int] = []
    users: list[str] = []
    for answer in answers:
        if count:
            own = [count(text) for text in answer.texts]
        else:
            words = [len(text.split()) for text in answer.texts]
            own = list(answer.tokens) if unit == "tokens" else words
        sizes += own
        users += [user_of(answer)] * len(own)
    if not sizes:
        raise UserError("has no decisions", where=run.name, fix="Give a run of decision tasks.")
    return mean_cells("length", sizes, users, "number")


def _teacher_row(teacher: Run, reference: dict[str, float], unit: str) -> Row:
    answers = teacher.answers.values()
    return {
        "result": teacher.name,
        "model": teacher.public_model,
        "scenes": len(answers),
        "users": len(set(teacher.users)),
        "decisions": sum(len(answer.texts) for answer in answers),
        **reference,
        "length_unit": unit,
        "length_ratio": 1.0,
    }


def _printed() -> Table:
    columns = (
        Column("model", "as printed; the last is the teacher"),
        Column("rouge_l", "as printed", "number"),
        Column("rouge_2", "as printed", "number"),
        Column("bleu_2", "as printed", "number"),
        Column("length", "tokens", "count"),
    )
    keys = [column.name for column in columns[1:]]
    rows = [
        {"model": name, **dict(zip(keys, values, strict=True))}
        for name, values in published.TABLE_13.items()
    ]
    text = "As printed in the paper; nothing of it was run here."
    return Table("Table 13 of the paper", text, columns, rows)
