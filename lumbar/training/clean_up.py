"""Clean-up of labels, as the second place's: train, list what the out-of-fold blend cannot believe, train without it.

    first/         a run by all labels
    left_out.csv   the labels that its blend, out of fold, gave less than 1 - threshold, and why
    second/        a run without them; it begins as a copy of the first, so that only graders are trained again
    cache/         what both make of the images (may be deleted), or where --cache says
    clean_up.json, .html   both runs' scores on the labels as they came

No label is changed, and every one is scored. A call that was stopped goes on; a list that somebody changed stays.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from accelerate import PartialState

from lumbar.ensemble.cells import GROUPS
from lumbar.ensemble.nested import scored_codes
from lumbar.ensemble.suspects import FAR, read_left_out, suspect_labels, without
from lumbar.files.read import read_json
from lumbar.files.write import check_apart, csv_text, sha256, write_json, write_text, writing_into
from lumbar.issues import InputError, few
from lumbar.labels import CONDITION_GROUPS, SEVERITIES
from lumbar.metric import UNLABELLED, label_codes, prediction_array, read_predictions
from lumbar.recipe.recipe import load_recipe
from lumbar.terminal.voice import tell
from lumbar.training.folder import RunFolder
from lumbar.training.outcome.page import write_page
from lumbar.training.outcome.trust import paired
from lumbar.training.run import train

FIRST, SECOND, CACHE = "first", "second", "cache"
LIST, RESULT, PAGE = "left_out.csv", "clean_up.json", "clean_up.html"
_COPY: Final = ".second.tmp"
#: What the second run takes over: what is not made anew where nothing has changed.
_KEPT: Final = ("folds.csv", "labels.csv", "studies.json", "recipe.json", "keypoints", "members")
#: What makes the figures look better than new studies' will, and which of them can be trusted.
NOTES: Final = (
    "compare the two runs on all labels: the list was made of what the first run got wrong, so that any model looks "
    "better on the rest",
    "even there the second run is flattered a little: whether a label was left out was said by networks that had "
    "learnt from the studies that are scored here; only studies that played no part in it can tell what it gains",
    "moderate and severe labels are left out more often than normal ones, since any model gives them less; look at the "
    "list",
)


def clean_up(
    recipe_path: Path,
    data_folder: Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    threshold: float = FAR,
    pretrained: Path | None = None,
    hours: float | None = None,
    cache: Path | None = None,
) -> str | None:
    """Both runs and what they reach, as text; None where `hours` were over before, which was told.

    `threshold`: a label is left out where what the first run's blend says of it, out of fold, is farther than this from
    1. `cache`: where both runs keep what they make of the images, if not in `out`. Under `accelerate launch` every
    process calls it. InputError where a recipe leaves labels out already, where nothing is to be left out, and where
    `out` holds something else or a list that somebody changed.
    """
    began, out = time.monotonic(), Path(out)
    if load_recipe(Path(recipe_path), overrides).leave_out:
        raise InputError(f"{recipe_path}: leave_out is what clean-up finds out; take it out of the recipe")
    check_apart(out, Path(data_folder) / "train_images")
    with writing_into(out):
        _check_free(out)

    def left() -> float | None:
        return None if hours is None else max(hours - (time.monotonic() - began) / 3600, 1e-6)

    def ended(run: Path, more: Sequence[str]) -> bool:
        given: dict[str, Any] = {"pretrained": pretrained, "hours": left(), "cache": cache or out / CACHE}
        train(recipe_path, data_folder, run, [*overrides, *more], **given)
        try:
            RunFolder(run).check_finished()
        except InputError:
            if hours is None:
                raise
            return False
        return True

    if not ended(out / FIRST, ()):
        return None
    everyone = PartialState()
    if everyone.is_main_process:
        with writing_into(out):
            count = _list(out, threshold)
            _begin_second(out)
        tell(f"{out / LIST}: {count} labels are left out of the second run")
    everyone.wait_for_everyone()
    if not ended(out / SECOND, [f"leave_out={out / LIST}"]):
        return None
    text = ""
    if everyone.is_main_process:
        result = compared(out, threshold)
        text = table(result)
        with writing_into(out):
            write_json(result, out / RESULT)
            write_page(f"{result['recipe']}: clean-up of labels", text, [], out / PAGE)
    everyone.wait_for_everyone()
    return text


def _check_free(out: Path) -> None:
    """InputError where the folder holds what no clean-up left there."""
    known = {FIRST, SECOND, CACHE, LIST, RESULT, PAGE, _COPY}
    held = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if strange := [name for name in held if name not in known and not name.endswith(".tmp")]:
        raise InputError(f"{out} holds {few(strange)}, which no clean-up left there; give a new folder as --out")


def _list(out: Path, threshold: float) -> int:
    """Write the list of the first run's out-of-fold answers; how many labels it holds."""
    codes, blended, members, studies = _answers(RunFolder(out / FIRST))
    found = suspect_labels(studies, codes, blended, members, 1 - threshold, unanimous=False)
    if found.empty:
        raise InputError(
            f"{out}: the first run's blend gives every label {1 - threshold:.3g} or more, so that nothing is left out; "
            "give a smaller --threshold"
        )
    path, text = out / LIST, csv_text(found)
    if path.is_file() and path.read_bytes() != text.encode():
        known = read_json(out / RESULT, "run clean-up again") if (out / RESULT).is_file() else {}
        if not isinstance(known, dict) or known.get("list") != sha256(path):
            raise InputError(
                f"{path} was changed by somebody, and stays; train by it with --set leave_out={path}, or move it away"
            )
    write_text(text, path)
    write_json({"threshold": threshold, "list": sha256(path)}, out / RESULT)
    return len(found)


def _begin_second(out: Path) -> None:
    """Let the second run begin with what of the first one needs no training again; files are linked."""
    if (out / SECOND).exists():
        return
    copy = out / _COPY
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in _KEPT:
        source = out / FIRST / name
        if source.is_dir():
            shutil.copytree(source, copy / name, copy_function=_linked)
        elif source.exists():
            shutil.copy2(source, copy / name)
    copy.rename(out / SECOND)


def _linked(source: str, target: str) -> None:
    """Another name of the same file, where the disk can: files of a run are written anew and never changed."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _answers(folder: RunFolder) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels as they came (N, 5, 5), the blend (N, 5, 5, 3) and its members (N, M, 5, 5, 3) out of fold, study ids."""
    recipe = folder.recipe()
    folds = folder.folds()
    held_out = folds.loc[folds["fold"].isin(recipe.folds.train), "study_id"].sort_values()
    studies, codes = label_codes(folder.labels().loc[held_out])
    tables = [
        prediction_array(read_predictions(folder.prediction_file(name)), studies)
        for name in (*recipe.stage2.bundled(), "blend")
    ]
    return codes, tables[-1], np.stack(tables[:-1], axis=1), studies


def compared(out: Path, threshold: float) -> dict[str, Any]:
    """What was left out, and both runs' official scores: on all labels as they came, and without those left out."""
    codes, before, members, studies = _answers(RunFolder(out / FIRST))
    after = _answers(RunFolder(out / SECOND))[1]
    named = dict(zip(studies.tolist(), codes, strict=True))
    kept = np.stack([*without(named, read_left_out(out / LIST)).values()])
    scored = scored_codes(members, codes)
    gone = (scored != UNLABELLED) & (kept == UNLABELLED)
    by_severity = {
        group: {
            severity: [
                int((gone & (scored == code))[:, places].sum()),
                int((scored == code)[:, places].sum()),
            ]
            for code, severity in enumerate(SEVERITIES)
        }
        for group, places in zip(CONDITION_GROUPS, map(list, GROUPS), strict=True)
    }
    return {
        "recipe": RunFolder(out / FIRST).recipe().name,
        "threshold": threshold,
        "list": sha256(out / LIST),
        "left_out": int(gone.sum()),
        "labels": int((scored != UNLABELLED).sum()),
        "by_severity": by_severity,
        "all_labels": paired(scored, before, after),
        "without_those_left_out": paired(np.where(gone, UNLABELLED, scored), before, after),
        "notes": list(NOTES),
    }


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = [
        f"{result['recipe']}: {result['left_out']} of {result['labels']} labels were left out of the second run, since "
        f"out of fold the first one's blend gave them less than {1 - result['threshold']:.3g}",
        "",
        f"{'left out, of all':<26}" + "".join(f"{severity:>20}" for severity in SEVERITIES),
    ]
    for group, found in result["by_severity"].items():
        lines.append(f"{group:<26}" + "".join(f"{f'{gone} of {every}':>20}" for gone, every in found.values()))
    for name in ("all_labels", "without_those_left_out"):
        head = f"{name.replace('_', ' ')}"
        lines += ["", f"{head:<26}{'first run':>20}{'second run':>20}{'difference':>20}   95 % interval of it"]
        lines += [_line(part, one) for part, one in result[name].items()]
    return "\n".join([*lines, "", *(f"note: {note}" for note in result["notes"])])


def _line(part: str, one: dict[str, Any] | None) -> str:
    if one is None:
        return f"{part:<26}" + f"{'-':>20}" * 3
    pair = [f"{one[run]:.4f} ± {one[f'{run}_standard_error']:.4f}" for run in ("first", "second")]
    low, high = one["interval_95"]
    return f"{part:<26}{pair[0]:>20}{pair[1]:>20}{one['difference']:>+20.4f}   {low:+.4f} to {high:+.4f}"
