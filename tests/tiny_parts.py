"""Small real parts made on the spot: a chat model, an encoder, MovieLens files in raw layout."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


#: Sizes of a model that vLLM runs on CPUs too: its smallest heads have 32 numbers.
FOR_VLLM = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "initializer_range": 0.2}


def tokenizer(corpus: Iterable[str] | None = None, *, vocabulary: int = 600, words: bool = True):
    """Return a byte-level BPE tokenizer with a chat template.

    It is trained on `corpus`, by default the decision prompt; without `words`, its tokens may run
    over words and signs.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, FIELDS

    prompts = (path.read_text(encoding="utf-8") for path in sorted(DEFAULT_PROMPTS.glob("*.jinja")))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        corpus or [*prompts, *FIELDS],
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def llama(text, seed: int = 0, **config):
    """Return a random Llama of about 100,000 parameters for the tokenizer `text`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # far from uniform, so that mistakes in scoring show
    }
    ends = {"eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id}
    made = LlamaConfig(vocab_size=len(text), bos_token_id=None, **ends, **{**sizes, **config})
    return LlamaForCausalLM(made).eval()


def chat_model(folder: Path, seed: int = 0, tokenizer=None, **config) -> Path:
    """Save a model of `llama` with its tokenizer, by default the small one."""
    text = tokenizer or globals()["tokenizer"]()
    llama(text, seed, **config).save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


def encoder(folder: Path) -> Path:
    """Save a random BERT encoder with its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    text = tokenizer()
    config = BertConfig(
        vocab_size=len(text),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    BertModel(config).save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


def movielens(folder: Path, *, users: int = 80, items: int = 120, each: int = 24) -> Path:
    """Write MovieLens-100K's original files with made-up people and films."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    zips = ["85711", "94043", "T8H1N"]
    jobs = ["student", "writer", "engineer", "other"]
    (folder / "u.user").write_text(
        "".join(
            f"{u}|{rng.randint(15, 70)}|{rng.choice('MF')}|{rng.choice(jobs)}|{rng.choice(zips)}\n"
            for u in range(1, users + 1)
        ),
        encoding="latin-1",
    )
    (folder / "u.item").write_text(
        "".join(
            f"{i}|Film {i} ({1930 + i % 60})|01-Jan-{1930 + i % 60}||http://x|"
            + "|".join(str(int(rng.random() < 0.2)) for _ in range(19))
            + "\n"
            for i in range(1, items + 1)
        ),
        encoding="latin-1",
    )
    lines = []
    for user in range(1, users + 1):
        start = 880_000_000 + rng.randint(0, 10_000_000)
        for n, item in enumerate(rng.sample(range(1, items + 1), each)):
            lines.append(f"{user}\t{item}\t{rng.randint(1, 5)}\t{start + 40 * n}\n")
    (folder / "u.data").write_text("".join(lines), encoding="latin-1")
    return folder
