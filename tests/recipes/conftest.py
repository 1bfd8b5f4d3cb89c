"""A tiny chat model with its own tokenizer, and small files of scenes and preference pairs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from recipe_rows import pair, scene, train_tokenizer

from usermirrorer.builders.schema import PREFERENCE, SCENE
from usermirrorer.builders.shards import write_table


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.parquet"
    rows = [pair(i, "movielens" if i % 3 else "steam") for i in range(24)]
    write_table(path, pa.Table.from_pylist(rows, schema=PREFERENCE))
    return path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes.parquet"
    rows = [scene(i, 3 + i % 5, "movielens" if i % 3 else "steam") for i in range(24)]
    write_table(path, pa.Table.from_pylist(rows, schema=SCENE))
    return path


@pytest.fixture(scope="session")
def tokenizer():
    texts = [m["content"] for i in range(24) for m in (*pair(i)["prompt"], *pair(i)["chosen"])]
    return train_tokenizer(texts)


@pytest.fixture(scope="session")
def tiny_model(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Llama of about 100,000 parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("model") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
