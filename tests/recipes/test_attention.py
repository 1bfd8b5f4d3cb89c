"""Training attention on a CPU: what `sdpa` computes with its mask, and no document sees another."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig

from usermirrorer.recipes.attention import BY_DOCUMENT, suits

LENGTHS = (5, 1, 9)


@pytest.fixture(scope="module")
def models(tiny_model):
    """The same weights with our attention and with that of `sdpa`."""
    return [
        AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=name)
        for name in (BY_DOCUMENT, "sdpa")
    ]


def documents() -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return [torch.randint(3, 300, (n,), generator=drawn) for n in LENGTHS]


def packed(model, parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the logits [tokens, words] of documents in one row, as TRL's collator packs them."""
    ends = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(len(part)) for part in parts])
    more = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 9, "max_length_k": 9}
    return model(input_ids=torch.cat(parts)[None], position_ids=positions[None], **more).logits[0]


def alone(model, part: torch.Tensor) -> torch.Tensor:
    return model(input_ids=part[None]).logits[0]


def test_a_packed_document_gets_the_logits_and_gradients_of_itself_alone(models):
    ours, plain = models
    expected = torch.cat([alone(plain, part) for part in documents()])
    found = packed(ours, documents())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = [model.model.layers[0].self_attn.k_proj.weight for model in models]
    gradients = [
        torch.autograd.grad(out.logsumexp(-1).sum(), weight)[0]
        for out, weight in zip((found, expected), weights, strict=True)
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_no_document_sees_another(models):
    parts = documents()
    before = packed(models[0], parts)
    parts[0] = parts[0].flip(0)
    after = packed(models[0], parts)
    torch.testing.assert_close(after[LENGTHS[0] :], before[LENGTHS[0] :], atol=0, rtol=0)
    assert not torch.allclose(after[: LENGTHS[0]], before[: LENGTHS[0]])


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_get_the_logits_that_a_mask_gives(models, side):
    rows = torch.nn.utils.rnn.pad_sequence(documents(), True, padding_side=side)
    kept = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(part) for part in documents()], True, padding_side=side
    )
    ours, plain = (model(input_ids=rows, attention_mask=kept).logits for model in models)
    torch.testing.assert_close(ours[kept.bool()], plain[kept.bool()], atol=1e-5, rtol=1e-5)


def test_generation_with_padding_is_that_of_sdpa(models):
    rows = torch.nn.utils.rnn.pad_sequence(documents(), True, padding_side="left")
    kept = (rows != 0).long()
    ours, plain = (
        model.generate(
            rows, attention_mask=kept, max_new_tokens=4, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )
        for model in models
    )  # fmt: skip
    assert ours.sequences.tolist() == plain.sequences.tolist()
    torch.testing.assert_close(ours.logits[-1], plain.logits[-1], atol=1e-5, rtol=1e-5)


def test_models_with_windows_keep_their_own_attention(tiny_model):
    assert suits(AutoConfig.from_pretrained(tiny_model))
    windows = AutoConfig.for_model("qwen2", use_sliding_window=True, max_window_layers=1)
    assert not suits(windows)


def test_a_sliding_window_is_kept():
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=3, initializer_range=0.3,
    )  # fmt: skip
    outputs = []
    for name in (BY_DOCUMENT, "sdpa"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=name)
        outputs.append(packed(model, [part % 300 for part in documents()]))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
