"""Made-up scenes and preference pairs, and a tokenizer trained on the spot."""

from __future__ import annotations

from datetime import UTC, datetime

from usermirrorer.builders.prompts import answer, messages
from usermirrorer.builders.schema import LABELS

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TITLES = ("Alien", "Brazil", "Casablanca", "Dune", "Fargo", "Gilda", "Heat")


def scene(number: int, options: int = 5, domain: str = "movielens") -> dict:
    """Return one made-up scene whose target stands at a position that depends on `number`."""
    exposure = [
        f"{TITLES[(number + i) % len(TITLES)]} ({1950 + number % 50})" for i in range(options)
    ]
    return {
        "scene_id": f"scene{number:04d}",
        "domain": domain,
        "source": domain,
        "user_id": f"user{number % 7}",
        "item_id": "0",
        "timestamp": datetime(2020, 1, 1, tzinfo=UTC),
        "profile": f"A person of {20 + number % 40} years",
        "history": [f"watched {title}, 2 days ago" for title in TITLES[: 1 + number % 4]],
        "exposure": exposure,
        "exposure_item_ids": [str(i) for i in range(options)],
        "exposure_origin": ["target", *["random"] * (options - 1)],
        "exposure_popularity": list(range(options)),
        "history_similarity": [0.0] * options,
        "answer": number % options,
        "real_exposure": False,
    }


def thought(number: int) -> str:
    """Return a decision process with every field."""
    return "\n".join(
        [
            "Thought:",
            f"Stimulus: I want a film for evening {number}",
            "Stimulus Factors: Boredom, Time of Day",
            "Knowledge: I know some of these titles",
            "Knowledge Factors: Past Experience, Novelty",
            "Evaluation: It suits my taste",
            "Evaluation Style: Intuitive",
        ]
    )


def pair(number: int, domain: str = "movielens") -> dict:
    """Return one preference pair made from `scene(number)`."""
    there = scene(number, domain=domain)
    right, wrong = LABELS[there["answer"]], LABELS[(there["answer"] + 1) % 5]
    return {
        "prompt": messages(there),
        "chosen": [{"role": "assistant", "content": answer(right, thought(number))}],
        "rejected": [{"role": "assistant", "content": answer(wrong, thought(number + 1))}],
        **{name: there[name] for name in ("scene_id", "domain", "source")},
        "options": 5,
        "chosen_behavior": right,
        "rejected_behavior": wrong,
        "chosen_model": "strong",
        "rejected_model": "weak",
        "chosen_entropy": 0.5,
        "rejected_entropy": 1.5,
        "epistemic_weak": 1.5,
        "epistemic_strong": 0.5,
        "epistemic_delta": 1.0,
    }


def train_tokenizer(corpus: list[str], use_regex: bool = True):
    """Return a byte-level BPE tokenizer with a chat template, trained on `corpus`.

    Without `use_regex`, tokens may run over words and signs.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
