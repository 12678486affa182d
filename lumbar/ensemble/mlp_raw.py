"""A small network for each group on raw probabilities and the level, as the fourth place's MLP is told of.

Of the original nothing is public but that there was one. Here it is the network of `cellwise` with other inputs: the
probabilities as they are, who speaks, and which level it is. Each inner fold stops a set of networks at its best epoch
on studies that they did not see; their probabilities are averaged. Too few studies for that fit nothing: the plain mean
stands.
"""

from typing import Final

import numpy as np
from safetensors.numpy import load, save

from lumbar.ensemble import cellwise
from lumbar.ensemble.cells import GROUPS, Cells
from lumbar.ensemble.cells import speakers as speakers_of
from lumbar.ensemble.fit import Fit, inner_folds
from lumbar.ensemble.objective import softmax
from lumbar.ensemble.prior import with_prior
from lumbar.ensemble.raw_trees import INNER, features_of
from lumbar.labels import CONDITION_GROUPS, LEVELS, SEVERITIES
from lumbar.metric import UNLABELLED

_FILE: Final = "mlp_raw.safetensors"


def fit(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    """`INNER` times three networks, fewer where an inner fold has no labels to learn from or to stop by.

    Codes (N, 5, 5).
    """
    members = speakers_of(cells)
    inputs = [_inputs(cells, group, members[group]) for group in range(len(GROUPS))]
    stored: dict[str, np.ndarray] = {}
    splits = [
        split
        for split in inner_folds(len(codes), INNER, seed)
        if all((codes[studies] != UNLABELLED).any() for studies in split)
    ]
    for number, (seen, held_out) in enumerate(splits):
        parts = ([part[studies] for part in inputs] for studies in (seen, held_out))
        networks = cellwise.train(next(parts), codes[seen], seed + number, (next(parts), codes[held_out]))
        stored |= {
            f"{number}.{group}.{name}": network[name]
            for group, network in zip(CONDITION_GROUPS, networks, strict=True)
            for name in cellwise.NAMES
        }
    return Fit("mlp_raw", {"members": members, "sets": len(splits)}, {_FILE: save(stored)})


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3)."""
    if not fitted.params["sets"]:
        return with_prior(cells.average(), cells.spoken, cells.prior)
    stored = load(fitted.files[_FILE])
    inputs = [_inputs(cells, group, members) for group, members in enumerate(fitted.params["members"])]
    said = []
    for number in range(fitted.params["sets"]):
        networks = [{name: stored[f"{number}.{group}.{name}"] for name in cellwise.NAMES} for group in CONDITION_GROUPS]
        said.append(softmax(cellwise.answers(networks, inputs)))
    return with_prior(np.mean(said, axis=0), cells.spoken, cells.prior)


def _inputs(cells: Cells, group: int, members: list[int]) -> np.ndarray:
    """(N, conditions, 5, 4 × members + 5): probabilities, a third each where silent; who speaks; which level."""
    rows = features_of(cells, group, members)
    said = rows[..., :-1].reshape(*rows.shape[:-1], len(members), len(SEVERITIES))
    speaks = ~np.isnan(said).all(axis=-1)
    filled = np.where(speaks[..., None], said, 1 / len(SEVERITIES)).reshape(rows[..., :-1].shape)
    level = np.eye(len(LEVELS))[rows[..., -1].astype(np.int64)]
    return np.concatenate([filled, speaks.astype(np.float64), level], axis=-1)
