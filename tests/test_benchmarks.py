"""Benchmarks run from beginning to end and say what they measured; how fast, no test asks."""

import json
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from lumbar.bundle.bundle import load_bundle
from lumbar.recipe.evidence import PatientTest
from tests.support.spider import foramina_source
from tests.support.worlds import small_phantoms, tiny_bundle
from tests.test_blend import world as blended_world
from tests.test_blend import write_world

#: A grade by eye for each disc.
GRADES = {"L1/L2": 0, "L2/L3": 0, "L3/L4": 0, "L4/L5": 1, "L5/S1": 2}
#: Columns of the points on the left and the right of an axial picture.
SIDES_PX = (("image_left", 20.0), ("image_right", 50.0))
BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data folder and a bundle."""
    root = tmp_path_factory.mktemp("benchmarks")
    small_phantoms(root / "data", 2, 3)
    tiny_bundle(root / "weights")
    return root


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", [name, *map(str, words)])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


@pytest.mark.slow
def test_a_bundle_is_judged_on_labelled_studies(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    run("heldout.py", monkeypatch, "--data", world / "data", "--weights", world / "weights", "--json", out)
    figures, said = json.loads(out.read_text()), capsys.readouterr().out
    assert figures["studies"] == 2
    assert set(figures["scores"]) == {"split", "global", "blend", "weighted_prior"}
    counts = [sum(map(sum, table)) for table in figures["confusion"].values()]
    assert counts == [10] * 5  # five levels of two studies, each once
    assert f"{figures['scores']['blend']['total']:.4f}" in said
    words = ["--data", world / "data", "--weights", world / "weights", "--json", out, "--labelled-points"]
    run("heldout.py", monkeypatch, *words)
    around = json.loads(out.read_text())
    assert around["scores"]["blend"]["total"] != figures["scores"]["blend"]["total"]
    assert around["keypoints"]["sagittal_t2"]["all"]["median_mm"] == pytest.approx(0, abs=1e-6)
    assert figures["keypoints"]["sagittal_t2"]["all"]["median_mm"] > 1


@pytest.mark.slow
def test_training_throughput_is_measured_member_by_member(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("loop.mixed_precision=no", "loop.read_processes=1", "folds.count=2", "folds.method=kfold")
    small = ("stage1.image_size=64", "stage1.batch_size=2", "stage2.image_size=32", "stage2.batch_size=2")
    words = ["--recipe", BENCHMARKS.parent / "recipes" / "demo.toml", "--data", world / "data", "--out", tmp_path]
    words += ["--seconds", 0.01, "--rounds", 1, "--members", "axial_t2", "spinal_small"]
    words += [word for setting in (*settings, *small) for word in ("--set", setting)]
    run("throughput.py", monkeypatch, *words)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["axial_t2", "spinal_small"]
    for _, batch, loading, network, together, share in rows:
        assert batch == "2"
        assert min(float(loading), float(network), float(together)) > 0
        assert share.endswith("%")


def test_prediction_is_measured_beside_its_floors(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("inference.py", monkeypatch, "--data", world / "data", "--weights", world / "weights", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["studies"] == 2
    assert all(figures[name] > 0 for name in ("seconds_per_study", "floor_a_decoding", "floor_b_forward"))


@pytest.mark.slow
def test_prediction_is_measured_recipe_by_recipe(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", world / "data", "--studies", 1, "--engine", "fused"]
    run("inference.py", monkeypatch, *words, "--recipes", BENCHMARKS.parent / "recipes" / "demo.toml")
    head, _, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert len(head) == len(row)
    assert row[:2] == ["demo.toml", "7"]
    assert all(float(number) > 0 for number in row[2:])


def test_a_tree_is_scanned_beside_a_plain_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("scanning.py", monkeypatch, "--files", 300, "--matter", 30, "--rounds", 1)
    figures = json.loads(capsys.readouterr().out)
    assert figures["files"] == 300
    assert figures["series_with_a_part"] >= 3
    assert figures["times_the_loop"] > 0


@pytest.mark.slow
def test_the_naive_way_gives_the_same_probabilities(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", world / "data", "--weights", world / "weights", "--engines", "fused", "--json"]
    run("naive.py", monkeypatch, *words)
    figures = json.loads(capsys.readouterr().out)
    assert figures["reads_per_study"] > 10
    assert figures["fused"]["times_faster"] == pytest.approx(figures["naive_seconds"] / figures["fused"]["seconds"])
    assert figures["fused"]["probabilities_moved"] < 1e-4


@pytest.mark.slow
def test_slices_missing_on_one_side_are_weighed_against_the_complete_study(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    words = ["--data", world / "data", "--weights", world / "weights", "--middle", "canal", "--json", out]
    words += ["--draws", 20]
    run("one_sided.py", monkeypatch, *words)
    figures, said = json.loads(out.read_text())["canal"], capsys.readouterr().out
    assert figures["complete"]["foraminal_more"] == figures["complete"]["lost"] == figures["complete"]["told"] == 0
    assert figures["T1 -3"]["told"] == 1
    assert figures["T1 -1"]["lost"] < figures["T1 -3"]["lost"] < 1
    assert f"{figures['T1 -1, T2 -1']['foraminal']:.3f}" in said


def test_networks_are_timed_engine_by_engine_and_by_slices_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)  # other tests count on theirs
    words = ["--recipe", BENCHMARKS.parent / "recipes" / "demo.toml", "--members", "spinal_small", "--rounds", 1]
    run("engines.py", monkeypatch, *words)
    run("engines.py", monkeypatch, *words, "--slices", 2, 4, "--engines", "fused")
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "---" not in line]
    assert rows[0] == ["network", "eager", "fused", "moved at most"]
    assert rows[1][0] == "spinal_small"
    assert float(rows[1][3]) < 1e-6
    assert rows[2] == ["backbone", "engine", "2", "4"]
    assert min(map(float, rows[3][2:])) > 0


@pytest.mark.slow
def test_the_canal_is_judged_on_patients_that_are_held_out(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spider = tmp_path / "spider"
    foramina_source(spider)  # of which there are T2 SPACE slices, too
    (spider / "midsagittal").mkdir()
    names = [f"{patient}_t2" for patient in (2, 3, 7, 8)]
    for place, name in enumerate(names):
        pixels = np.random.default_rng(place).integers(0, 255, (256, 256), np.uint8)
        cv2.imwrite(str(spider / "midsagittal" / f"{name}.png"), pixels)
    overview = pd.DataFrame({"new_file_name": names, "PixelSpacing": "[0.7, 0.7]"})
    overview.to_csv(spider / "overview.csv", index=False)
    grades = [f"{patient},{level},{grade}" for patient in (2, 3, 7) for level, grade in GRADES.items()]
    (spider / "canal_grades.csv").write_text("\n".join(["patient,level,grade", *grades]) + "\n")
    ways = {2: 40, 3: 40, 7: -40, 8: 40}  # px down from level to level: 7 is stored upside down
    points = [
        f"{patient},{level},120,{128 + way * (place - 2)},0"
        for patient, way in ways.items()
        for place, level in enumerate(GRADES)
    ]
    (spider / "points.csv").write_text("\n".join(["patient,level,x,y,t1", *points]) + "\n")
    words = ["--weights", world / "weights", "--spider", spider, "--points", spider / "points.csv", "--draws", 20]
    run("real_canal.py", monkeypatch, *words)
    said = capsys.readouterr()
    found = PatientTest.model_validate(json.loads(said.out))
    assert found.patients == 2  # 2 and 7; 3 is not held out, 8 has no grades
    assert found.cases.startswith("10 discs on mid-sagittal T2 images: 6 / 2 / 2 ")
    assert set(found.intervals) == set(found.figures)
    low, high = found.intervals["AUC of severe"]
    assert 0 <= low <= found.figures["AUC of severe"] <= high <= 1
    assert re.search("L1/L2: [012] of 2 normal or mild discs called severe", said.err)
    assert "L5/S1: 0 of 0 normal or mild discs called severe" in said.err


@pytest.mark.slow
def test_foramina_are_judged_point_by_point_and_slice_by_slice(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = foramina_source(tmp_path / "spider")  # held out: a T2 slice of patient 12 and a T1 slice of 106
    foramina = pd.read_csv(source / "foramina.csv")
    foramina.to_csv(source / "offmidline" / "points.csv", index=False)
    own = pd.read_csv(BENCHMARKS.parent / "recipes" / "spider_foramina.csv")
    own = own[own["patient"] % 5 == 2]
    for image in own["image"].unique():
        place = source / ("t2_space" if "SPACE" in image else "offmidline") / "images"
        cv2.imwrite(str(place / f"{image}.png"), np.tile(np.arange(480, dtype=np.uint8), (480, 1)))
    with (source / "overview.csv").open("a") as overview:
        overview.write('112_t2,"[0.6, 0.6]"\n')
    words = ["--weights", world / "weights", "--spider", source, "--phantoms", world / "data"]
    run("real_foramina.py", monkeypatch, *words)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    by_hand = [["by hand, all", "2", "4"], ["by hand, clear", "2", "2"], ["by hand, clear, T1", "1", "1"]]
    ours = ["ours", str(own["image"].nunique()), str(len(own))]
    assert [row[:3] for row in rows[1:5]] == [*by_hand, ours]
    cuts = {tuple(row[:2]): row[2:] for row in rows[6:]}
    assert len(cuts) == 7
    assert cuts["0", "T1"][0] == "20"
    assert cuts["3", "T1"][0] == "10"  # each study has lost one of its sides
    assert cuts["0", "T1"][2] == "100.0%"  # the canal is where the series has its middle


def axial_slices(folder: Path) -> pd.DataFrame:
    """Two single slices of noise with a point on each side; their table of points."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [(name, side, x, 40.0, 1.2) for name in ("a", "b") for side, x in SIDES_PX]
    for name in ("a", "b"):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), rng.integers(0, 255, (80, 64), np.uint8))
    table = pd.DataFrame(rows, columns=["image", "side_in_image", "x", "y", "pixel_mm"])
    table.to_csv(folder / "points.csv", index=False)
    return table


def test_recesses_are_judged_on_single_axial_slices(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Points set where the detector says they are lie 0 mm off, each on its own side: the picture's left is the
    patient's right."""
    table = axial_slices(tmp_path)
    words = ["--weights", world / "weights", "--axial", tmp_path]
    run("real_axial.py", monkeypatch, *words, "--pictures", tmp_path / "sheet.png")
    assert "both | 2 | 4 | 0.0 " not in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None

    look = runpy.run_path(str(BENCHMARKS / "real_axial.py"))["look"]
    detectors = runpy.run_path(str(BENCHMARKS / "real_images.py"))["detectors_of"](load_bundle(world / "weights"))
    found = {each.name: each.said for each in look(detectors["axial_t2"]["axial_t2"], tmp_path)}
    for at, (name, side) in enumerate(zip(table["image"], table["side_in_image"], strict=True)):
        table.loc[at, ["x", "y"]] = found[name]["right" if side == "image_left" else "left"]
    table.to_csv(tmp_path / "points.csv", index=False)
    run("real_axial.py", monkeypatch, *words)
    assert "both | 2 | 4 | 0.0 ± 0.0 | 0.0 | 100% ± 0% | 0 | 0" in capsys.readouterr().out


def test_listed_labels_are_counted_beside_corrected_keypoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members, codes = blended_world(40, seed=2, silent=0.0)
    codes[:] = np.where(codes < 0, 0, codes)
    members[:] = 0.02 + 0.94 * np.eye(3)[codes][:, None]  # all are believed
    members[:4, :, 0, 1] = 0.02 + 0.94 * np.eye(3)[(codes[:4, 0, 1] + 1) % 3][:, None]  # but these
    members += np.arange(3)[None, :, None, None, None] * 1e-4  # tables of their own
    labels, tables = write_world(tmp_path, members, codes)
    points = [(1000 + row, "spinal_canal_stenosis", "l2_l3", int(row in (1, 2, 30))) for row in range(40)]
    path = tmp_path / "points.csv"
    pd.DataFrame(points, columns=["study_id", "condition", "level", "fix"]).to_csv(path, index=False)
    words = ["--labels", labels, "--coordinates", path, "--tables", *tables, "--threshold", 0.8]
    run("label_list.py", monkeypatch, *words)
    said = capsys.readouterr().out
    assert "threshold 0.8: 4 of 1000 labels are listed" in said
    assert "corrected keypoints: 3, 3 with a label, of which 2 are listed" in said
    assert f"with a correction: {100 * 2 / 75:.2f} %, in the others {100 * 2 / 925:.2f} %" in said


def test_discs_are_graded_from_the_backbones_of_the_shipped_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = runpy.run_path(str(BENCHMARKS / "pfirrmann.py"))
    bundle = load_bundle(BENCHMARKS.parent / "weights")
    starts = found["starts"](bundle, tmp_path)
    networks = {kind: found["DiscNetwork"](starts[kind]).eval() for kind in ("random", "phantoms")}
    learnt = bundle.network("canal").get_submodule("encoders.0.backbone").state_dict()
    for kind, network in networks.items():
        own = network.grader.get_submodule("encoders.0.backbone").state_dict()
        assert all(np.array_equal(own[key], learnt[key].float()) for key in learnt) == (kind == "phantoms")
    views = torch.zeros(2, 2, 1, 80, 80)
    views[1, 1] = 1.0  # another T1
    answers = networks["phantoms"](views)
    assert answers.shape == (2, 11)  # four grades, seven signs
    assert not torch.equal(answers[0], answers[1])


@pytest.mark.slow
def test_the_memory_of_steps_is_told_for_every_kind_of_member_or_the_largest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = BENCHMARKS.parent / "recipes" / "demo.toml"
    run("step_memory.py", monkeypatch, recipe)
    every = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert {"sagittal_t2", "axial_t2", "global_small"} <= {row[1] for row in every}
    assert all(0 < float(row[3]) < 2 for row in every)
    run("step_memory.py", monkeypatch, "--largest", recipe)
    (largest,) = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert float(largest[3]) == max(float(row[3]) for row in every)


@pytest.mark.slow
def test_strange_regions_are_told_kind_by_kind(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card, weights = tmp_path / "card.json", BENCHMARKS.parent / "weights"
    words = ["--weights", weights, "--data", world / "data", "--real", world / "data", "--rounds", 1, "--card", card]
    run("strange.py", monkeypatch, *words)
    lines = capsys.readouterr().out.splitlines()
    told = {name: cells for name, *cells in (line.split(" | ") for line in lines[:-1])}
    assert {"as it is", "noise", "inverted", "T1 and T2 exchanged", "real: data"} <= set(told)
    assert told["as it is"][1] == told["real: data"][1], "the same studies"
    assert told["real: data"][0] == "0.500"
    assert float(told["noise"][0]) == float(told["T1 and T2 exchanged"][0]) == 1, "the canal's"
    assert re.fullmatch(r"processor seconds a study: [\d.]+ with scores, [\d.]+ without", lines[-1])
    (table,) = json.loads(card.read_text())
    assert [row[0] for row in table["rows"]] == list(told)
