"""A whole run with what a recipe can ask of training beside the plain: steps, folds, soft labels, shifts, mixing."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.compute.accelerator import make_accelerator
from lumbar.labels import KEYPOINT_SERIES, SEVERITIES, row_ids
from lumbar.study.study import open_data
from lumbar.training.data.make import make_packs
from lumbar.training.data.slice_shift import own_shares
from lumbar.training.folder import RunFolder
from lumbar.training.setup import set_up
from tests.support.tiny_recipe import GRADERS, tiny_recipe
from tests.support.worlds import small_phantoms

STEPS = """
[stage2.members.first]
task = "foraminal"
bundled = false
class_weights = "none"
augment = { mix = "cutmix", mix_alpha = 4.0, reverse_p = 0.5, flip_rows_p = 0.5, holes_p = 1.0, holes = 3 }
[stage2.members.second]
task = "foraminal"
begins_with = "first"
fresh = ["head"]
frozen = ["encoders"]
folds = [0]
best_by = "score"
optimizer = "radam_lookahead"
soft_mix = 0.5
slice_shift = "own"
augment = { mix = "mixup", mix_on = "features", distort = 0.03 }
"""


@pytest.mark.slow
def test_two_steps_of_a_member_on_one_fold_soft_labels_and_the_detectors_own_shifts(tmp_path: Path) -> None:
    data = small_phantoms(tmp_path / "data", 5, 3, {4: {"without_t1": True}})
    ids = [row for study in pd.read_csv(data / "train.csv")["study_id"] for row in row_ids(int(study))]
    pd.DataFrame({"row_id": ids} | dict(zip(SEVERITIES, (0.2, 0.3, 0.5), strict=True))).to_csv(
        tmp_path / "soft.csv", index=False
    )
    common = {"soft_labels": str(tmp_path / "soft.csv"), "keypoints": "out_of_fold_or_label"}
    text = tiny_recipe(graders={"whole": GRADERS["whole"]}, stage2=common)
    (tmp_path / "tiny.toml").write_text(text + STEPS, encoding="utf-8")
    run = tmp_path / "run"
    words = ["--recipe", str(tmp_path / "tiny.toml"), "--data", str(data), "--out", str(run)]
    assert train_utils.main(["train", *words]) == 0
    folder, folds = RunFolder(run), pd.read_csv(run / "folds.csv").set_index("study_id")["fold"]
    assert folder.untrained() == []
    begun, then = (load_file(folder.member(name, 0) / "best.safetensors") for name in ("first", "second"))
    assert all((begun[name] == value).all() for name, value in then.items() if name.startswith("encoders"))
    setup = set_up(run, folder.recipe(), open_data(data, "train"), make_accelerator(folder.recipe().loop))
    make_packs(setup)
    found, told = folder.keypoints((0, 1)), folder.labelled_keypoints((0, 1))
    away: dict[str, list[int]] = {}
    for study in setup.study_ids:
        numbers = {
            each.series_id: [item.instance for item in each.slices]
            for group in setup.packs.study(study).series.values()
            for each in group
        }
        labels = {(point.condition, point.level): point for point in told[study]}
        for point in found[study]:
            label = labels.get((point.condition, point.level))
            if label is not None and label.series_id == point.series_id:
                order = numbers[point.series_id]
                error = abs(order.index(point.instance) - order.index(label.instance))
                away.setdefault(KEYPOINT_SERIES[point.condition], []).append(min(error, 2))
    shares = own_shares(setup, setup.study_ids)
    assert {kind: [values.count(k) / len(values) for k in range(3)] for kind, values in away.items()} == {
        kind: pytest.approx(each) for kind, each in shares.items()
    }
    assert any(0 < each[0] < 1 for each in shares.values())
    assert not (begun["head.weight"] == then["head.weight"]).all()
    assert not folder.prediction_file("first").exists()
    spoken = {int(row.split("_")[0]) for row in pd.read_csv(folder.prediction_file("second"))["row_id"]}
    assert spoken
    assert all(folds[study] == 0 for study in spoken)  # of other folds' studies nothing is said
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    (chosen,) = (row for row in rows if row["member"] == "second")
    assert chosen["valid_score"] == pytest.approx(chosen["valid_score_foraminal"])
    for command in (["evaluate", "--run", str(run)], ["bundle", "--run", str(run), "--out", str(tmp_path / "bundle")]):
        assert train_utils.main(command) == 0
    names = {member.name for member in load_bundle(tmp_path / "bundle").manifest.members}
    assert "second_fold0" in names
    assert not {"second_fold1", "first_fold0", "first_fold1"} & names
    blend = pd.read_csv(folder.prediction_file("blend"))
    assert np.isfinite(blend[list(SEVERITIES)].to_numpy()).all()
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert train_utils.main(["train", *words]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
