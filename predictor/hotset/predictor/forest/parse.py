"""LightGBM's text model (versions 3 and 4) as a flat forest, without LightGBM.

The text is documented by LightGBM's src/boosting/gbdt_model_text.cpp and src/io/tree.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.errors import ModelError
from hotset.protos.forest import EXP, IDENTITY, NAN_LEFT, SIGMOID, ZERO_IS_MISSING, FlatForest

_LINKS = {"poisson": EXP, "gamma": EXP, "tweedie": EXP, "cross_entropy": SIGMOID, "binary": SIGMOID}
_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "")
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_NONE, _MISSING_ZERO = 0, 1


class _Tree(NamedTuple):
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    flags: npt.NDArray[np.uint8]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    leaf: npt.NDArray[np.float64]


def parse_text(text: str, features_hash: str = "") -> FlatForest:
    """Raises ModelError if `text` is not such a model, is truncated, or uses what we do not serve.

    Not served: several classes, categorical splits, linear leaves, `regression_sqrt`.
    """
    body, end, _ = text.partition("\nend of trees")
    header, *sections = body.split("\nTree=")
    facts = _pairs(header)
    if not header.startswith("tree") or not end or not sections:
        raise ModelError("not a LightGBM text model, or a truncated one")
    try:
        columns = int(facts["max_feature_idx"]) + 1
        if int(facts.get("num_class", "1")) != 1 or int(facts.get("num_tree_per_iteration", "1")) != 1:
            raise ModelError("a forest of one output is needed; this one has several classes")
        trees = [_tree(_pairs(section)) for section in sections]
    except (KeyError, ValueError, IndexError, OverflowError) as error:
        raise ModelError(f"the LightGBM text model is damaged: {error!r}"[:200]) from None
    link, slope = _link(facts.get("objective", ""))
    scale = slope / len(trees) if "average_output" in facts else slope
    return _join(trees, columns, features_hash, link, scale)


def feature_names(text: str) -> list[str]:
    """The names of the columns that a text model was trained with."""
    return _pairs(text.partition("\nTree=")[0]).get("feature_names", "").split()


def _pairs(section: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.strip().partition("=") for line in section.splitlines())}


def _link(objective: str) -> tuple[int, float]:
    """Link and the factor that the sum of leaves takes before it."""
    name, *options = objective.split() or [""]
    if name in _LINKS:
        found = dict(option.partition(":")[::2] for option in options)
        return _LINKS[name], float(found.get("sigmoid", 1.0)) if name == "binary" else 1.0
    if name not in _IDENTITY or "sqrt" in options:
        raise ModelError(f"objective {objective!r} cannot be served; train with a regression or binary objective")
    return IDENTITY, 1.0


def _tree(facts: dict[str, str]) -> _Tree:
    if int(facts.get("num_cat", "0")) or int(facts.get("is_linear", "0")):
        raise ModelError("categorical splits and linear leaves cannot be served")
    leaf = np.array(facts["leaf_value"].split(), np.float64)
    if len(leaf) != int(facts["num_leaves"]):
        raise ModelError("the LightGBM text model is damaged: leaves are missing")
    if len(leaf) == 1:
        none = np.empty(0, np.int32)
        return _Tree(none, none.astype(np.float32), none.astype(np.uint8), none, none, leaf)
    threshold = np.array(facts["threshold"].split(), np.float64)
    return _Tree(
        np.array(facts["split_feature"].split(), np.int32),
        floor32(threshold),
        _flags(np.array(facts["decision_type"].split(), np.int32), threshold),
        np.array(facts["left_child"].split(), np.int32),
        np.array(facts["right_child"].split(), np.int32),
        leaf,
    )


def floor32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest float32 at most each value: for a float32 x, x <= value if and only if x <= floor32(value)."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
        below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded.astype(np.float64) > values, below, rounded)


def _flags(decision: npt.NDArray[np.int32], threshold: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    if bool((decision & _CATEGORICAL).any()):
        raise ModelError("categorical splits cannot be served")
    missing = (decision >> 2) & 3
    # Where nothing was missing in training, LightGBM reads NaN as 0.
    nan_left = np.where(missing == _MISSING_NONE, threshold >= 0.0, (decision & _DEFAULT_LEFT) > 0)
    flags: npt.NDArray[np.uint8] = (nan_left * NAN_LEFT + (missing == _MISSING_ZERO) * ZERO_IS_MISSING).astype(np.uint8)
    return flags


def _join(trees: list[_Tree], columns: int, features_hash: str, link: int, scale: float) -> FlatForest:
    nodes = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    leaves = np.cumsum([0, *(len(tree.leaf) for tree in trees)])

    def children(side: str) -> npt.NDArray[np.int32]:
        moved = [
            np.where(child >= 0, child + nodes[i], child - leaves[i])
            for i, child in enumerate(getattr(tree, side) for tree in trees)
        ]
        return np.concatenate(moved).astype(np.int32)

    roots = [nodes[i] if len(tree.feature) else ~leaves[i] for i, tree in enumerate(trees)]
    return FlatForest(
        features=columns,
        features_hash=features_hash,
        link=link,
        scale=scale,
        roots=np.array(roots, np.int32),
        feature=np.concatenate([tree.feature for tree in trees]),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        flags=np.concatenate([tree.flags for tree in trees]),
        left=children("left"),
        right=children("right"),
        leaf=np.concatenate([tree.leaf for tree in trees]),
    )
