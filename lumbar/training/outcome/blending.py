"""The blend of a run: chosen and fitted on the run's own out-of-fold tables, kept beside them, handed to the bundle."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar.bundle.blend import FittedBlend
from lumbar.ensemble.average import BLEND_METHODS, BlendMethod
from lumbar.ensemble.names import KNOWN_METHODS, METHOD_NAMES, WEIGHTED
from lumbar.ensemble.store import FIT_FILE
from lumbar.files.exchange import exchanging
from lumbar.files.read import read_json
from lumbar.files.write import write_csv, write_json
from lumbar.issues import InputError
from lumbar.labels import CONDITION_GROUPS
from lumbar.metric import UNLABELLED, label_codes
from lumbar.recipe.blend import Blend
from lumbar.submission import to_rows
from lumbar.training.folder import RunFolder

CHOICE = "choice.json"
#: Folds of the nested score where a run trained a single one.
FOLDS = 5


def blend_run(
    folder: RunFolder,
    tables: Mapping[str, Mapping[int, np.ndarray]],
    labels: pd.DataFrame,
    settings: Blend,
    seed: int,
) -> str:
    """Write `predictions/blend.csv`, and `blend/` with the choice and what was fitted; returns why, in one sentence.

    `tables`: for each grader the out-of-fold probabilities (5, 5, 3) by study, NaN where it was silent. A fitted
    blend's table is out of fold too: each fold's rows come from a fit on the others. Labels (N, 25) as of `train.csv`.
    """
    from lumbar.ensemble import by_hand, methods, nested
    from lumbar.ensemble.store import Blender, write_fit

    studies, codes = label_codes(labels.loc[sorted({study for table in tables.values() for study in table})])
    members = np.stack([[table[int(study)] for study in studies] for table in tables.values()], axis=1)
    folds = _folds(folder, studies, seed)
    members = by_hand.before(settings, members)
    rows: list[dict[str, Any]] = []
    if settings.method == WEIGHTED:
        blender = weighed(settings, {name: [name] for name in tables}, nested.cells_for(members, codes).prior).blender
        method, why = WEIGHTED, f"{WEIGHTED}: the recipe gives the weights"
        blended, spoken = blender.many(members)
        blended = by_hand.after(settings, blended, spoken)
    else:
        method, why, blended, rows = _choose(settings, members, codes, folds, seed)
    write_csv(to_rows(studies.tolist(), blended), folder.prediction_file("blend"))
    with exchanging(folder.blend, _own_files, CHOICE) as new:
        if method == WEIGHTED:
            write_fit(blender, new)
        elif method not in BLEND_METHODS:
            cells = nested.cells_for(members, codes)
            write_fit(Blender(methods.fit(method, cells, codes, seed, settings.pace), tuple(tables), cells.prior), new)
        write_json({"method": method, "why": why, "nested": rows}, new / CHOICE)
    sys.stderr.write(f"blend: {why}\n")
    return why


def _own_files(folder: Path) -> list[str]:
    """What an earlier call left in a run's `blend`: the choice, the fit and its models."""
    try:
        models = json.loads((folder / FIT_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        models = []
    return [CHOICE, FIT_FILE, *map(str, models)]


def _choose(
    settings: Blend, members: np.ndarray, codes: np.ndarray, folds: np.ndarray, seed: int
) -> tuple[str, str, np.ndarray, list[dict[str, Any]]]:
    """Method, why, its out-of-fold table (N, 5, 5, 3), and the nested scores that were compared, factors included."""
    from lumbar.ensemble import by_hand, nested
    from lumbar.ensemble.cells import Cells

    wanted: str = settings.method
    spoken = Cells(members, np.empty(0)).spoken
    scored = nested.scored_codes(members, codes)
    method, why = wanted, "the recipe asks for it"
    if wanted == "auto" and len(codes) < nested.ENOUGH_STUDIES:
        method, why = nested.choose([], len(codes))
    elif wanted == "auto" and len(_graded_groups(scored)) < len(CONDITION_GROUPS):
        known = ", ".join(_graded_groups(scored)) or "nothing"
        method, why = "mean", f"only {known} is graded, so there is no official score to choose by; the plain mean"
    if method in BLEND_METHODS:
        blend = nested.cells_for(members, codes).average(method)
        return method, f"{method}: {why}", by_hand.after(settings, blend, spoken), []
    names: tuple[str, ...] = METHOD_NAMES if method == "auto" else ("mean", method)
    blended = {
        name: by_hand.after(settings, nested.nested(name, members, codes, folds, seed, pace=settings.pace), spoken)
        for name in names
    }
    rows = nested.compare(blended, scored, seed)
    if method == "auto":
        method, why = nested.choose(rows, len(codes))
    return method, f"{method}: {why}", blended[method], [row.to_dict() for row in rows]


def _graded_groups(scored: np.ndarray) -> list[str]:
    from lumbar.ensemble.cells import GROUPS

    pairs = zip(CONDITION_GROUPS, GROUPS, strict=True)
    return [group for group, places in pairs if (scored[:, list(places)] != UNLABELLED).any()]


def _folds(folder: RunFolder, studies: np.ndarray, seed: int) -> np.ndarray:
    """The run's own folds; drawn ones where it trained a single one, which cannot teach another."""
    from lumbar.ensemble.nested import random_folds

    table = folder.folds().set_index("study_id")["fold"].loc[studies].to_numpy()
    return table if len(np.unique(table)) > 1 else random_folds(len(studies), min(FOLDS, len(studies)), seed)


def choice(folder: RunFolder) -> dict[str, Any]:
    """`method`, `why` and `nested` of a run's blend; the plain mean where the run is older than such choices."""
    path = folder.blend / CHOICE
    if not path.is_file():
        return {"method": folder.recipe().blend.average, "why": "", "nested": []}
    remedy = "run train_utils.py train again"
    found = read_json(path, remedy)
    if not isinstance(found, dict) or found.get("method") not in KNOWN_METHODS or not found.keys() >= {"why", "nested"}:
        raise InputError(f"{path}: is not what training writes there; {remedy}")
    return found


def bundled(folder: RunFolder, tables: Mapping[str, Sequence[str]]) -> BlendMethod | FittedBlend:
    """The run's blend for a bundle; `tables`: for each grader its members' names, one a fold."""
    from lumbar.ensemble.store import read_fit

    method = choice(folder)["method"]
    return method if method in BLEND_METHODS else FittedBlend(read_fit(folder.blend), tables)


def weighed(settings: Blend, tables: Mapping[str, Sequence[str]], prior: np.ndarray) -> FittedBlend:
    """The blend `weighted` of a recipe; `tables` as of `bundled`, `prior` (5, 5, 3)."""
    from lumbar.ensemble import by_hand
    from lumbar.ensemble.store import Blender

    names = tuple(tables)
    return FittedBlend(Blender(by_hand.weighted(names, settings), names, prior), tables)


def suspects(folder: RunFolder, studies: np.ndarray, codes: np.ndarray, tables: Mapping[str, np.ndarray]) -> int:
    """Write `suspect_labels.csv` of a run from its out-of-fold tables (N, 5, 5, 3), `blend` among them; how many."""
    from lumbar.ensemble.store import member_array
    from lumbar.ensemble.suspects import suspect_labels, write_suspects

    members = member_array({name: table for name, table in tables.items() if name != "blend"})
    found = suspect_labels(studies, codes, tables["blend"], members)
    write_suspects(found, folder.root / "suspect_labels.csv")
    return len(found)
