"""Numbers printed in the paper. They stand beside scores as a reference and were not run here."""

from __future__ import annotations

#: Column order of Table 1.
DOMAINS = (
    "mind",
    "amazon",
    "kuairec",
    "lastfm",
    "goodreads",
    "movielens",
    "mobilerec",
    "steam",
)

#: Table 1: accuracy in percent, 5 samples per scene, in the order of `DOMAINS`, then "Overall".
#: "Overall" reproduces as the plain mean of the ten synthetic sources (Amazon counted as four) for
#: the open and fine-tuned models, and as the mean over all scenes, MIND included, for the
#: proprietary ones: `usermirror-synthetic` and `usermirror`.
TABLE_1: dict[str, tuple[float, ...]] = {
    "Gemma-3-4B-it": (27.5, 24.8, 27.7, 19.8, 50.0, 42.2, 26.1, 31.1, 29.6),
    "Gemma-3-12B-it": (29.1, 34.4, 26.8, 26.8, 56.5, 55.0, 23.1, 33.8, 36.0),
    "Qwen2.5-7B-Instruct": (25.9, 29.7, 28.1, 24.9, 57.2, 46.9, 27.0, 33.9, 33.7),
    "Qwen2.5-14B-Instruct": (27.9, 31.5, 32.3, 24.5, 63.1, 55.3, 26.0, 29.2, 35.6),
    "Qwen2.5-32B-Instruct": (28.7, 36.3, 31.1, 27.3, 70.7, 54.6, 26.0, 42.4, 39.7),
    "Qwen2.5-3B-Instruct": (27.2, 23.7, 26.4, 22.8, 41.1, 33.2, 22.4, 31.2, 27.2),
    "Qwen2.5-3B +SFT": (30.9, 43.3, 38.2, 32.6, 76.2, 57.4, 30.4, 56.6, 46.4),
    "Qwen2.5-3B +SFT+GRPO": (32.8, 49.9, 44.9, 36.0, 85.3, 64.6, 32.5, 67.7, 53.1),
    "Qwen2.5-3B +SFT+DPO": (33.5, 52.3, 46.2, 35.3, 86.3, 66.2, 32.5, 71.3, 54.7),
    "Llama-3.2-3B-Instruct": (19.9, 21.9, 22.5, 18.3, 27.1, 23.3, 22.1, 26.2, 22.7),
    "Llama-3.2-3B +SFT": (27.3, 44.1, 40.2, 28.5, 74.1, 51.5, 30.0, 59.8, 46.0),
    "Llama-3.2-3B +SFT+GRPO": (32.2, 48.4, 46.6, 38.2, 82.7, 65.3, 32.6, 68.0, 52.7),
    "Llama-3.2-3B +SFT+DPO": (34.0, 51.8, 48.7, 35.7, 86.9, 67.3, 34.7, 70.0, 55.0),
    "GPT-5-Nano": (28.4, 35.4, 31.9, 27.8, 65.6, 57.8, 24.5, 33.3, 36.8),
    "GPT-5-Mini": (31.4, 37.6, 32.3, 33.8, 74.4, 62.8, 25.0, 40.8, 40.7),
    "GPT-5.1": (31.0, 42.9, 31.3, 41.1, 74.5, 63.3, 26.6, 41.9, 42.6),
    "Gemini-2.5-Flash": (31.8, 43.3, 30.9, 34.2, 73.0, 64.4, 26.4, 46.1, 42.5),
    "Gemini-3.0-Pro-Preview": (34.8, 48.0, 32.7, 46.1, 82.0, 73.6, 29.2, 48.1, 47.7),
}

#: Models whose "Overall" is over all scenes.
PROPRIETARY = ("GPT-5-Nano", "GPT-5-Mini", "GPT-5.1", "Gemini-2.5-Flash", "Gemini-3.0-Pro-Preview")

#: Table 12: entropy in bits given the generated decision.
TABLE_12: dict[str, float] = {
    "Llama-3.2-3B-Instruct": 1.252,
    "Llama-3.2-3B +SFT": 0.219,
    "Llama-3.2-3B +SFT+DPO": 0.074,
    "Llama-3.2-3B +SFT+GRPO": 0.019,
    "Qwen2.5-32B-Instruct": 0.011,
}

#: Tables 10 and 11: feature -> accuracy with it alone, and without it (shares). The paper does not
#: say of which model.
TABLE_10: dict[str, tuple[float, float]] = {
    "History": (0.2578, 0.7188),
    "Price": (0.3135, 0.7041),
    "Player Reviews": (0.3770, 0.7002),
    "Specifications": (0.3672, 0.6807),
    "Tags": (0.5059, 0.6445),
    "Released Time": (0.3389, 0.6953),
    "Developer": (0.3203, 0.6973),
    "Title": (0.5400, 0.5938),
}
TABLE_11: dict[str, tuple[float, float]] = {
    "Rating": (0.4658, 0.8291),
    "History": (0.2637, 0.8652),
    "Published at (Interaction Time)": (0.6865, 0.8535),
    "Author": (0.6836, 0.8506),
    "Description": (0.2656, 0.8633),
    "Tags": (0.2510, 0.8730),
    "Title": (0.7080, 0.8291),
}

#: Table 13: ROUGE-L, ROUGE-2, BLEU-2, tokens. The teacher is its own reference.
TABLE_13: dict[str, tuple[float | None, float | None, float | None, float]] = {
    "Llama-3.2-3B-Instruct": (0.300, 0.239, 0.186, 273),
    "Llama-3.2-3B +SFT": (0.377, 0.291, 0.264, 218),
    "Llama-3.2-3B +SFT+GRPO": (0.376, 0.287, 0.261, 217),
    "Llama-3.2-3B +SFT+DPO": (0.376, 0.307, 0.266, 238),
    "Qwen2.5-3B-Instruct": (0.282, 0.176, 0.159, 179),
    "Qwen2.5-3B +SFT": (0.380, 0.293, 0.264, 220),
    "Qwen2.5-3B +SFT+GRPO": (0.380, 0.292, 0.264, 220),
    "Qwen2.5-3B +SFT+DPO": (0.375, 0.313, 0.263, 253),
    "Qwen2.5-32B-Instruct": (None, None, None, 218),
}

#: Table 14: the sources of the two groups, and accuracy in percent in that order, group 1 first.
GROUP_1 = ("amazon_fashion", "amazon_office", "mind", "goodreads", "mobilerec")
GROUP_2 = ("amazon_beauty", "amazon_grocery", "kuairec", "lastfm", "movielens", "steam")
TABLE_14: dict[str, tuple[float, ...]] = {
    "Llama-3.2-3B-Instruct": (22.3, 21.1, 19.9, 27.1, 22.1, 21.9, 22.3, 22.5, 18.3, 23.3, 26.2),
    "+SFT+DPO (full data)": (53.9, 52.6, 34.0, 86.9, 34.7, 49.8, 51.0, 48.7, 35.7, 67.3, 70.0),
    "+SFT+DPO (cross-domain)": (48.8, 41.2, 26.1, 68.5, 31.4, 37.4, 45.8, 39.2, 28.1, 54.6, 50.0),
    "GPT-5": (46.3, 35.0, 33.2, 78.9, 25.3, 41.6, 38.1, 30.8, 37.2, 61.1, 45.2),
}

#: Figure 7, as section D.2 says it: share of the mentions of each stage, in percent. The figure's
#: captions (a) and (b) are exchanged against its text, which is followed here.
FIGURE_7: dict[str, dict[str, float]] = {
    "stimulus": {
        "Curiosity": 21.6,
        "Emotional State": 20.4,
        "Past Experience": 12.3,
        "Need for Achievement": 10.7,
        "Time of Day": 9.4,
        "Boredom": 5.6,
        "Availability": 3.3,
        "Social Factors": 2.7,
        "Thematic Preferences": 2.5,
        "Location": 2.3,
        "Others": 9.2,
    },
    "knowledge": {
        "Rating Score Distribution": 11.1,
        "Personal Relevance": 9.2,
        "Emotional Appeal": 8.8,
        "Review Content Sentiment": 6.7,
        "Prior User Experience": 5.1,
        "Product Quality": 5.1,
        "Visual Presentation": 4.5,
        "Source Information Clarity": 4.2,
        "Perceived Novelty": 3.8,
        "Brand Reputation": 3.5,
        "Others": 37.9,
    },
    "evaluation": {"Logical": 89.4, "Intuitive": 10.3, "Others": 0.3},
}
