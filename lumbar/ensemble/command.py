"""`blend` on files: labels and tables of out-of-fold probabilities in, nested scores and a fitted blend out."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar.drawing.charts import draw_reliability
from lumbar.ensemble import by_hand, methods, nested
from lumbar.ensemble.cells import GROUPS, Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.method_names import ALL, CHOSEN, METHOD_NAMES, PACE, WEIGHTED
from lumbar.ensemble.store import FIT_FILE, Blender, studies_of, write_fit
from lumbar.ensemble.suspects import suspect_labels, write_suspects
from lumbar.files.exchange import check_own, exchanging, summed, write_sums
from lumbar.files.read import plain_texts, read_table, whole_numbers
from lumbar.files.write import sha256, write_csv, writing_into
from lumbar.issues import InputError, printable
from lumbar.labels import CONDITION_GROUPS
from lumbar.metric import UNLABELLED, label_codes, prediction_array, prior_of_codes, read_labels, read_predictions
from lumbar.submission import to_rows
from lumbar.terminal.progress import follow

LEAST_FOLDS_TO_CHOOSE = 3
#: Where nobody says how many.
FOLDS = 5


@dataclass(frozen=True)
class Tables:
    """What the files hold: labelled studies, their codes, folds and members; and the studies without labels."""

    names: tuple[str, ...]
    studies: np.ndarray  # (N,)
    codes: np.ndarray  # (N, 5, 5)
    members: np.ndarray  # (N, T, 5, 5, 3), NaN where a table has no row
    folds: np.ndarray  # (N,)
    others: np.ndarray  # (K,) studies in the tables only
    other_members: np.ndarray  # (K, T, 5, 5, 3)
    notes: tuple[str, ...]


def run_blend(
    labels: Path,
    tables: Sequence[Path],
    folds: int | None,
    method: str,
    *,
    seed: int = 0,
    out: Path | None = None,
    hand: by_hand.Weighted | None = None,
    pace: float = PACE,
) -> dict[str, Any]:
    """Score a method, or `all`, by nested cross-validation; with `out`, fit it on everything and write it there.

    Returns `notes` (sentences), `scored_rows`, `rows_without_prediction`, `methods` (a dictionary each, see
    `Comparison.to_dict`), `seconds`. `hand`: what a recipe sets by hand; its weights are the method `weighted`, what it
    sets around a blend holds for every method. `pace`: as of `methods.fit`. InputError names what is wrong with
    a file or an option, and what in `out` no earlier call left there.
    """
    started = time.perf_counter()
    if out is not None:
        check_own(out, own_files)
    data = read_tables(Path(labels), [Path(path) for path in tables], folds, seed)
    given = None
    if hand is not None:
        if method == WEIGHTED:
            given = _weights(data.names, hand)
        members, other_members = (by_hand.before(hand, part) for part in (data.members, data.other_members))
        data = replace(data, members=members, other_members=other_members)
    elif method == WEIGHTED:
        raise InputError(f"--method {WEIGHTED} takes its weights from a recipe; give one that has them as --recipe")
    # what is chosen among needs every method's table, to be fitted again on everything
    names = [*METHOD_NAMES, CHOSEN] if method in (ALL, CHOSEN) else list(dict.fromkeys(("mean", method)))
    if CHOSEN in names and len(np.unique(data.folds)) < LEAST_FOLDS_TO_CHOOSE:
        raise InputError(
            f"{labels}: --method {method} chooses on the folds other than the scored one, which takes at least "
            f"{LEAST_FOLDS_TO_CHOOSE} folds; give --folds {LEAST_FOLDS_TO_CHOOSE} or more, or name one method"
        )
    codes = nested.scored_codes(data.members, data.codes)
    for group, places in zip(CONDITION_GROUPS, GROUPS, strict=True):
        if (codes[:, list(places)] == UNLABELLED).all():
            raise InputError(f"no table predicts a labelled row of the {group} conditions; give a table that does")
    predictions: dict[str, np.ndarray] = {}
    notes = list(data.notes)
    for name in follow(names, "blending", len(names), "method", name=str):
        if name == CHOSEN:
            predictions[name], picked = nested.chosen(METHOD_NAMES, data.members, data.codes, data.folds, seed)
            notes.append(f"chosen on the other folds: {', '.join(picked)}")
        else:
            own = given if name == WEIGHTED else None
            predictions[name] = nested.nested(name, data.members, data.codes, data.folds, seed, own, pace)
        if hand is not None:
            spoken = Cells(data.members, np.empty(0)).spoken
            predictions[name] = by_hand.after(hand, predictions[name], spoken)
    rows = nested.compare(predictions, codes, seed)
    if out is not None:
        final, why = nested.choose(rows, len(codes)) if method in (ALL, CHOSEN) else (method, "as asked")
        notes.append(f"written to {out}: {final} ({why})")
        with exchanging(out, own_files, FIT_FILE) as new, writing_into(out):
            write_results(data, codes, predictions, final, new, seed, given, hand, pace)
            write_sums(new)
    return {
        "folds": len(np.unique(data.folds)),
        "studies": len(data.studies),
        "tables": list(data.names),
        "scored_rows": int((codes != UNLABELLED).sum()),
        "rows_without_prediction": int((data.codes != UNLABELLED).sum() - (codes != UNLABELLED).sum()),
        "notes": notes,
        "methods": [row.to_dict() for row in rows if method in (ALL, row.method)],
        "seconds": round(time.perf_counter() - started, 1),
    }


def _weights(tables: Sequence[str], hand: by_hand.Weighted) -> Fit:
    try:
        return by_hand.weighted(tables, hand)
    except ValueError as error:
        raise InputError(f"the recipe's blend does not fit the tables {', '.join(tables)}: {error}") from error


def own_files(folder: Path) -> list[str]:
    """Files of a folder that an earlier call with `out` wrote and nobody changed."""
    listed = summed(folder)
    return listed if FIT_FILE in listed else []


def read_tables(labels: Path, tables: Sequence[Path], folds: int | None, seed: int) -> Tables:
    """Read and join everything on `row_id`; `folds` None: those of the labels, else `FOLDS`.

    InputError where a file or the number of folds is wrong.
    """
    frames = [read_predictions(path) for path in tables]
    _refuse_twice(tables)
    names = tuple(printable(path.name.removesuffix(".csv")) for path in tables)
    if len(set(names)) < len(names):
        names = tuple(printable(str(path)) for path in tables)
    every = studies_of(frames)
    wanted = read_labels(labels)
    wanted = wanted[wanted.index.isin(every)]
    least = max(folds or 2, 2)
    if len(wanted) < least:
        raise InputError(
            f"{labels}: {len(wanted)} labelled studies are in the tables, too few for --folds {least}; give tables of "
            "the same studies or fewer folds"
        )
    for path, frame in zip(tables, frames, strict=True):
        if not np.isin(studies_of([frame]), wanted.index).any():
            raise InputError(f"{path}: predicts no labelled study of {labels}; leave it out or give the right table")
    studies, codes = label_codes(wanted)
    others = every[~np.isin(every, studies)]
    assigned, note = _folds(labels, studies, folds, seed)
    members = _members(frames, studies)
    unspoken = int(((codes != UNLABELLED) & ~Cells(members, np.empty(0)).spoken).sum())
    notes = [note]
    if unspoken:
        notes.append(f"{unspoken} labelled rows that no table predicts are not scored")
    return Tables(names, studies, codes, members, assigned, others, _members(frames, others), tuple(notes))


def _refuse_twice(tables: Sequence[Path]) -> None:
    """InputError where two of the files are one, or the same to the last byte: it would count twice."""
    first: dict[str, Path] = {}
    for path in tables:
        other = first.setdefault(sha256(path), path)
        if other is not path:
            raise InputError(f"--tables names {path} and {other}, which are the same table; name it once")


def _members(frames: Sequence[pd.DataFrame], studies: np.ndarray) -> np.ndarray:
    arrays = [prediction_array(frame, studies) for frame in frames]
    return np.stack([array / array.sum(axis=-1, keepdims=True) for array in arrays], axis=1)


def _folds(labels: Path, studies: np.ndarray, count: int | None, seed: int) -> tuple[np.ndarray, str]:
    """Each study's fold, and where it comes from: the labels' own `fold_id`, or drawn where there is none.

    InputError where that column leaves studies out or has another number of folds: to draw others would let members
    be scored on studies that they have seen.
    """
    frame = read_table(labels, ["study_id"], text=["study_id", "fold_id"])
    if "fold_id" not in frame.columns:
        count = count or FOLDS
        return nested.random_folds(len(studies), count, seed), f"folds: {count} at random by study, seed {seed}"
    frame.index = pd.Index(whole_numbers(frame["study_id"], labels))
    given = plain_texts(frame["fold_id"].loc[studies]).str.replace(r"\.0+$", "", regex=True)
    remedy = "correct the column, or take it out for folds at random"
    if (gaps := given == "").any():
        raise InputError(
            f"{labels}: fold_id is empty for {int(gaps.sum())} of {len(studies)} labelled studies, the first is "
            f"{given.index[gaps][0]}; {remedy}"
        )
    found = given.nunique()
    if found < 2 or found not in (count, None if count else found):
        wanted = f"--folds says {count}" if count else "at least 2 are needed"
        raise InputError(f"{labels}: fold_id has {found} folds, {wanted}; give --folds {max(found, 2)} or {remedy}")
    return pd.factorize(given, sort=True)[0], f"folds: the {found} of the column fold_id in {printable(labels.name)}"


def write_results(
    data: Tables,
    codes: np.ndarray,
    predictions: dict[str, np.ndarray],
    method: str,
    out: Path,
    seed: int,
    given: Fit | None = None,
    hand: by_hand.Around | None = None,
    pace: float = PACE,
) -> None:
    """Fit `method` on all labelled studies and write: fit.json with its models; blend.csv; suspects; the picture.

    blend.csv holds labelled studies out of fold, and the tables' other studies by the fit.
    """
    prior = prior_of_codes(data.codes, 0.5)
    fitted = given or methods.fit(method, Cells(data.members, prior), data.codes, seed, pace)
    write_fit(Blender(fitted, data.names, prior), out)
    held_out = predictions[method]
    others = Cells(data.other_members, prior)
    new = methods.predict(fitted, others) if len(data.others) else held_out[:0]
    if hand is not None and len(data.others):
        new = by_hand.after(hand, new, others.spoken)
    rows = to_rows([*data.studies.tolist(), *data.others.tolist()], np.concatenate([held_out, new]))
    write_csv(rows, out / "blend.csv")
    write_suspects(suspect_labels(data.studies, codes, held_out, data.members), out / "suspect_labels.csv")
    draw_reliability({"plain mean": predictions["mean"], method: held_out}, codes, out / "reliability.png")


def report(result: dict[str, Any]) -> str:
    """The result as text: a line a method."""
    parts = ("total", *CONDITION_GROUPS, "any_severe_spinal", "standard_error", "difference_to_mean")
    width = max(len(part) for part in parts) + 2
    lines = [f"{'nested score':<14}" + "".join(f"{part:>{width}}" for part in parts) + "   95 % interval of it"]
    for row in result["methods"]:
        low, high = row["interval_95"]
        numbers = "".join(f"{row[part]:>{width}.4f}" for part in parts)
        lines.append(f"{row['method']:<14}{numbers}   {low:+.4f} to {high:+.4f}")
    return "\n".join(lines)


def report_json(result: dict[str, Any]) -> str:
    """The result as one JSON object."""
    return json.dumps(result, allow_nan=False)
