"""The blend of a run: chosen and fitted on the run's own out-of-fold tables, kept beside them, handed to the bundle."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lumbar.bundle.blend import FittedBlend
from lumbar.ensemble.average import BLEND_METHODS, BlendMethod
from lumbar.ensemble.method_names import KNOWN_METHODS, METHOD_NAMES, WEIGHTED
from lumbar.ensemble.store import FIT_FILE
from lumbar.files.exchange import exchanging
from lumbar.files.read import read_json
from lumbar.files.write import write_csv, write_json
from lumbar.issues import InputError
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, LEVELS, SEVERITIES
from lumbar.metric import UNLABELLED, label_codes
from lumbar.recipe.blend import Around, Mixture
from lumbar.submission import to_rows
from lumbar.training.folder import RunFolder

if TYPE_CHECKING:  # averages do without
    from lumbar.ensemble.store import Blender

CHOICE = "choice.json"
#: Folds of the nested score where a run trained a single one.
FOLDS = 5


def blend_run(
    folder: RunFolder,
    tables: Mapping[str, Mapping[int, np.ndarray]],
    labels: pd.DataFrame,
    settings: Mixture,
    seed: int,
) -> str:
    """Write `predictions/blend.csv`, and `blend/` with the choice and what was fitted; returns why, in one sentence.

    `tables`: for each grader the out-of-fold probabilities (5, 5, 3) by study, NaN where it was silent. A fitted
    blend's table is out of fold too: each fold's rows come from a fit on the others. Labels (N, 25) as of `train.csv`.
    """
    studies, codes = label_codes(labels.loc[sorted({study for table in tables.values() for study in table})])
    members = np.stack([[table[int(study)] for study in studies] for table in tables.values()], axis=1)
    settled = _settle(settings, list(tables), members, codes, _folds(folder, studies, seed), seed)
    write_csv(to_rows(studies.tolist(), settled.blended), folder.prediction_file("blend"))
    with exchanging(folder.blend, _own_files, CHOICE) as new:
        _write(settled, new)
    sys.stderr.write(f"blend: {settled.why}\n")
    return settled.why


@dataclass(frozen=True)
class _Settled:
    """What a blend came to: the method and why, its out-of-fold table (N, 5, 5, 3) and where somebody `spoken`, the
    nested scores that were compared, and the fit where it is no average; inner blends by name."""

    method: str
    why: str
    blended: np.ndarray
    spoken: np.ndarray
    nested: list[dict[str, Any]]
    blender: "Blender | None"
    inner: Mapping[str, "_Settled"]


def _settle(
    settings: Mixture, names: list[str], members: np.ndarray, codes: np.ndarray, folds: np.ndarray, seed: int
) -> _Settled:
    """Choose and fit a blend of members (N, M, 5, 5, 3) of these names, the blends within it first."""
    from lumbar.ensemble import by_hand, methods, nested
    from lumbar.ensemble.cells import Cells
    from lumbar.ensemble.store import Blender

    inner = {
        name: _settle(each, [*each.members], members[:, [*map(names.index, each.members)]], codes, folds, seed)
        for name, each in settings.whole.items()
    }
    own = settings.tables(names)
    within = [np.where(each.spoken[..., None], each.blended, np.nan)[:, None] for each in inner.values()]
    said = by_hand.before(settings, np.concatenate([members[:, [*map(names.index, own)]], *within], axis=1))
    cells, tables = nested.cells_for(said, codes), (*own, *inner)
    rows: list[dict[str, Any]] = []
    blender = None
    if settings.method == WEIGHTED:
        blender = Blender(by_hand.weighted(tables, settings), tables, cells.prior)
        method, why = WEIGHTED, f"{WEIGHTED}: the recipe gives the weights"
        blended, spoken = blender.many(said)
        blended = by_hand.after(settings, blended, spoken)
    else:
        method, why, blended, rows = _choose(settings, said, codes, folds, seed)
        spoken = Cells(said, np.empty(0)).spoken
        if method not in BLEND_METHODS:
            blender = Blender(methods.fit(method, cells, codes, seed, settings.pace), tables, cells.prior)
    return _Settled(method, why, blended, spoken, rows, blender, inner)


def _write(settled: _Settled, folder: Path, before: str = "") -> None:
    """What a blend came to, in files whose names begin with `before`; inner ones' with their names, too."""
    from lumbar.ensemble.store import write_fit

    if settled.blender is not None:
        write_fit(settled.blender, folder, before)
    within = {"inner": list(settled.inner)} if settled.inner else {}
    write_json(
        {"method": settled.method, "why": settled.why, "nested": settled.nested, **within}, folder / f"{before}{CHOICE}"
    )
    for name, each in settled.inner.items():
        _write(each, folder, f"{before}{name}.")


def _own_files(folder: Path, before: str = "") -> list[str]:
    """What an earlier call left in a run's `blend`: choices, fits and their models."""
    own = [f"{before}{CHOICE}", f"{before}{FIT_FILE}"]
    for name, key in ((FIT_FILE, "files"), (CHOICE, "inner")):
        try:
            told = json.loads((folder / f"{before}{name}").read_text(encoding="utf-8")).get(key, [])
            inside = [str(each) for each in told]
        except (OSError, ValueError, AttributeError, TypeError):
            inside = []
        own += [f"{before}{each}" for each in inside] if key == "files" else []
        own += [file for each in inside if key == "inner" for file in _own_files(folder, f"{before}{each}.")]
    return own


def _choose(
    settings: Mixture, members: np.ndarray, codes: np.ndarray, folds: np.ndarray, seed: int
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


def choice(folder: RunFolder, before: str = "") -> dict[str, Any]:
    """`method`, `why` and `nested` of a run's blend; the plain mean where the run is older than such choices. `before`:
    of an inner one, what its files' names begin with."""
    path = folder.blend / f"{before}{CHOICE}"
    if not before and not path.is_file():
        return {"method": folder.recipe().blend.average, "why": "", "nested": []}
    remedy = "run train_utils.py train again"
    found = read_json(path, remedy)
    if not isinstance(found, dict) or found.get("method") not in KNOWN_METHODS or not found.keys() >= {"why", "nested"}:
        raise InputError(f"{path}: is not what training writes there; {remedy}")
    return found


def bundled(folder: RunFolder, tables: Mapping[str, Sequence[str]]) -> BlendMethod | FittedBlend:
    """The run's blend for a bundle; `tables`: for each grader its members' names, one a fold."""
    method = choice(folder)["method"]
    return method if method in BLEND_METHODS else _stored(folder, folder.recipe().blend, tables)


def _stored(folder: RunFolder, settings: Mixture, tables: Mapping[str, Sequence[str]], before: str = "") -> FittedBlend:
    from lumbar.ensemble.store import read_fit

    method = choice(folder, before)["method"]
    if method in BLEND_METHODS:
        return averaged(method, tables, settings)
    inner = {
        name: _stored(folder, each, {one: tables[one] for one in each.members}, f"{before}{name}.")
        for name, each in settings.whole.items()
    }
    own = {name: tables[name] for name in settings.tables([*tables])}
    return FittedBlend(read_fit(folder.blend, before), own, inner, settings)


def weighed(settings: Mixture, tables: Mapping[str, Sequence[str]], prior: np.ndarray) -> FittedBlend:
    """The blend of a recipe as far as nothing is fitted: weights that it gives, and averages, which stand for what is
    fitted in inner ones, too. `tables` as of `bundled`, `prior` (5, 5, 3)."""
    from lumbar.ensemble import by_hand
    from lumbar.ensemble.store import Blender

    if settings.method != WEIGHTED:
        return averaged(settings.average, tables, settings)
    inner = {
        name: weighed(each, {one: tables[one] for one in each.members}, prior) for name, each in settings.whole.items()
    }
    own = {name: tables[name] for name in settings.tables([*tables])}
    names = (*own, *inner)
    return FittedBlend(Blender(by_hand.weighted(names, settings), names, prior), own, inner, settings)


def averaged(method: BlendMethod, tables: Mapping[str, Sequence[str]], around: Around) -> FittedBlend:
    """An average as one of several blends: of all folds of these tables alike, as of a bundle of them alone."""
    from lumbar.ensemble.fit import Fit
    from lumbar.ensemble.store import Blender

    names = [name for own in tables.values() for name in own]
    prior = np.full((len(CONDITIONS), len(LEVELS), len(SEVERITIES)), 1 / len(SEVERITIES))
    return FittedBlend(Blender(Fit(method), tuple(names), prior), {name: [name] for name in names}, around=around)


def suspects(folder: RunFolder, studies: np.ndarray, codes: np.ndarray, tables: Mapping[str, np.ndarray]) -> int:
    """Write `suspect_labels.csv` of a run from its out-of-fold tables (N, 5, 5, 3), `blend` among them; how many."""
    from lumbar.ensemble.store import member_array
    from lumbar.ensemble.suspects import suspect_labels, write_suspects

    members = member_array({name: table for name, table in tables.items() if name != "blend"})
    found = suspect_labels(studies, codes, tables["blend"], members)
    write_suspects(found, folder.root / "suspect_labels.csv")
    return len(found)
