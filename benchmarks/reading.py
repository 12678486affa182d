"""Reading DICOM into the training cache beside a plain loop that only decodes the same files, in the same run.

    python benchmarks/reading.py --data DIR [--studies 24] [--rounds 5]

MB are those of decoded pixels. The plain loop is pydicom's `dcmread` and `pixel_array`, file by file; reading sorts,
checks and repairs the slices as well, hashes them, and writes a file a study into a scratch folder. Both in one
process: those of a training (`read_processes`) share nothing, so that as many plain loops would be as fast as they.
Rounds in turn, medians, by the clock (which counts waiting for the disk, and for whoever else uses the machine) and by
processor time. Of this the parts are told: reading and checking, which is what prediction does, the fingerprint of what
was read, the file. What the cache of a whole data set takes on the disk is told too, from the studies that were read.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.packs import Packs, content_fingerprint, write_study

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
    rows = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            loop = spent(lambda: decode(files))
            reading = spent(lambda: cache(data, studies, Path(scratch)))
            kept = sum(path.stat().st_size for path in Path(scratch).rglob("*.safetensors"))
            rows.append((*loop, *reading, *parts(data, studies, Path(scratch))))
    table = np.array(rows)
    print(f"{len(studies)} studies, {len(files)} files, {stored / 1e6:.0f} MB stored, {megabytes:.0f} MB of pixels")
    for place, name in enumerate(("clock", "processor")):
        plain, whole = table[:, place], table[:, 2 + place]
        rates = (
            f"decoding alone {np.median(megabytes / plain):.0f} MB/s, into the cache {np.median(megabytes / whole):.0f}"
        )
        ratio = plain / whole
        print(f"by the {name}: {rates} MB/s: {np.median(ratio):.2f} (± {np.ptp(ratio) / 2:.2f})")
    names = ("decoding alone", "into the cache", "of it reading and checking", "the fingerprint", "the file")
    each = np.median(table[:, [1, 3, 4, 5, 6]], axis=0) / len(files) * 1e3
    print("processor ms a file:", ", ".join(f"{name} {value:.2f}" for name, value in zip(names, each, strict=True)))
    print(f"cache of {WHOLE:,} such studies: {kept / len(studies) * WHOLE / 1e9:.0f} GB")


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes by the clock, and of the processor."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def parts(data: DataFolder, studies: list[int], folder: Path) -> tuple[float, ...]:
    """Processor seconds of reading and checking, of the fingerprint and of the file."""
    seconds = np.zeros(3)
    for study in studies:
        read = read_study(data, study)
        works: list[Callable[[], object]] = [
            partial(read_study, data, study),
            partial(content_fingerprint, read),
            partial(write_study, read, folder / "part.safetensors", "", "-"),
        ]
        seconds += [spent(work)[1] for work in works]
    return tuple(seconds.tolist())


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
