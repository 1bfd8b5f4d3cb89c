"""Names and Arrow schemas of everything that is stored: the contract between all stages.

Raw files become four canonical tables per source (`USERS`, `ITEMS`, `INTERACTIONS`, and
`IMPRESSIONS` where the source logged them), those become scenes (`SCENE`, Definition 2.1 of the
paper), scenes become decision processes (`DECISION`, section 3.2), and those become preference
pairs (`PREFERENCE`, appendix B.2). Entropies are in bits (log2), timestamps in UTC seconds.
"""

from __future__ import annotations

import pyarrow as pa

#: Raised by one whenever a column is added, removed or changes meaning; a release whose schema
#: version differs from its predecessor's must be a new major version.
SCHEMA_VERSION = 2

#: Option labels: a model is shown at most so many options.
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: Exposures of stored scenes have at most 13 items (N of 2..12 plus the target, section 2.2).
SCENE_OPTIONS = 13
#: Longest prompt and generation together, in tokens (the context cap of the configurations).
CONTEXT_TOKENS = 6144
ORIGINS = ("target", "logged", "content", "collaborative", "random", "contemporary")
#: How exposures are made: `scenes/world.py` explains the first three; `logged` ones were shown.
EXPOSURE_MODES = ("exchangeable", "retrieved", "paper", "logged")

_UTC = pa.timestamp("ms", tz="UTC")  # Parquet has no coarser unit
_TEXTS = pa.list_(pa.string())

#: Canonical tables, stored by `tables.py`. Each may carry further columns of its source, which only
#: that source's templates read: `Source.columns` documents them.
USERS = pa.schema([pa.field("user_id", pa.string(), nullable=False)])
ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),  # what a reader tells items apart by
        pa.field("text", pa.string(), nullable=False),  # what the embedding model reads
        pa.field("available_from", _UTC),  # null: not known, then the first interaction counts
    ]
)
INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", _UTC, nullable=False),
    ]
)
IMPRESSIONS = pa.schema(
    [
        pa.field("impression_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("timestamp", _UTC, nullable=False),
        pa.field("item_ids", _TEXTS, nullable=False),
        pa.field("clicked", pa.list_(pa.bool_()), nullable=False),
    ]
)
#: Name of a stored table -> columns that it has for every source.
TABLES = {
    "users": USERS,
    "items": ITEMS,
    "interactions": INTERACTIONS,
    "impressions": IMPRESSIONS,
}

SCENE = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", _UTC, nullable=False),
        pa.field("profile", pa.string(), nullable=False),
        pa.field("history", _TEXTS, nullable=False),  # oldest first
        pa.field("history_item_ids", _TEXTS, nullable=False),
        pa.field("history_timestamps", pa.list_(_UTC), nullable=False),
        pa.field("exposure", _TEXTS, nullable=False),  # one text per option, in label order
        pa.field("exposure_item_ids", _TEXTS, nullable=False),
        pa.field("exposure_origin", _TEXTS, nullable=False),  # one of ORIGINS per option
        # Features of each option, for audits and baselines without the raw files. Popularity counts
        # train users' interactions strictly before the scene; collaborative and sequential scores
        # are as of the last refresh before it.
        pa.field("exposure_popularity", pa.list_(pa.int64()), nullable=False),
        pa.field("exposure_collaborative", pa.list_(pa.float32()), nullable=False),
        pa.field("exposure_sequential", pa.list_(pa.float32()), nullable=False),
        pa.field("exposure_hub", pa.list_(pa.float32()), nullable=False),  # mean cosine to others
        pa.field("exposure_before", pa.list_(pa.float32()), nullable=False),  # largest to earlier
        pa.field("exposure_age", pa.list_(pa.float32()), nullable=False),  # days, NaN: not known
        pa.field("history_similarity", pa.list_(pa.float32()), nullable=False),  # to its centroid
        pa.field("history_gap", pa.int64()),  # seconds since its last line; null without history
        pa.field("answer", pa.int8(), nullable=False),  # index of the real behaviour
        pa.field("exposure_mode", pa.string(), nullable=False),  # one of EXPOSURE_MODES
        pa.field("real_exposure", pa.bool_(), nullable=False),
    ]
)

DECISION = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("sample", pa.int16(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # the generation as it came
        pa.field(
            "thought", pa.string(), nullable=False
        ),  # up to the Behavior line; "" if malformed
        pa.field("behavior", pa.int8()),  # parsed option index; null if malformed
        pa.field("malformed", pa.string(), nullable=False),  # reason, "" if well formed
        pa.field("probabilities", pa.list_(pa.float32())),  # P(Y | X + D) by the judge
        pa.field("entropy", pa.float32()),  # bits
        pa.field("tokens_in", pa.int32(), nullable=False),
        pa.field("tokens_out", pa.int32(), nullable=False),
    ]
)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PREFERENCE = pa.schema(
    [
        pa.field("prompt", _MESSAGES, nullable=False),
        pa.field("chosen", _MESSAGES, nullable=False),
        pa.field("rejected", _MESSAGES, nullable=False),
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("options", pa.int8(), nullable=False),
        pa.field("chosen_behavior", pa.string(), nullable=False),  # label
        pa.field("rejected_behavior", pa.string(), nullable=False),
        pa.field("chosen_model", pa.string(), nullable=False),
        pa.field("rejected_model", pa.string(), nullable=False),
        pa.field("chosen_entropy", pa.float32(), nullable=False),  # bits
        pa.field("rejected_entropy", pa.float32(), nullable=False),
        pa.field("epistemic_weak", pa.float32(), nullable=False),  # E[H], bits
        pa.field("epistemic_strong", pa.float32(), nullable=False),
        pa.field("epistemic_delta", pa.float32(), nullable=False),  # weak - strong, equation 3
    ]
)

#: Columns of SCENE with one number per option: they need no texts and no raw files.
OPTION_FEATURES = (
    "exposure_popularity",
    "exposure_collaborative",
    "exposure_sequential",
    "exposure_hub",
    "exposure_before",
    "exposure_age",
    "history_similarity",
)


def labels(options: int) -> list[str]:
    """Return the first `options` labels, `["A", "B", ...]`.

    Raises:
        ValueError: if there are not between 2 and 26 options.
    """
    if not 2 <= options <= len(LABELS):
        raise ValueError(f"an exposure has 2 to {len(LABELS)} options, not {options}")
    return list(LABELS[:options])


def assert_schema(schema: pa.Schema, expected: pa.Schema) -> None:
    """Raise ValueError, naming the first difference, unless `schema` holds `expected`'s fields."""
    for field in expected:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise ValueError(f"column {field.name!r} is missing")
        if not schema.field(index).type.equals(field.type):
            raise ValueError(
                f"column {field.name!r} is {schema.field(index).type}, expected {field.type}"
            )
