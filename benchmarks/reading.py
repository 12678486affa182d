"""Reading DICOM into the training cache beside a plain loop that only decodes the same files, in the same run.

    python benchmarks/reading.py --data DIR [--studies 24] [--rounds 5]

MB are those of decoded pixels. The plain loop is pydicom's `dcmread` and `pixel_array`, file by file; reading sorts,
checks and repairs the slices as well, and writes a file a study into a scratch folder. One process, rounds in turn,
medians. What the cache of a whole data set takes on the disk is told too, from the studies that were read.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.study.study import DataFolder, open_data
from lumbar.training.data.packs import Packs

#: Studies of the competition's training set.
WHOLE = 1_975


def main() -> None:
    """Print MB a second of both, how they compare, and the size of the cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="studies in the competition's layout")
    parser.add_argument("--studies", type=int, default=24, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    args = parser.parse_args()
    data = open_data(args.data)
    studies = list(data.study_ids[: args.studies])
    files = [path for study in studies for path in sorted(data.folder(study).rglob("*.dcm"))]
    stored = sum(path.stat().st_size for path in files)
    megabytes = decode(files) / 1e6  # and the files are in the system's cache
    rates = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            plain = megabytes / seconds(lambda: decode(files))
            read = megabytes / seconds(lambda: cache(data, studies, Path(scratch)))
            kept = sum(path.stat().st_size for path in Path(scratch).rglob("*.safetensors"))
        rates.append((plain, read, read / plain))
    plain, read, ratio = np.median(rates, axis=0)
    spread = np.ptp([row[2] for row in rates]) / 2
    print(f"{len(studies)} studies, {len(files)} files, {stored / 1e6:.0f} MB stored, {megabytes:.0f} MB of pixels")
    print(f"decoding alone {plain:.0f} MB/s, reading into the cache {read:.0f} MB/s: {ratio:.2f} (± {spread:.2f})")
    print(f"cache of {WHOLE:,} such studies: {kept / len(studies) * WHOLE / 1e9:.0f} GB")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def decode(files: list[Path]) -> int:
    """Decode every file; bytes of pixels."""
    return sum(pydicom.dcmread(path).pixel_array.nbytes for path in files)


def cache(data: DataFolder, studies: list[int], folder: Path) -> None:
    """Read every study as a training does."""

    def each(make: Callable[[int], None], items: list[int], title: str) -> None:
        for item in items:
            make(item)

    Packs(folder / "studies", data, folder / "studies.json").ensure(studies, each)


if __name__ == "__main__":
    main()
