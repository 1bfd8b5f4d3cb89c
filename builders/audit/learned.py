"""Gradient boosting over what can be read of an option: what any learner could find.

Small on purpose: a few trees of few leaves with many options each, so that a few hundred scenes do
not teach it noise, and thousands are fitted in seconds. Numbers are compared within their list, by
rank and by deviation from the mean, since one option is chosen among those shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from usermirrorer.builders.audit.cues import lengths
from usermirrorer.builders.audit.lists import Lists

#: What says something of the option only; the others compare it with the person's history.
_OF_OPTION = ("exposure_popularity", "exposure_age", "exposure_hub", "exposure_before")
_OF_HISTORY = ("history_similarity", "exposure_collaborative", "exposure_sequential")
#: Of `neighbours`, beside what travels with the scenes.
ALIKE = "item_item"
_FOLDS = 5


def features(lists: Lists, has: np.ndarray, alike: np.ndarray | None) -> np.ndarray:
    """Return what the learner reads, float32 [options, features].

    Args:
        lists: Scenes.
        has: Which fields the options' texts have, bool [options, fields].
        alike: How alike each option is to its history, see `neighbours`, [options]; None for a
            learner that reads nothing that depends on the person.
    """
    columns = [lists.position, lists.sizes[lists.scene]]
    columns += [lists.position / (lists.sizes[lists.scene] - 1)]
    numbers = {name: lists.numbers[name] for name in _OF_OPTION}
    numbers["exposure_popularity"] = np.log1p(np.maximum(numbers["exposure_popularity"], 0))
    numbers["exposure_age"] = np.log1p(np.maximum(numbers["exposure_age"], 0))
    numbers["length"] = lengths(lists.text)
    if alike is not None:
        numbers |= {name: lists.numbers[name] for name in _OF_HISTORY}
        numbers[ALIKE] = alike
        columns += [lists.gap[lists.scene]]
    for values in numbers.values():
        columns += [values, lists.standardised(values), lists.ranks(values)]
    for flag in has.T.astype(float):
        columns += [flag, flag - (np.add.reduceat(flag, lists.starts) / lists.sizes)[lists.scene]]
    return np.column_stack(columns).astype(np.float32)


def fit(x: np.ndarray, lists: Lists) -> Any:
    """Fit a classifier of targets among options; the same on any number of cores.

    Args:
        x: Of `features`.
        lists: The scenes that x was read from.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    chosen = np.zeros(len(x), np.int8)
    chosen[lists.target] = 1
    model = HistGradientBoostingClassifier(
        max_iter=120,
        learning_rate=0.08,
        max_leaf_nodes=12,
        min_samples_leaf=max(20, len(x) // 400),
        l2_regularization=5.0,
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(limits=1, user_api="openmp"):  # sums depend on how they are divided
        return model.fit(x, chosen)


def scores(train: Lists | None, test: Lists, has: tuple, alike: tuple) -> np.ndarray:
    """Return how likely each option of the test scenes is the target, [options].

    Args:
        train: Scenes to learn from, of other users; without them the test scenes are scored in
            five parts by users, each by what the others teach.
        test: Scenes to score.
        has: Fields of the train and of the test scenes' options, see `features`.
        alike: The same of the neighbours, or None for both.
    """
    x = features(test, has[1], alike[1])
    if train is not None:
        return _score(fit(features(train, has[0], alike[0]), train), x)
    fold = test.user % _FOLDS
    scored = np.zeros(len(x))
    for part in np.unique(fold):
        of_part = fold[test.scene] == part
        if not of_part.all():
            others = test.take(np.flatnonzero(fold != part))
            scored[of_part] = _score(fit(x[~of_part], others), x[of_part])
    return scored


def _score(model: Any, x: np.ndarray) -> np.ndarray:
    return model.predict_proba(x)[:, 1]
