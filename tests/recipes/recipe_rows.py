"""Made-up scenes and preference pairs."""

from __future__ import annotations

from datetime import UTC, datetime

from usermirrorer.builders.common.schema import LABELS, OPTION_FEATURES
from usermirrorer.builders.decisions.prompts import answer, messages

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
        **{name: [0.0] * options for name in OPTION_FEATURES},
        "exposure_popularity": list(range(options)),
        "history_gap": 86_400,
        "answer": number % options,
        "exposure_mode": "exchangeable",
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
