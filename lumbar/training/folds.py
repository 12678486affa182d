"""Which study is in which fold: written once as `folds.csv`, made anew only where studies or settings changed."""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, StratifiedKFold

from lumbar.issues import InputError
from lumbar.metric import label_codes
from lumbar.recipe.settings import Folds


def make_folds(labels: pd.DataFrame, study_ids: list[int], folds: Folds) -> pd.DataFrame:
    """Table `study_id, fold` over the studies in ascending order. Raises InputError for fewer studies than folds.

    kfold: scikit-learn's KFold, shuffled with the seed, as the original. stratified_group: studies with equal worst
    canal and worst other severity are spread evenly. With one row a study this is what
    StratifiedGroupKFold is for; scikit-learn's class of that name spreads groups of one row badly.
    """
    study_ids = sorted(study_ids)
    if len(study_ids) < folds.count:
        raise InputError(
            f"{len(study_ids)} labelled studies cannot make {folds.count} folds; add studies or set folds.count lower"
        )
    numbers = np.zeros(len(study_ids), dtype=np.int64)
    if folds.method == "kfold":
        splits = KFold(folds.count, shuffle=True, random_state=folds.seed).split(study_ids)
    else:
        found, codes = label_codes(labels.loc[study_ids])
        worst = codes.reshape(len(found), len(codes[0]), -1).max(-1)  # (N, 5 conditions)
        strata = worst[:, 0].clip(0) * 3 + worst[:, 1:].max(-1).clip(0)
        if np.bincount(strata).max() < folds.count:
            raise InputError(
                f"no severity has {folds.count} studies to spread over as many folds; add studies, set folds.count "
                'lower or folds.method to "kfold"'
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a rare stratum may be smaller than the number of folds
            splits = list(StratifiedKFold(folds.count, shuffle=True, random_state=folds.seed).split(study_ids, strata))
    for number, (_, held_out) in enumerate(splits):
        numbers[held_out] = number
    return pd.DataFrame({"study_id": study_ids, "fold": numbers})
