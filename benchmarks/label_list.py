"""The labels that a clean-up would leave out, beside the keypoints that a person corrected.

    python benchmarks/label_list.py --labels train_with_split.csv --coordinates train_label_coordinates_corrected.csv \
        --tables yu4u_*_submission.csv

The tables are out of fold; their plain mean is the blend that lists labels, by the rule of `train_utils.py clean-up`.
The column `fix` of the keypoint table marks corrected rows. Prints how many labels of each severity are listed, and how
many of the corrected places are, beside the share of all places of the same condition, level and severity that are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.ensemble.cells import GROUPS
from lumbar.ensemble.command import read_tables
from lumbar.ensemble.nested import cells_for
from lumbar.ensemble.suspects import FAR, suspect_labels
from lumbar.files.read import read_table
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, LEVELS, SEVERITIES, split_row_id
from lumbar.metric import UNLABELLED

DRAWS, SEED = 10_000, 0


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--coordinates", type=Path, required=True)
    parser.add_argument("--tables", type=Path, nargs="+", required=True)
    parser.add_argument("--threshold", type=float, nargs="+", default=[FAR, 0.85])
    args = parser.parse_args()
    data = read_tables(args.labels, args.tables, None, 0)
    blended = cells_for(data.members, data.codes).average()
    corrected = corrections(args.coordinates, data.studies)
    for threshold in args.threshold:
        found = suspect_labels(data.studies, data.codes, blended, data.members, 1 - threshold, unanimous=False)
        show(threshold, data.codes, places(found["row_id"].tolist(), data.studies), corrected)


def places(rows: list[str], studies: np.ndarray) -> np.ndarray:
    """Rows of a submission as a mask (N, 5, 5)."""
    listed = np.zeros((len(studies), len(CONDITIONS), len(LEVELS)), dtype=bool)
    place_of = {int(study): place for place, study in enumerate(studies)}
    for name in rows:
        study, condition, level = split_row_id(name)
        if study in place_of:
            listed[place_of[study], CONDITIONS.index(condition), LEVELS.index(level)] = True
    return listed


def corrections(path: Path, studies: np.ndarray) -> np.ndarray:
    """The places whose keypoint is marked as corrected, as a mask (N, 5, 5)."""
    table = read_table(path, ["study_id", "condition", "level", "fix"], text=["condition", "level"])
    fixed = table[table["fix"] == 1]
    return places([f"{row.study_id}_{row.condition}_{row.level}" for row in fixed.itertuples()], studies)


def show(threshold: float, codes: np.ndarray, listed: np.ndarray, corrected: np.ndarray) -> None:
    """Print both tables for one threshold."""
    print(f"\nthreshold {threshold:g}: {listed.sum()} of {(codes != UNLABELLED).sum()} labels are listed")
    print(f"{'listed, of all':<16}" + "".join(f"{severity:>18}" for severity in SEVERITIES))
    for group, conditions in zip(CONDITION_GROUPS, map(list, GROUPS), strict=True):
        counts = [
            f"{listed[:, conditions][codes[:, conditions] == code].sum()} of {(codes[:, conditions] == code).sum()}"
            for code in range(len(SEVERITIES))
        ]
        print(f"{group:<16}" + "".join(f"{count:>18}" for count in counts))
    labelled = corrected & (codes != UNLABELLED)
    both = int((labelled & listed).sum())
    alike = drawn_alike(codes, listed, labelled)
    low, high = np.percentile(alike, [2.5, 97.5])
    print(
        f"corrected keypoints: {corrected.sum()}, {labelled.sum()} with a label, of which {both} are listed; "
        f"as many places of the same condition, level and severity: {alike.mean():.1f} (95 % {low:.0f} to {high:.0f})"
    )
    studies = corrected.any(axis=(1, 2))
    counts = np.stack([listed.sum(axis=(1, 2)), (codes != UNLABELLED).sum(axis=(1, 2))], axis=1)  # (N, 2)
    rng = np.random.default_rng(SEED)
    shares = [share(counts[rng.permutation(len(codes))[: studies.sum()]]) for _ in range(DRAWS)]
    low, high = np.percentile(shares, [2.5, 97.5])
    print(
        f"labels listed in the {studies.sum()} studies with a correction: {share(counts[studies]):.2f} %, in the "
        f"others {share(counts[~studies]):.2f} %, in as many drawn ones 95 % {low:.2f} to {high:.2f}"
    )
    severities = [(codes[corrected] == code).sum() for code in range(len(SEVERITIES))]
    print(f"labels at corrected keypoints: {dict(zip(SEVERITIES, map(int, severities), strict=True))}")


def share(counts: np.ndarray) -> float:
    """Per cent of listed labels, of counts (n, 2) of listed labels and of all."""
    listed, every = counts.sum(axis=0)
    return float(100 * listed / every)


def drawn_alike(codes: np.ndarray, listed: np.ndarray, corrected: np.ndarray) -> np.ndarray:
    """How many would be listed among places drawn with the corrected ones' conditions, levels and severities (D,)."""
    rng, found = np.random.default_rng(SEED), np.zeros(DRAWS)
    for condition, level in np.argwhere(corrected.any(axis=0)):
        for code in range(len(SEVERITIES)):
            alike = codes[:, condition, level] == code
            wanted = int((corrected[:, condition, level] & alike).sum())
            if wanted:
                good = int(listed[alike, condition, level].sum())
                found += rng.hypergeometric(good, int(alike.sum()) - good, wanted, size=DRAWS)
    return found


if __name__ == "__main__":
    main()
