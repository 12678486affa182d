"""Whether LightGBM can take a model's text: it follows the numbers unchecked, and a wrong one ends the process."""

import itertools
import re
from typing import Final

#: For each split (one fewer than leaves), and for each leaf; a tree of one leaf may leave the latter's weight out.
_SPLITS: Final = (
    "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "internal_value",
    "internal_weight", "internal_count",
)  # fmt: skip
_LEAVES: Final = ("leaf_value", "leaf_weight", "leaf_count")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")


def check_text(text: str, classes: int) -> None:
    """ValueError where a part of the text is missing or points nowhere; `classes`: trees of one round."""
    head, _, rest = text.partition("\n\n")
    entries = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    sizes = [int(size) for size in entries.get("tree_sizes", "").split()]
    wanted = [entries.get("num_class"), entries.get("num_tree_per_iteration")]
    features = int(entries.get("max_feature_idx", "-1")) + 1
    names = len(entries.get("feature_names", "").split()), len(entries.get("feature_infos", "").split())
    if wanted != [str(classes)] * 2 or not sizes or len(sizes) % classes or names != (features, features):
        raise ValueError("a LightGBM model's first lines do not fit each other")
    start = 0
    for number, size in enumerate(sizes):
        tree = rest[start : start + size]
        if size <= 0 or not tree.startswith(f"Tree={number}\n") or not _is_tree(tree, features):
            raise ValueError(f"tree {number} of a LightGBM model is damaged")
        start += size
    if not rest[start:].startswith("end of trees\n"):
        raise ValueError("a LightGBM model does not end after its last tree")


def _is_tree(text: str, features: int) -> bool:
    entries = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if entries.get("is_linear") != "0" or not re.fullmatch(r"[0-9]{1,6}", entries.get("num_cat", "")):
        return False
    if not re.fullmatch(r"[1-9][0-9]{0,5}", entries.get("num_leaves", "")):
        return False
    leaves = int(entries["num_leaves"])
    splits = {name: _numbers(entries.get(name, ""), endless=name == "threshold") for name in _SPLITS}
    ends = {name: _numbers(entries.get(name, "")) for name in _LEAVES}
    if leaves == 1:
        return not any(splits.values()) and len(ends["leaf_value"]) == 1
    lengths = [len(found) + 1 for found in splits.values()] + [len(found) for found in ends.values()]
    if set(lengths) != {leaves}:
        return False
    # a child is a later split, so that no path goes round, or a leaf: -1 is the first
    children = [(at, child) for side in ("left_child", "right_child") for at, child in enumerate(splits[side])]
    return (
        all(child in range(at + 1, leaves - 1) or (-child - 1 in range(leaves) and child < 0) for at, child in children)
        and len({child for _, child in children}) == 2 * leaves - 2
        and all(feature in range(features) for feature in splits["split_feature"])
        and all(kind in range(16) for kind in splits["decision_type"])
        and _are_categories(entries, splits["decision_type"], splits["threshold"])
    )


def _are_categories(entries: dict[str, str], kinds: list[float], thresholds: list[float]) -> bool:
    """Splits by categories are of an odd kind; each one's threshold says which of the `num_cat` sets of bits goes left,
    and `cat_boundaries` where its words of 32 bits lie in `cat_threshold`."""
    sets = int(entries["num_cat"])
    bounds, words = (_numbers(entries.get(name, "")) for name in ("cat_boundaries", "cat_threshold"))
    which = [threshold for kind, threshold in zip(kinds, thresholds, strict=True) if kind % 2]
    if not sets:
        return not which and not bounds and not words
    return (
        len(bounds) == sets + 1
        and all(type(bound) is int for bound in bounds)
        and bounds[0] == 0
        and all(one < other for one, other in itertools.pairwise(bounds))
        and bounds[-1] == len(words)
        and all(type(word) is int and 0 <= word < 2**32 for word in words)
        and all(threshold in range(sets) for threshold in which)
    )


def _numbers(text: str, *, endless: bool = False) -> list[float]:
    """`endless`: a number may be infinite, as the threshold that parts what is missing from the rest."""
    words = text.split(" ") if text else []
    if not all(_NUMBER.fullmatch(word) or (endless and word in ("inf", "-inf")) for word in words):
        raise ValueError("a LightGBM model holds a number that is none")
    return [float(word) if set(word) & set(".eEi") else int(word) for word in words]
