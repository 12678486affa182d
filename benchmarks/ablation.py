"""What is left when a series type is missing: hide one type at a time and score what can still be seen.

    python train_utils.py phantom --studies 30 --seed 8080 --out heldout
    python benchmarks/ablation.py --data heldout --weights weights

A condition group is judged where its own series is hidden, too: its rows come from members that see the level on other
series, or from the bundle's prior. The floor beside each figure is that prior on the same rows.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import load_bundle
from lumbar.compute import device as devices
from lumbar.labels import SERIES_DESCRIPTIONS
from lumbar.metric import label_codes, score_arrays
from lumbar.prediction import run_report, schedule
from lumbar.study.study import DataFolder, open_data

PARTS = ("spinal", "foraminal", "subarticular", "any_severe_spinal", "total")


def hidden(data: DataFolder, series_type: str | None) -> DataFolder:
    """The folder as if no study had a series of that type."""
    kept = [SERIES_DESCRIPTIONS.get(text) != series_type for text in data.series["series_description"]]
    return replace(data, series=data.series[kept].reset_index(drop=True))


def main() -> None:
    """Print a table: one line a hidden type, the score and the prior's score of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled data folder")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    args = parser.parse_args()
    data, bundle = open_data(args.data, "train"), load_bundle(args.weights)
    if data.labels is None:
        raise SystemExit(f"{args.data} has no train.csv; give a labelled folder")
    device, amp = devices.choose_device(say=lambda sentence: print(sentence, file=sys.stderr))
    order, codes = label_codes(data.labels.loc[list(data.study_ids)])
    prior = np.broadcast_to(np.asarray(bundle.manifest.prior), (len(order), 5, 5, 3))
    floor = score_arrays(codes, prior)
    print("hidden       " + "".join(f"{part:>26}" for part in PARTS))
    for series_type in (None, *dict.fromkeys(SERIES_DESCRIPTIONS.values())):
        folder = hidden(data, series_type)
        results = list(schedule.predict(folder, bundle, device=device, amp=amp, on_error="prior"))
        by_study = {result.study_id: result.probabilities for result in results}
        found = score_arrays(codes, np.stack([by_study[int(study)] for study in order]))
        cells = [f"{getattr(found, part):.3f} (prior {getattr(floor, part):.3f})" for part in PARTS]
        print(f"{series_type or 'nothing':<13}" + "".join(f"{cell:>26}" for cell in cells))
        print(f"{'':<13}{run_report.describe_rows(results)}", flush=True)


if __name__ == "__main__":
    main()
