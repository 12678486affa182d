"""Write the phantom studies that ship in `sample_data`: six small ones, each with something that real data does.

    python benchmarks/sample_data.py --out fresh

The same studies on every machine, to one grey level (processors round differently). Their expected submission comes
from the shipped bundle:

    python train_utils.py predict --data fresh --weights weights --out results --device cpu
    cp results/submission.csv fresh/expected_submission.csv

Then `fresh` takes the place of `sample_data`.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.phantom.dataset import write_phantoms
from lumbar.phantom.options import PhantomOptions

SEED = 11
FIRST_ID = 100_001
#: Small enough that six studies stay below 16 MB.
PLAIN = PhantomOptions(
    matrices=(208,),
    sagittal_slices=(9, 9),
    stack_slices=(3, 3),
    axial_kind="angled",
    two_axial=False,
    axial_misses_level=False,
    stir=False,
)
STUDIES = (
    PLAIN,
    replace(PLAIN, stir=True),
    replace(PLAIN, without_t1=True),
    replace(PLAIN, two_axial=True),
    replace(PLAIN, axial_misses_level=True),
    replace(PLAIN, compressed=True),
)


def main() -> None:
    """Write the studies, labels, coordinates and series table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="data folder to write")
    out = parser.parse_args().out
    ids = write_phantoms(out, len(STUDIES), SEED, first_id=FIRST_ID, variations=dict(enumerate(STUDIES)))
    print(f"{out}: {len(ids)} studies, {ids[0]} to {ids[-1]}")


if __name__ == "__main__":
    main()
