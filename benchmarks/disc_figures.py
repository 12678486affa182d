"""Nothing by itself: what answers about SPIDER's discs are worth, and what some gain over others."""

from collections.abc import Sequence

import numpy as np
from discs import Discs
from sklearn.metrics import cohen_kappa_score, roc_auc_score

GRADES, FOLDS = 5, 5
DRAWS = 1000  # of patients, for the spread of a gain


def grades(discs: Discs, said: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N,) grades 1 to 5: expected grades, spread as far as the labels are, then rounded.

    An expected grade keeps away from both ends, which quadratic kappa punishes. By how much is read off the other
    folds' discs, as they were graded by networks that had not seen them.
    """
    expected = 1 + said[:, : GRADES - 1].sum(axis=1)
    out = np.zeros(len(expected), int)
    for fold in range(FOLDS):
        others = (folds != fold) & discs.judged
        told, seen = discs.grade[others], expected[others]
        spread = told.mean() + (expected - seen.mean()) * told.std() / seen.std()
        out[folds == fold] = np.clip(np.rint(spread[folds == fold]), 1, GRADES)
    return out


def figures(discs: Discs, said: np.ndarray, folds: np.ndarray) -> dict[str, float]:
    """Quadratic kappa of the grade, its exact share, and the AUC of narrowing, over the judged discs."""
    own, grade = discs.judged, grades(discs, said, folds)
    return {
        "quadratic_kappa": float(cohen_kappa_score(discs.grade[own], grade[own], weights="quadratic")),
        "exact_share": float((grade == discs.grade)[own].mean()),
        "narrowing_auc": float(roc_auc_score(discs.signs[own, 0], said[own, GRADES - 1])),
    }


def gains(
    discs: Discs, said: Sequence[np.ndarray], others: Sequence[np.ndarray], folds: Sequence[np.ndarray]
) -> dict[str, list[float]]:
    """What `said` gains over `others`, answers (N, 4 + 7) a seed, in quadratic kappa and in the AUC of narrowing.

    Of each the mean over the seeds, and the 2.5 % and 97.5 % points of that over draws of the patients with
    replacement.
    """
    told = [
        [(grades(discs, each, fold), each[:, GRADES - 1]) for each in both]
        for *both, fold in zip(said, others, folds, strict=True)
    ]
    own = np.flatnonzero(discs.judged)
    rows = [own[discs.patient[own] == patient] for patient in np.unique(discs.patient[own])]
    rng = np.random.default_rng(0)

    def gain(at: np.ndarray) -> np.ndarray:
        worth = [
            [
                (
                    cohen_kappa_score(discs.grade[at], grade[at], weights="quadratic"),
                    roc_auc_score(discs.signs[at, 0], sign[at]),
                )
                for grade, sign in both
            ]
            for both in told
        ]
        return np.array([np.subtract(one, other) for one, other in worth]).mean(axis=0)

    drawn = [gain(np.concatenate([rows[n] for n in rng.integers(len(rows), size=len(rows))])) for _ in range(DRAWS)]
    found = np.concatenate([gain(own)[None], np.percentile(drawn, (2.5, 97.5), axis=0)])
    return dict(zip(("quadratic_kappa", "narrowing_auc"), found.T.tolist(), strict=True))
