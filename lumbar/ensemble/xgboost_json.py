"""Whether XGBoost can take a model's JSON: it follows the numbers unchecked, and a wrong one may end the process."""

import json
import math
import re
from typing import Any, Final

from lumbar.files.read import parse_json

#: Twice what the longest trained of a blend's models take: 10,000 rounds of `xgboost_raw` at its published pace.
_MOST_BYTES: Final = 1 << 26
_NO_PARENT: Final = 2**31 - 1
_WHOLE: Final = ("left_children", "right_children", "parents", "split_indices", "split_type", "default_left")
_REAL: Final = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
_CATEGORIES: Final = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_NUMBER: Final = r"[+-]?[0-9]{1,12}(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?"
_LARGEST_FLOAT: Final = 3.4e38


def checked_json(model: bytes, features: int, classes: int) -> bytes:
    """The model written anew, of what was looked at and nothing else; `classes`: trees of one round.

    ValueError or InputError where it is no JSON, a part is missing, unknown or points nowhere, or it was fitted on
    another number of features.
    """
    if len(model) > _MOST_BYTES:
        raise ValueError(f"a model of XGBoost has {len(model) >> 20} MiB, more than a blend needs")
    try:
        content = parse_json(model.decode(), "a model of XGBoost", "its end or more may be missing")
        _check(content, features, classes)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("a part of a model of XGBoost is missing or of another kind") from error
    return json.dumps(content, allow_nan=False).encode()


def _check(content: Any, features: int, classes: int) -> None:
    learner, booster = content["learner"], content["learner"]["gradient_booster"]
    model, own = booster["model"], learner["learner_model_param"]
    _known(content, {"learner", "version"})
    _known(
        learner, {"attributes", "gradient_booster", "learner_model_param", "objective"}, "feature_names feature_types"
    )
    _known(booster, {"model", "name"})
    _known(model, {"gbtree_model_param", "tree_info", "trees"}, "cats iteration_indptr")
    trees = model["trees"]
    if not isinstance(trees, list) or not trees or len(trees) % classes:
        raise ValueError("a model of XGBoost does not hold whole rounds of trees")
    _same(
        content["version"], [part for part in content["version"] if type(part) is int and 0 <= part < 1000], "version"
    )
    _same(len(content["version"]), 3, "version")
    _same(
        [learner["attributes"], learner.get("feature_names", []), learner.get("feature_types", [])],
        [{}, [], []],
        "names",
    )
    _same(booster["name"], "gbtree", "name")
    objective = {"name": "multi:softprob", "softmax_multiclass_param": {"num_class": str(classes)}}
    _same(learner["objective"], objective, "objective")
    _settings(
        own, {"num_class": str(classes), "num_feature": str(features)}, "boost_from_average num_target base_score"
    )
    _settings(model["gbtree_model_param"], {"num_trees": str(len(trees))}, "num_parallel_tree size_leaf_vector")
    _same(model.get("cats", _NO_CATS), _NO_CATS, "cats")
    rounds = list(range(0, len(trees) + 1, classes))
    _same(model.get("iteration_indptr", rounds), rounds, "iteration_indptr")
    _same(model["tree_info"], list(range(classes)) * (len(trees) // classes), "tree_info")
    for number, tree in enumerate(trees):
        if not _is_tree(tree, number, features):
            raise ValueError(f"tree {number} of a model of XGBoost is damaged")


_NO_CATS: Final[dict[str, list[Any]]] = {"enc": [], "feature_segments": [], "sorted_idx": []}


def _known(table: dict[str, Any], needed: set[str], optional: str = "") -> None:
    _same(sorted(needed - table.keys()) + sorted(table.keys() - needed - set(optional.split())), [], "parts")


def _same(found: Any, wanted: Any, what: str) -> None:
    """Same values of same kinds: to Python 1, 1.0 and True are equal, to XGBoost they are not."""
    if repr(found) != repr(wanted) and not (isinstance(found, dict) and _ordered(found) == _ordered(wanted)):
        raise ValueError(f"in a model of XGBoost the {what} is damaged")


def _ordered(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _settings(table: dict[str, Any], fixed: dict[str, str], small: str) -> None:
    """Values are texts: these, and of the names in `small` 0 or 1, or a starting score."""
    _known(table, set(fixed), small)
    for name, value in table.items():
        numbers = rf"{_NUMBER}|\[{_NUMBER}(,{_NUMBER}){{0,9}}\]"
        pattern = re.escape(fixed[name]) if name in fixed else numbers if name == "base_score" else "[01]"
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"in a model of XGBoost {name} is damaged or does not fit")


def _is_tree(tree: dict[str, Any], number: int, features: int) -> bool:
    own = tree["tree_param"]
    nodes = len(tree["left_children"])
    _known(tree, {"id", "tree_param", *_WHOLE, *_REAL, *_CATEGORIES})
    _same(tree["id"], number, "id")
    _same(
        own, {"num_deleted": "0", "num_feature": str(features), "num_nodes": str(nodes)} | _leaf_size(own), "tree_param"
    )
    whole, real = ([tree[name] for name in names] for names in (_WHOLE, _REAL))
    if not all(isinstance(values, list) and len(values) == nodes for values in (*whole, *real)):
        return False
    if any(tree[name] != [] for name in _CATEGORIES) or not nodes:
        return False
    if not all(type(value) is int for values in whole for value in values):
        return False
    if not all(type(value) in (int, float) and abs(value) < _LARGEST_FLOAT for values in real for value in values):
        return False
    left, right, parents, indices, kinds, defaults = whole
    if not (all(math.isfinite(value) for values in real for value in values) and set(kinds) == {0}):
        return False
    above = [_NO_PARENT] * nodes
    for at, children in enumerate(zip(left, right, strict=True)):
        if children == (-1, -1):
            continue
        for child in children:  # later than its parent and of that one alone, so that no path goes round
            if not at < child < nodes or above[child] != _NO_PARENT:
                return False
            above[child] = at
    return (
        above == parents
        and _NO_PARENT not in above[1:]
        and all(index in range(features) for index in indices)
        and set(defaults) <= {0, 1}
    )


def _leaf_size(own: dict[str, Any]) -> dict[str, str]:
    return {"size_leaf_vector": own["size_leaf_vector"]} if own.get("size_leaf_vector") in ("0", "1") else {}
