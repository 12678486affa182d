"""SPIDER's discs as a benchmark grades them: what starts gain, and a first step that sees training patients alone."""

import functools
import runpy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from lumbar.backbones import create_backbone
from lumbar.recipe.settings import Loop
from lumbar.spider.write import FIRST_ID, MIDSAGITTAL, write_spider

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return runpy.run_path(str(BENCHMARKS / name))


def test_a_start_gains_where_its_answers_are_better_and_nothing_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    Discs = benchmark("discs.py", monkeypatch)["Discs"]
    module = benchmark("disc_figures.py", monkeypatch)
    rng, count = np.random.default_rng(0), 100
    grade, patient = rng.integers(1, 6, count), np.repeat(np.arange(20), 5)
    signs = (grade > 3)[:, None].repeat(7, axis=1).astype(np.int64)
    discs = Discs(np.zeros(count), np.ones((count, 2)), grade, signs, patient, np.ones(count, bool))
    wanted = np.concatenate([grade[:, None] > np.arange(1, 5), signs], axis=1)
    good, poor = (np.clip(wanted + rng.normal(0, noise, wanted.shape), 0, 1) for noise in (0.2, 0.9))
    folds = patient % module["FOLDS"]
    module["gains"].__globals__["DRAWS"] = 50
    for kind, (mean, low, high) in module["gains"](discs, [good], [poor], [folds]).items():
        assert 0 < low < mean < high, kind
    same = module["gains"](discs, [good, poor], [good, poor], [folds, folds])
    assert same == {kind: [0, 0, 0] for kind in ("quadratic_kappa", "narrowing_auc")}


@pytest.mark.slow
def test_a_first_step_learns_from_pairs_of_the_patients_that_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spider, seen = tmp_path / "spider", []
    (spider / "midsagittal").mkdir(parents=True)
    rows = []
    for patient, kinds in ((1, ("t1", "t2")), (3, ("t1", "t2")), (4, ("t1", "t2")), (6, ("t2",))):
        for kind in kinds:
            image = np.random.default_rng(len(rows)).integers(0, 255, (64, 64)).astype(np.uint8)
            cv2.imwrite(str(spider / "midsagittal" / f"{patient}_{kind}.png"), image)
            rows.append({"new_file_name": f"{patient}_{kind}", "PixelSpacing": "[4.0, 4.0]"})
    pd.DataFrame(rows).to_csv(spider / "overview.csv", index=False)
    write_spider(spider, tmp_path / "images", "images")
    module = benchmark("alike.py", monkeypatch)
    names = module["learn"].__globals__
    names["TRAINING"] = module["TRAINING"].model_copy(update={"epochs": 1, "batch_size": 2, "channels_last": False})
    names["Loop"] = functools.partial(Loop, mixed_precision="no")  # accelerate keeps one precision for a process
    fit = names["fit"]
    names["fit"] = lambda job, *words: (seen.extend([*job.train.studies, *job.valid.studies]), fit(job, *words))
    spec = module["pair_spec"]("resnet18", {"channels": [8, 16, 16, 16]})
    assert module["write_pairs"](tmp_path / "images", tmp_path / "pairs", spec) == [1, 3, 4]  # 6 has no T1
    learnt = module["learn"](tmp_path / "pairs", [1, 4], spec, tmp_path / "out", 0)
    assert set(seen) == {FIRST_ID + 1000 * patient + MIDSAGITTAL for patient in (1, 4)}
    for state in learnt.values():
        create_backbone(spec, 1).load_state_dict(state)
    assert not np.array_equal(*(state["conv1.weight"].numpy() for state in learnt.values()))
