"""Instruction-following difficulty: against plain `transformers`, resumed, and through the CLI."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import Gemma2Config, Gemma2ForCausalLM

from tests.builders.distil.distil_rows import many, write
from usermirrorer.builders.commands import distil
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import load_causal_lm
from usermirrorer.builders.decisions.prompts import messages
from usermirrorer.builders.distil import candidates, ifd, pairs, strategies


@pytest.fixture(scope="module")
def loaded(tiny_chat_model):
    return load_causal_lm(str(tiny_chat_model), "float32")


def own_loss(model, context, response):
    """The loss that `transformers` itself computes, context and first token left out."""
    ids = torch.tensor([context + response])
    labels = ids.clone()
    labels[:, : len(context) + 1] = -100
    with torch.no_grad():
        return model(input_ids=ids, labels=labels).loss.item()


def test_batched_losses_are_those_of_one_row_at_a_time(loaded, monkeypatch):
    rng = np.random.default_rng(0)
    contexts = [rng.integers(2, 500, n).tolist() for n in (0, 30, 7, 64, 1)]
    responses = [rng.integers(2, 500, n).tolist() for n in (5, 2, 40, 9, 17)]
    monkeypatch.setattr(ifd, "_BATCH_TOKENS", 120)
    found = ifd.losses(loaded[0], contexts, responses)
    own = [own_loss(loaded[0], *pair) for pair in zip(contexts, responses, strict=True)]
    np.testing.assert_allclose(found, own, rtol=1e-4)


def test_losses_are_of_the_model_s_own_logits_where_it_caps_them():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "vocab_size": 512}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Gemma2ForCausalLM(
        Gemma2Config(**sizes, **heads, final_logit_softcapping=0.1, initializer_range=1.0)
    ).eval()
    contexts, responses = [[3, 4, 5], [6] * 9], [[7, 8, 9, 10], [11, 12]]
    own = [own_loss(model, *pair) for pair in zip(contexts, responses, strict=True)]
    np.testing.assert_allclose(ifd.losses(model, contexts, responses), own, rtol=1e-4)


def test_scores_are_ratios_of_perplexity_of_the_chosen_response(tmp_path, loaded, tiny_chat_model):
    scenes, weak, strong = many(5)
    joined = candidates.candidates(*write(tmp_path, scenes, weak, strong))
    values = ifd.scores(joined, str(tiny_chat_model), tmp_path / "ifd.parquet", dtype="float32")
    model, tokenizer = loaded
    for there, value in zip(scenes, values, strict=True):
        prompt = tokenizer.apply_chat_template(
            messages(there), tokenize=False, add_generation_prompt=True
        )
        response = f"{strong[0]['thought']}\nBehavior: [A]"  # sample 0 of each scene
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, response)]
        ratio = np.exp(own_loss(model, *ids) - own_loss(model, [], ids[1]))
        assert value == pytest.approx(ratio, rel=1e-4)


def test_an_interrupted_scoring_goes_on_and_ends_the_same(tmp_path, tiny_chat_model, monkeypatch):
    monkeypatch.setattr(ifd, "_PART_SCENES", 2)
    joined = candidates.candidates(*write(tmp_path, *many(5)))
    whole = ifd.scores(joined, str(tiny_chat_model), tmp_path / "whole.parquet")

    def interrupt(scenes, resumed):
        raise KeyboardInterrupt

    steps = []
    with pytest.raises(KeyboardInterrupt):
        ifd.scores(joined, str(tiny_chat_model), tmp_path / "ifd.parquet", progress=interrupt)
    again = ifd.scores(
        joined,
        str(tiny_chat_model),
        tmp_path / "ifd.parquet",
        progress=lambda scenes, resumed: steps.append((scenes, resumed)),
    )
    assert steps == [(2, True), (2, False), (1, False)]
    np.testing.assert_array_equal(again, whole)


def test_the_command_scores_ranks_and_writes_views(tmp_path, tiny_chat_model):
    scenes, weak, strong = write(tmp_path, *many())
    out = tmp_path / "pairs.parquet"
    words = [str(scenes), f"--weak={weak}", f"--strong={strong}", f"--out={out}", "--pairs=6"]
    ran = CliRunner().invoke(
        distil,
        [*words, "--strategy=ifd", f"--model={tiny_chat_model}", f"--views={tmp_path / 'views'}"],
        catch_exceptions=False,
    )
    assert ran.exit_code == 0 and "pairs: 6" in ran.output
    scores = pq.read_table(tmp_path / "pairs.ifd.parquet")
    assert scores.schema.equals(ifd.SCORES)
    value = dict(zip(scores["scene_id"].to_pylist(), scores["ifd"].to_pylist(), strict=True))
    taken = pq.read_table(out)["scene_id"].to_pylist()
    ranks = [value[name] if value[name] < 1 else -value[name] for name in taken]
    assert ranks == sorted(ranks, reverse=True)
    for name in pairs.VIEWS:
        assert pq.read_table(tmp_path / "views" / f"{name}.parquet").num_rows == 6


def test_ifd_without_a_model_says_what_to_do(tmp_path):
    found = candidates.candidates(*write(tmp_path, *many()))
    with pytest.raises(UserError, match="Name it by --model"):
        pairs.make_pairs(found, 2, strategy="ifd")


def test_strategies_are_listed_with_their_source():
    told = CliRunner().invoke(distil, ["--strategies"]).output
    for name in strategies.STRATEGIES:
        assert name in told
    assert "equation 3" in told and "Table 2, IFD Score" in told
