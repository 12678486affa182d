"""Does a bundle tell where the numbering of the levels may be off by one? Shares of studies with `levels_ambiguous`.

    python benchmarks/levels.py --weights weights --seed 6300 [--studies 15] [--held HELD]

Phantoms with five lumbar vertebrae (twice as many), six, a sacralised L5 and a lumbarised S1, drawn into a temporary
folder without T1, since only the detectors of sagittal T2 look; labels count from the sacrum upwards (see
lumbar/phantom/vertebrae.py). A study's levels are wrong where a canal point lies nearer to another level's label than
to its own. --held: SPIDER's part for measuring (see real_images.py), of which the mid-sagittal T2 images count; how
many lumbar vertebrae these patients have is not known.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from real_images import detectors_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import load_bundle
from lumbar.keypoints.detect import Detectors, detect
from lumbar.phantom.dataset import write_phantoms
from lumbar.phantom.vertebrae import Vertebrae
from lumbar.spider.write import MIDSAGITTAL
from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.outcome.evaluate import errors_mm

#: As the studies of `sample_data`, without what the detectors of T2 do not look at.
PLAIN: dict[str, Any] = {
    "matrices": (208,),
    "sagittal_slices": (9, 9),
    "without_t1": True,
    "two_axial": False,
    "axial_kind": "angled",
    "stack_slices": (1, 1),
}


def judge(data: DataFolder, studies: Iterable[int], detectors: Detectors) -> np.ndarray:
    """For each study (N, 2) bool: whether its levels are told as ambiguous, and whether one of them is wrong."""
    assert data.coordinates is not None
    rows, found = study_rows(data.coordinates), []
    for number in studies:
        study = read_study(data, number)
        points, issues = detect(study, detectors)
        told = label_keypoints(study, rows[number]).values()
        errors = np.concatenate([*errors_mm({number: points}, {number: list(told)})["sagittal_t2"].values()])
        found.append((any(issue.code == "levels_ambiguous" for issue in issues), np.nanmax(errors[:, 1]) > 0))
    return np.array(found, bool).reshape(-1, 2)


def say(name: str, found: np.ndarray) -> None:
    """Print a line: studies, those told, those with a wrong level, and how many of these are told."""
    told, wrong = found.T
    print(name, len(found), told.sum(), wrong.sum(), (told & wrong).sum(), sep=" | ", flush=True)


def main() -> None:
    """Print a line a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="of the phantoms")
    parser.add_argument("--studies", type=int, default=15, metavar="N", help="phantoms of each kind")
    parser.add_argument("--held", type=Path, metavar="DIR", help="SPIDER's held-out part")
    args = parser.parse_args()
    detectors = detectors_of(load_bundle(args.weights))["sagittal_t2"]
    print("kind | studies | told | with a wrong level | told of these")
    for kind in get_args(Vertebrae):
        with tempfile.TemporaryDirectory() as folder:
            number = args.studies * (2 if kind == "usual" else 1)
            ids = write_phantoms(Path(folder), number, args.seed, vertebrae=kind, **PLAIN)
            say(kind, judge(open_data(Path(folder), "train"), ids, detectors))
    if args.held:
        held = open_data(args.held, "train")
        say("real", judge(held, [each for each in held.study_ids if each % 1000 == MIDSAGITTAL], detectors))


if __name__ == "__main__":
    main()
