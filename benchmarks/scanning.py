"""How fast a tree of DICOM files is scanned, beside a plain loop that reads the same headers.

    python benchmarks/scanning.py [--files 10000] [--matter 500] [--rounds 3]

Small studies of the lumbar spine among series that no part asks for (CT, the brain, diffusion, localisers), in nested
folders without endings. The plain loop is `pydicom.dcmread(path, stop_before_pixels=True)` over the same files, in
turn with the scan, rounds over; the fastest of each counts. "Opened" also tells every series its part.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.dicom.scan import scan
from lumbar.study.folder import open_folder
from tests.support.worlds import small_phantoms

#: Images of a series that plays no part.
_LONG = 250
#: What such series say of themselves, one after the other.
_OTHERS: tuple[dict[str, str], ...] = (
    {"Modality": "CT", "SOPClassUID": CTImageStorage, "SeriesDescription": "Abdomen 1.0 B30f"},
    {"BodyPartExamined": "BRAIN", "SeriesDescription": "t2_space_sag"},
    {"SeriesDescription": "ep2d_diff_b1000"},
    {"SeriesDescription": "Localizer"},
)


def write_tree(out: Path, files: int, matter: int) -> None:
    """`files` DICOM files of which at least `matter` are of lumbar studies, all of them with small images."""
    with tempfile.TemporaryDirectory() as name:
        written, seed = 0, 0
        while written < matter:
            seed += 1
            for path in sorted(small_phantoms(Path(name) / str(seed), 1, seed).rglob("*.dcm")):
                dataset = _smaller(dcmread(path))
                _save(dataset, out / f"ST{seed:06d}" / f"SE{dataset.SeriesNumber:06d}" / f"IM{written:06d}")
                written += 1
    for place in range(files - written):
        series, number = divmod(place, _LONG)
        if number == 0:
            study, uid = generate_uid(entropy_srcs=["study", str(series)]), generate_uid(entropy_srcs=[str(series)])
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, uid
        for keyword, value in _OTHERS[series % len(_OTHERS)].items():
            setattr(dataset, keyword, value)
        dataset.InstanceNumber, dataset.SOPInstanceUID = number + 1, generate_uid(entropy_srcs=[str(place), "image"])
        _save(dataset, out / f"OT{series:06d}" / "SE000001" / f"IM{number:06d}")


def _smaller(dataset: Dataset) -> Dataset:
    """The image cut to a corner, so that ten thousand fit on any disk; headers are what is measured."""
    dataset.decompress() if dataset.file_meta.TransferSyntaxUID.is_compressed else None
    dataset.PixelData = dataset.pixel_array[:32, :32].tobytes()
    dataset.Rows = dataset.Columns = 32
    return dataset


def _save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


def plain_loop(paths: list[Path]) -> None:
    """Read every header, and nothing else."""
    for path in paths:
        dcmread(path, stop_before_pixels=True)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(files: int, matter: int, rounds: int) -> dict[str, float]:
    """Seconds of the plain loop, of the scan, and of all that comes before the first pixel."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "tree"
        write_tree(root, files, matter)
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        works: dict[str, Callable[[], object]] = {
            "plain_loop": lambda: plain_loop(paths),
            "scan": lambda: scan(root),
            "opened": lambda: open_folder(root, progress=False),
        }
        times = [{key: seconds(work) for key, work in works.items()} for _ in range(rounds)]
        best = {key: min(each[key] for each in times) for key in works}
        graded = len(open_folder(root, progress=False).series)
    return {"files": len(paths), "series_with_a_part": graded} | best | {
        "times_the_loop": best["opened"] / best["plain_loop"]
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--matter", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps(measure(args.files, args.matter, args.rounds), indent=2))


if __name__ == "__main__":
    main()
