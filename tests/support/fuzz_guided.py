"""The DICOM reader under atheris, which keeps the changed files that reach new branches of pydicom or Lumbar.

    pip install atheris
    python tests/support/fuzz_guided.py --seconds 600 --corpus CORPUS

Every second change is one of `fuzz_targets` (tags as well as bytes), the others are libFuzzer's. CORPUS grows and is
where a later call goes on. A file that raises, takes longer than LIMIT_SECONDS or more than MEMORY_MB ends the run with
exit code 77 and lies in CORPUS, in a folder `found`. The 20,000 blind mutations of `fuzz.py` need no atheris.
"""

import argparse
import importlib
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.fuzz_targets import dicom_seeds, mutate_dicom, read_changed

LIMIT_SECONDS = 20
MEMORY_MB = 3072
#: Larger files only make every run slower.
LARGEST = 60_000
#: Rooms whose branches guide the search.
GUIDED = (
    "pydicom.filereader",
    "pydicom.filebase",
    "pydicom.values",
    "pydicom.valuerep",
    "pydicom.pixels",
    "lumbar.dicom.series",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, metavar="N")
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="files to start from and to keep")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    args = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz_guided.py: atheris is not installed; run `pip install atheris`")
    with atheris.instrument_imports(include=["pydicom", "lumbar"]):
        for module in GUIDED:
            importlib.import_module(module)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    args.corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        work = Path(name)
        for number, content in enumerate(sorted(set(dicom_seeds(work / "seeds")), key=len)):
            if len(content) <= LARGEST:
                (args.corpus / f"start{number}").write_bytes(content)
        folder = work / "series"
        folder.mkdir()
        (args.corpus / "found").mkdir(exist_ok=True)

        def read(content: bytes) -> None:
            (folder / "1.dcm").write_bytes(content)
            read_changed(folder, "Sagittal T1")

        def change(content: bytes, longest: int, seed: int) -> bytes:
            dealer = random.Random(seed)
            if dealer.random() < 0.5:
                return mutate_dicom(content, dealer)[:longest]
            return bytes(atheris.Mutate(content, longest))

        options = {
            "max_total_time": args.seconds,
            "timeout": LIMIT_SECONDS,
            "rss_limit_mb": MEMORY_MB,
            "max_len": LARGEST,
            "seed": args.seed,
            "artifact_prefix": f"{args.corpus / 'found'}/",
            "print_final_stats": 1,
        }
        words = [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(args.corpus)]
        atheris.Setup(words, read, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
