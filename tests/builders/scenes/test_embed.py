"""Embeddings: each pooling against values by hand, as the model's own files say."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from tests import tiny_parts
from usermirrorer.builders.common import progress
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.scenes import embed, embed_batches, pipeline

TEXTS = ["A film", "A much longer film about the sea", "x", "Another film of 1990"]
POOLINGS = ("mean", "cls", "last")


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def model(request, tiny_encoder, tiny_chat_model):
    """Return a BERT that sees both sides of a token, then a Llama that sees what is before it."""
    return tiny_encoder if request.param == "encoder" else tiny_chat_model


def copy(folder, target, **files):
    """Copy a model with further JSON files; `__` in a name stands for a folder."""
    shutil.copytree(folder, target)
    for name, content in files.items():
        path = target / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return target


def modules(*kinds):
    names = {"Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    return [
        {"idx": n, "path": names.get(kind, ""), "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(("Transformer", *kinds))
    ]


def by_hand(folder, text, pooling, end=()):
    """Embed one text alone: no batch, no padding."""
    from transformers import AutoModel, AutoTokenizer

    ids = [*AutoTokenizer.from_pretrained(folder)(text)["input_ids"], *end]
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder)(input_ids=torch.tensor([ids]))
    rows = hidden.last_hidden_state[0].float().numpy()
    vector = {"mean": rows.mean(axis=0), "cls": rows[0], "last": rows[-1]}[pooling]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_batch_has_the_vectors_of_each_text_alone(model, pooling, side, tmp_path):
    """Padding, on whichever side the tokenizer puts it, is in no vector."""
    settings = json.loads((model / "tokenizer_config.json").read_text())
    folder = copy(model, tmp_path / "m", tokenizer_config={**settings, "padding_side": side})
    found = embed.embed(TEXTS, str(folder), encoding=embed.Encoding(pooling=pooling))
    expected = [by_hand(folder, text, pooling) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "left", "right"),
    [("mean", [3.5, 5.5], [1.5, 5.5]), ("cls", [3, 4], [1, 4]), ("last", [4, 7], [2, 7])],
)
def test_pooling_passes_over_padding_on_either_side(pooling, left, right):
    hidden = torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[4.0], [5.0], [6.0], [7.0]]])
    on_left = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert embed.pooled(hidden, on_left, pooling).flatten().tolist() == left
    assert embed.pooled(hidden, on_left.flip(1), pooling)[0].item() == right[0]
    assert embed.pooled(hidden, torch.ones(2, 4), pooling)[1].item() == right[1]


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({}, "mean"),
    ],
)
def test_the_models_own_pooling_is_used(config, pooling, tiny_encoder, tmp_path):
    files = {"modules": modules("Pooling", "Normalize"), "1_Pooling__config": config}
    folder = copy(tiny_encoder, tmp_path / "m", **files)
    assert embed.resolved(str(folder)).pooling == pooling
    expected = [by_hand(folder, text, pooling) for text in TEXTS]
    np.testing.assert_allclose(embed.embed(TEXTS, str(folder)), expected, atol=1e-5)


def test_a_model_that_says_nothing_is_pooled_by_the_mean(tiny_encoder):
    assert embed.resolved(str(tiny_encoder)) == embed.Encoding("mean", "", "transformers")


def test_what_is_asked_for_overrides_the_models_own(tiny_encoder, tmp_path):
    files = {"modules": modules("Pooling"), "1_Pooling__config": {"pooling_mode": "lasttoken"}}
    folder = copy(tiny_encoder, tmp_path / "m", **files)
    assert embed.resolved(str(folder), embed.Encoding(pooling="cls")).pooling == "cls"


@pytest.mark.parametrize(
    ("asked", "front"),
    [
        (None, "Represent: "),
        ("query", "Find: "),
        ("Film with the title ", "Film with the title "),
        ("", ""),
    ],
)
def test_a_prompt_stands_in_front_of_every_text(asked, front, tiny_encoder, tmp_path):
    """The model's default one, one of its others by name, or any text."""
    prompts = {"query": "Find: ", "document": "Represent: "}
    config = {"prompts": prompts, "default_prompt_name": "document"}
    folder = copy(tiny_encoder, tmp_path / "m", config_sentence_transformers=config)
    found = embed.embed(TEXTS, str(folder), encoding=embed.Encoding(prompt=asked))
    expected = [by_hand(folder, front + text, "mean") for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_end_token_that_a_tokenizer_should_add_is_added(tiny_chat_model, tmp_path):
    """GTE-Qwen2's setting: its vectors are those of the end token, also of texts that are cut."""
    settings = json.loads((tiny_chat_model / "tokenizer_config.json").read_text())
    folder = copy(
        tiny_chat_model, tmp_path / "m", tokenizer_config={**settings, "add_eos_token": True}
    )
    how = embed.Encoding(pooling="last")
    end = tiny_parts.tokenizer().eos_token_id
    found = embed.embed(TEXTS, str(folder), encoding=how)
    expected = [by_hand(tiny_chat_model, text, "last", end=[end]) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    long = "sea " * 1_000
    same = embed.embed([long, long + "x"], str(folder), encoding=how)
    assert np.array_equal(same[0], same[1])


@pytest.mark.parametrize(
    ("kinds", "config", "word"),
    [
        (("Pooling", "Dense"), {}, "by a module Dense"),
        (("Pooling",), {"pooling_mode_max_tokens": True}, "pools by max_tokens"),
        (
            ("Pooling",),
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pools by",
        ),
        (("Pooling",), {"pooling_mode": "mean", "include_prompt": False}, "leaves its prompt out"),
    ],
)
def test_what_is_not_computed_here_is_an_error_not_another_vector(
    kinds, config, word, tiny_encoder, tmp_path
):
    files = {"modules": modules(*kinds), "1_Pooling__config": config}
    files["config_sentence_transformers"] = {"prompts": {"p": "P: "}, "default_prompt_name": "p"}
    folder = copy(tiny_encoder, tmp_path / "m", **files)
    with pytest.raises(UserError, match=word):
        embed.embed(TEXTS, str(folder))


def test_sentence_transformers_gives_the_same_vectors(tiny_encoder, tmp_path):
    """With the library installed; without it, asking for it is one clear line."""
    files = {"modules": modules("Pooling"), "sentence_bert_config": {"max_seq_length": 256}}
    config = {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True}
    folder = copy(tiny_encoder, tmp_path / "m", **files, **{"1_Pooling__config": config})
    asked = embed.Encoding(library="sentence-transformers", prompt="P: ")
    if importlib.util.find_spec("sentence_transformers") is None:
        with pytest.raises(UserError, match="sentence-transformers is not installed"):
            embed.embed(TEXTS, str(folder), encoding=asked)
        return
    found = embed.embed(TEXTS, str(folder), encoding=asked)
    here = embed.embed(TEXTS, str(folder), encoding=embed.Encoding(prompt="P: "))
    np.testing.assert_allclose(found, here, atol=1e-5)


def test_vectors_of_another_encoding_are_not_taken_for_those_asked_for(tiny_encoder, tmp_path):
    """Stored vectors are used again only for the same pooling and the same prompt."""
    texts = pl.Series(TEXTS)
    asked = [*(embed.Encoding(pooling=p) for p in POOLINGS), embed.Encoding("mean", "P: ")]
    found = [
        pipeline.embeddings(texts, str(tiny_encoder), tmp_path, progress.bar, how) for how in asked
    ]
    for how, vectors in zip(asked, found, strict=True):
        assert np.array_equal(vectors, embed.embed(TEXTS, str(tiny_encoder), encoding=how))
    stored = {path.name for path in tmp_path.glob("embeddings-*.npy")}
    own = pipeline.embeddings(texts, str(tiny_encoder), tmp_path, progress.bar)  # is the mean
    assert np.array_equal(own, found[0])
    assert {path.name for path in tmp_path.glob("embeddings-*.npy")} == stored and len(stored) == 4


def test_equal_texts_have_equal_rows_of_length_one_and_all_are_counted(tiny_encoder):
    counted = []
    found = embed.embed([*TEXTS, TEXTS[0]], str(tiny_encoder), counted.append)
    assert np.array_equal(found[0], found[4]) and sum(counted) == len(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


MANY = [f"Film {n} about the sea" + " and the land" * (n % 7) for n in range(600)]


class _Stopped(Exception):
    pass


def test_a_text_more_leaves_nearly_all_batches_as_they_were(monkeypatch):
    monkeypatch.setattr(embed_batches, "MOST_TOKENS", 400)
    widths = [20] * len(MANY)
    before = embed_batches.batches(MANY, widths)
    assert sorted(text for batch in before for text in batch) == sorted(MANY)
    assert before == embed_batches.batches(MANY[::-1], widths[::-1])
    for number in range(20):
        after = embed_batches.batches([*MANY, f"New {number}"], [*widths, 20])
        assert sum(len(batch) for batch in before if batch in after) >= 0.85 * len(MANY)


def test_what_was_embedded_before_a_kill_is_not_embedded_again(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_batches, "MOST_TOKENS", 400)
    kept, seen = embed_batches.Kept(tmp_path / "kept"), []

    def stop_half_way(count, old=False):
        seen.append((count, old))
        if len(seen) == 10:
            raise _Stopped

    with pytest.raises(_Stopped):
        embed.embed(MANY, str(tiny_encoder), stop_half_way, kept=kept)
    done = sum(count for count, _ in seen[:9])  # the tenth was told, and then not kept
    resumed = []
    found = embed.embed(MANY, str(tiny_encoder), lambda *told: resumed.append(told), kept=kept)
    assert sum(told[0] for told in resumed if told[1:] == (True,)) == done > 0
    assert sum(told[0] for told in resumed) == len(MANY)
    assert np.array_equal(found, embed.embed(MANY, str(tiny_encoder)))  # to the last bit


def test_kept_vectors_that_are_damaged_are_made_again(tiny_encoder, tmp_path):
    kept = embed_batches.Kept(tmp_path / "kept")
    found = embed.embed(TEXTS, str(tiny_encoder), kept=kept)
    for number, path in enumerate(sorted((tmp_path / "kept").iterdir())):
        path.write_bytes([b"", path.read_bytes()[:-8], b"\x93NUMPY"][number % 3])
    assert np.array_equal(found, embed.embed(TEXTS, str(tiny_encoder), kept=kept))


def test_a_cache_that_cannot_be_written_is_no_error(tiny_encoder, tmp_path):
    (tmp_path / "file").write_text("")
    kept = embed_batches.Kept(tmp_path / "file" / "kept")
    assert len(embed.embed(TEXTS, str(tiny_encoder), kept=kept)) == len(TEXTS)


def test_a_catalogue_with_one_more_item_embeds_that_one(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("USERMIRRORER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embed_batches, "MOST_TOKENS", 400)
    steps = []

    @contextlib.contextmanager
    def bar(text, total):
        yield lambda count, old=False: steps.append((count, old))

    pipeline.embeddings(pl.Series(MANY), str(tiny_encoder), tmp_path / "one", bar)
    steps.clear()
    pipeline.embeddings(pl.Series([*MANY, "New"]), str(tiny_encoder), tmp_path / "two", bar)
    assert sum(count for count, old in steps if not old) < len(MANY) // 6
