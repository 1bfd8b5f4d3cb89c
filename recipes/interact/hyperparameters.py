"""The ten recommenders of section 4.3 with Table 8's hyperparameters.

Names of settings are those of the library (`hopwise`, of RecBole's family). What Table 8 does not
say is the library's default, except how long is trained: the paper trains until validation stops
improving, and so do we, but for at most `epochs`, and looking every `eval_step`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from usermirrorer.builders.common.errors import UserError

#: Table 8.
TABLE_8: dict[str, dict[str, Any]] = {
    "BPR": {"embedding_size": 64, "learning_rate": 0.001},
    "LightGCN": {"embedding_size": 64, "n_layers": 2, "learning_rate": 0.001, "reg_weight": 0.001},
    "MultiDAE": {
        "latent_dimension": 64,
        "mlp_hidden_size": [600],
        "learning_rate": 0.001,
        "dropout_prob": 0.5,
    },
    "DiffRec": {
        "noise_schedule": "linear",
        "noise_scale": 0.001,
        "noise_min": 0.0005,
        "noise_max": 0.005,
        "dims_dnn": [300],
        "learning_rate": 0.0001,
        "weight_decay": 1e-5,
        "steps": 5,
        "w_min": 0.1,
    },
    "SGL": {
        "type": "ED",
        "n_layers": 2,
        "ssl_tau": 0.5,
        "embedding_size": 64,
        "drop_ratio": 0.1,
        "learning_rate": 0.001,
        "reg_weight": 1e-5,
        "ssl_weight": 0.05,
    },
    "NeuMF": {
        "mf_embedding_size": 64,
        "mlp_embedding_size": 64,
        "mlp_hidden_size": [64, 32, 16],
        "dropout_prob": 0.1,
        "learning_rate": 0.001,
    },
    "NGCF": {
        "embedding_size": 64,
        "hidden_size_list": [64, 64, 64],
        "message_dropout": 0.1,
        "reg_weight": 1e-5,
    },
    "SimpleX": {
        "embedding_size": 64,
        "margin": 0.9,
        "negative_weight": 10,
        "reg_weight": 1e-5,
        "gamma": 0.5,
    },
    "SASRec": {
        "hidden_size": 64,
        "inner_size": 256,
        "n_layers": 2,
        "learning_rate": 0.001,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
    },
    "NARM": {
        "embedding_size": 64,
        "hidden_size": 128,
        "n_layers": 1,
        "learning_rate": 0.001,
        "dropout_probs": [0.25, 0.5],  # Table 8 says 0.5; the first is of embeddings
    },
}
RECOMMENDERS = tuple(TABLE_8)
_BY_ROWS = ("MultiDAE", "DiffRec")  # a batch is of users, and an epoch a few steps
_BY_SEQUENCES = ("SASRec", "NARM")


@dataclass(frozen=True)
class Schedule:
    """How long recommenders are trained.

    Args:
        effort: Scales the largest number of epochs; 1 is the default scale.
        patience: Evaluations without improvement after which training stops.
    """

    effort: float = 1.0
    patience: int = 3


def settings(recommender: str, schedule: Schedule) -> dict[str, Any]:
    """Return all settings of a recommender under which the library trains it."""
    if recommender in _BY_ROWS:
        most, step, batch = 200, 10, 32
    elif recommender in _BY_SEQUENCES:
        most, step, batch = 10, 1, 256
    else:
        most, step, batch = 60, 4, 512
    epochs = max(1, round(most * schedule.effort))
    return {
        **TABLE_8[recommender],
        "epochs": epochs,
        "eval_step": min(step, epochs),
        "stopping_step": schedule.patience,
        "train_batch_size": batch,
        "eval_batch_size": 1 << 20,
        "MAX_ITEM_LIST_LENGTH": 20,
    }


def check(names: Sequence[str], known: Mapping[str, Any] = TABLE_8) -> tuple[str, ...]:
    """Return names of recommenders as they are spelt here, each once.

    Raises:
        UserError: if one is not known, with the nearest that is.
    """
    spelt = {name.lower(): name for name in known}
    for name in names:
        if name.lower() not in spelt:
            near = difflib.get_close_matches(name.lower(), spelt, 1, 0.0)
            raise UserError(
                f"no recommender is called {name!r}",
                where="--recommenders",
                fix=f"Did you mean {spelt[near[0]]}? Known: {', '.join(known)}.",
            )
    return tuple(dict.fromkeys(spelt[name.lower()] for name in names))
