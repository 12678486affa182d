"""Whether memory and file handles stay flat over many studies, in one process and in those that share the cores.

    python benchmarks/soak.py --studies 500

Small phantoms, over and over, and a bundle of tiny networks with random weights: what leaks a study leaks here, too.
The slope is that of the straight line through resident memory after the first tenth, in which caches fill.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.prediction import schedule
from lumbar.prediction.predictor import Predictor
from lumbar.study.study import open_data
from tests.support.worlds import small_phantoms, tiny_bundle


def processes() -> list[int]:
    """This process and its children."""
    return [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]


def resident_mb() -> float:
    """Memory that the processes hold, MB."""
    pages = sum(int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in processes())
    return pages * 4096 / 2**20


def open_handles() -> int:
    return sum(len(list(Path(f"/proc/{process}/fd").iterdir())) for process in processes())


def soak(studies: int, phantoms: int = 10, *, shared: bool = False) -> dict[str, float]:
    """Slope of memory in kB a study, memory at the end in MB, and how many handles came to stay.

    `shared`: over as many processes as there are cores, and the sum of them all.
    """
    with tempfile.TemporaryDirectory() as name:
        data = open_data(small_phantoms(Path(name) / "data", phantoms))
        predictor = Predictor(tiny_bundle(Path(name) / "bundle"))
        ids = list(islice(cycle(data.study_ids), studies))
        memory, handles = [], []
        results = schedule.grade_all(predictor, data, ids, progress=False, most_lanes=None if shared else 1)
        for _ in islice(results, studies - 10):  # while all are there
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
    chosen = parser.parse_args().studies
    alone, together = soak(chosen), soak(chosen, shared=True)
    print(f"{'':<30}{'one process':<14}all processes")
    for key, value in alone.items():
        print(f"{key:<30}{value:<14}{together[key]}")
