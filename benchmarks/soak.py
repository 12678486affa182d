"""Whether memory and file handles stay flat over many studies in one process.

    python benchmarks/soak.py --studies 500

Small phantoms, over and over, and a bundle of tiny networks with random weights: what leaks a study leaks here, too.
The slope is that of the straight line through resident memory after the first tenth, in which caches fill.
"""

import argparse
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.prediction import pipeline
from lumbar.study import open_data
from tests.worlds import small_phantoms, tiny_bundle


def resident_mb() -> float:
    """Memory that this process holds, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def open_handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def soak(studies: int, phantoms: int = 10) -> dict[str, float]:
    """Slope of memory in kB a study, memory at the end in MB, and how many handles came to stay."""
    with tempfile.TemporaryDirectory() as name:
        data = open_data(small_phantoms(Path(name) / "data", phantoms))
        bundle = tiny_bundle(Path(name) / "bundle")
        ids = list(islice(cycle(data.study_ids), studies))
        memory, handles = [], []
        for _ in pipeline.predict(data, bundle, study_ids=ids, progress=False):
            memory.append(resident_mb())
            handles.append(open_handles())
    warm = len(memory) // 10
    slope = float(np.polyfit(np.arange(len(memory) - warm), memory[warm:], 1)[0])
    return {
        "studies": len(memory),
        "slope_kb_per_study": round(1024 * slope, 2),
        "memory_mb_after_first_tenth": round(memory[warm], 1),
        "memory_mb_at_the_end": round(memory[-1], 1),
        "handles_after_first_tenth": handles[warm],
        "handles_at_the_end": handles[-1],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500, metavar="N")
    for key, value in soak(parser.parse_args().studies).items():
        print(f"{key:<30}{value}")
