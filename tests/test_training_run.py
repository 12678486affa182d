"""The whole run by its command line: it trains, skips what is done, evaluates, bundles, predicts."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.compute.accelerator import make_accelerator
from lumbar.files.write import write_json
from lumbar.issues import InputError
from lumbar.keypoints.networks.registry import build_detector
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, row_ids
from lumbar.metric import UNLABELLED, label_codes, score
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data, read_study
from lumbar.training.data.make import make_packs, make_stacks
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.folder import RunFolder
from lumbar.training.job import make_job
from lumbar.training.loop.loop import Job
from lumbar.training.outcome.bundling import make_bundle
from lumbar.training.outcome.evaluate import evaluate
from lumbar.training.run import prepare
from lumbar.training.setup import set_up
from lumbar.training.stages import as_trained
from tests.support.tiny_recipe import GRADERS, tiny_recipe
from tests.support.trained import TrainsError, jobs_instead_of_training, train, trained


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a recipe and the finished run of it."""
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Whatever would be trained from now on is noted here, and raises its name."""
    return jobs_instead_of_training(monkeypatch)


def test_a_run_holds_every_result(world: Path) -> None:
    run = world / "run"
    folds = pd.read_csv(run / "folds.csv")
    assert sorted(folds["fold"].unique()) == [0, 1]
    assert len(folds) == 5
    assert json.loads((run / "recipe.json").read_text())["name"] == "tiny"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {(row["member"], row["fold"]) for row in rows} == {
        (member, fold)
        for member in ("t2", "t1", "axial", "spinal_split", "foraminal_split", "subarticular_split", "whole")
        for fold in (0, 1)
    }
    assert all(np.isfinite(row["valid_loss"]) for row in rows)
    blend = pd.read_csv(run / "predictions" / "blend.csv")
    assert len(blend) == 5 * 25
    assert not list(run.rglob("checkpoint.safetensors"))
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".tmp")]


@pytest.mark.usefixtures("no_training")
def test_a_finished_run_does_nothing_again(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (world / "run").rglob("*.safetensors")}
    tables = (world / "run" / "predictions" / "blend.csv").stat().st_mtime_ns
    assert train(world) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (world / "run").rglob("*.safetensors")}
    assert tables == (world / "run" / "predictions" / "blend.csv").stat().st_mtime_ns


@pytest.mark.usefixtures("no_training")
def test_a_run_may_be_named_from_where_one_stands(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    RunFolder(Path("run")).check_finished()
    assert train(Path()) == 0


#: The label that is left out or corrected in the tests below.
COLUMN, PLACE = "spinal_canal_stenosis_l4_l5", (CONDITIONS.index("spinal_canal_stenosis"), LEVELS.index("l4_l5"))


def labelled_study(world: Path) -> tuple[int, int]:
    """A study that fold 0 trains on and that has that label, and its severity."""
    folds = pd.read_csv(world / "run" / "folds.csv").set_index("study_id")["fold"]
    labels = pd.read_csv(world / "run" / "labels.csv").set_index("study_id")[COLUMN]
    study = next(int(one) for one in folds.index if folds[one] != 0 and pd.notna(labels[one]))
    return study, ["Normal/Mild", "Moderate", "Severe"].index(str(labels[study]))


def job_with(world: Path, run: str, change: str, jobs: list[Job], study: int) -> tuple[int, int]:
    """What the first job of a changed recipe trains on and is judged by in that place; it is a grader's.

    Nothing else is changed.
    """
    with pytest.raises(TrainsError):
        train(world, "--out", run, "--set", change)
    job = jobs[-1]
    assert isinstance(job.train, RegionSamples)  # the detectors stay as they are
    assert isinstance(job.valid, RegionSamples)
    assert sum((job.train.codes[each] != job.valid.codes[each]).sum() for each in job.train.codes) == 1
    return int(job.train.codes[study][PLACE]), int(job.valid.codes[study][PLACE])


def test_graders_train_again_without_the_labels_left_out_and_are_judged_on_all(
    world: Path, tmp_path: Path, no_training: list[Job]
) -> None:
    (study, own), run = labelled_study(world), str(shutil.copytree(world / "run", tmp_path / "run"))
    pd.DataFrame({"row_id": [f"{study}_{COLUMN}"], "loss": [3.2]}).to_csv(tmp_path / "suspect_labels.csv", index=False)
    found = job_with(world, run, f"leave_out={tmp_path / 'suspect_labels.csv'}", no_training, study)
    assert found == (UNLABELLED, own)


def test_graders_train_again_with_corrected_labels_and_are_judged_on_the_folders(
    world: Path, tmp_path: Path, no_training: list[Job]
) -> None:
    """Two tables that change one label in two ways are two trainings; one that changes nothing is none."""
    (study, own), run = labelled_study(world), str(shutil.copytree(world / "run", tmp_path / "run"))
    for new in ((own + 1) % 3, (own + 2) % 3):
        table = tmp_path / f"{new}.csv"
        table.write_text(f"row_id,label,was\n{study}_{COLUMN},{SEVERITIES[new]},{SEVERITIES[own]}\n")
        assert job_with(world, run, f"corrected_labels={table}", no_training, study) == (new, own)
    assert no_training[0].fingerprint != no_training[1].fingerprint


@pytest.mark.usefixtures("no_training")
def test_another_file_of_pretrained_weights_is_trained_from_again(world: Path, tmp_path: Path) -> None:
    encoder = build_detector(load_recipe(world / "tiny.toml").stage1.members["t2"].spec).get_submodule("encoder.model")
    weights = tmp_path / "encoder.safetensors"
    words = ["--set", f"stage1.members.t2.pretrained={weights}"]
    found = []
    for scale in (1.0, 2.0):
        save_file({name: value * scale for name, value in encoder.state_dict().items()}, weights)
        recipe = load_recipe(world / "tiny.toml", words[1:])
        setup = set_up(world / "run", recipe, open_data(world / "data"), make_accelerator(recipe.loop))
        setup.packs.know(setup.study_ids)
        found.append(make_job(setup, as_trained("t2", recipe.stage1.members["t2"]), 0).fingerprint)
    assert found[0] != found[1]


def test_the_run_becomes_a_bundle_that_predicts(world: Path) -> None:
    assert train_utils.main(["bundle", "--run", str(world / "run"), "--out", str(world / "bundle")]) == 0
    bundle = load_bundle(world / "bundle")
    assert len(bundle.manifest.members) == 14
    assert {member.fold for member in bundle.manifest.members} == {0, 1}
    assert all("studies of data" in member.saw for member in bundle.manifest.members)
    out = world / "predicted"
    words = ["--data", world / "data", "--weights", world / "bundle", "--out", out, "--device", "cpu"]
    assert train_utils.main(["predict", *map(str, words)]) == 0
    assert len(pd.read_csv(out / "submission.csv")) == 125


def test_out_of_fold_probabilities_are_those_that_prediction_gives(world: Path) -> None:
    """A held-out study through a bundle of its fold's members alone gives the run's own out-of-fold rows."""
    make_bundle(world / "run", world / "bundle32", precision="float32")
    bundle = load_bundle(world / "bundle32")
    manifest = bundle.manifest.model_copy(update={"members": tuple(m for m in bundle.manifest.members if m.fold == 0)})
    predictor = Predictor(type(bundle)(bundle.folder, manifest, bundle.identity))
    folds = pd.read_csv(world / "run" / "folds.csv")
    study = int(folds.loc[folds["fold"] == 0, "study_id"].iloc[0])
    result = predictor(read_study(open_data(world / "data", "train"), study))
    table = pd.read_csv(world / "run" / "predictions" / "blend.csv").set_index("row_id")
    for c, condition in enumerate(CONDITIONS):
        for k, level in enumerate(LEVELS):
            row = table.loc[f"{study}_{condition}_{level}"].to_numpy()
            assert np.abs(row - result.probabilities[c, k]).max() < 1e-4


def test_evaluation_stores_numbers_and_a_page_of_plots(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_utils.main(["evaluate", "--run", str(world / "run")]) == 0
    said = capsys.readouterr().out
    assert "weighted_prior" in said
    assert " ± " in next(line for line in said.splitlines() if line.startswith("blend  "))
    assert "the original published: 0.39 (private leaderboard)" in said
    assert "note: the epochs of" in said
    result = json.loads((world / "run" / "evaluation.json").read_text())
    assert result["studies"] == 5
    assert result["keypoints"]["sagittal_t2"]["all"]["count"] == 25
    assert set(result["scores"]) == {
        "spinal_split", "foraminal_split", "subarticular_split", "whole", "blend", "weighted_prior",
    }  # fmt: skip
    assert result["scores"]["spinal_split"]["foraminal"] is None
    spread = result["keypoints"]["sagittal_t2"]["all"]
    assert 0 < spread["median_mm"] < spread["p95_mm"]
    table = pd.read_csv(world / "run" / "predictions" / "blend.csv")
    official = score(pd.read_csv(world / "data" / "train.csv"), table)
    assert result["scores"]["blend"]["total"] == pytest.approx(official.total, abs=1e-6)
    page = (world / "run" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert html.unescape(page.split("<pre>")[1].split("</pre>")[0]).strip() == said.strip()
    counts = [line.split()[-3:] for line in said.splitlines() if line.split()[-4:-3] in (["normal_mild:"], ["severe:"])]
    assert counts[:2] == [[str(n) for n in result["confusion"]["spinal_canal_stenosis"][code]] for code in (0, 2)]
    gap = result["reliability"]["foraminal"]["severe"]["gap"]
    assert any(line.startswith("foraminal ") and line.endswith(f"{gap:.4f}") for line in said.splitlines())
    plots = {path.name: path.stat().st_size for path in (world / "run" / "plots").iterdir()}
    assert set(plots) == {"keypoint_error.png", "scores.png", "reliability.png", "roc.png", "confusion.png"}
    assert min(plots.values()) > 10_000


def test_an_unfinished_run_is_neither_evaluated_nor_bundled(world: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_bytes((world / "run" / "recipe.json").read_bytes())
    with pytest.raises(InputError, match="t2 fold 0"):
        evaluate(tmp_path)
    assert train_utils.main(["bundle", "--run", str(tmp_path), "--out", str(tmp_path / "b")]) == 1
    assert train_utils.main(["evaluate", "--run", str(tmp_path / "none")]) == 1


@pytest.mark.slow
def test_pictures_show_every_member(world: Path) -> None:
    words = ["--recipe", world / "tiny.toml", "--data", world / "data", "--out", world / "shown"]
    assert train_utils.main(["show-batches", *map(str, words)]) == 0
    assert {path.stem for path in (world / "shown").glob("*.png")} == {
        "t2", "t1", "axial", "spinal_split", "foraminal_split", "subarticular_split", "whole",
    }  # fmt: skip
    found = ["--recipe", world / "tiny.toml", "--data", world / "data", "--run", world / "run"]
    assert train_utils.main(["show-batches", *map(str, found), "--out", str(world / "found")]) == 0
    ours, theirs = ((world / name / "whole.png").read_bytes() for name in ("shown", "found"))
    assert ours != theirs  # around other points
    assert (world / "shown" / "t2.png").read_bytes() == (world / "found" / "t2.png").read_bytes()


def test_no_member_validates_on_studies_it_saw_nor_on_soft_labels(world: Path, tmp_path: Path) -> None:
    """With folds of its own, too: each job's studies are parted by the fold, and soft labels reach training alone."""
    data = open_data(world / "data", "train")
    rows = [row for study in data.study_ids for row in row_ids(study)]
    table = pd.DataFrame({"row_id": rows, "normal_mild": 0.0, "moderate": 0.0, "severe": 1.0})
    table.to_csv(tmp_path / "soft.csv", index=False)
    words = ["stage2.members.whole.folds=[1]", f"stage2.soft_labels={tmp_path / 'soft.csv'}"]
    recipe = load_recipe(world / "tiny.toml", words)
    setup = set_up(world / "run", recipe, data, make_accelerator(recipe.loop))
    make_packs(setup)
    assert ("whole", 0) not in recipe.to_train()
    for name, fold in recipe.to_train():
        job = make_job(setup, as_trained(name, recipe.members()[name]), fold)
        trained, judged = set(job.train.studies.tolist()), set(job.valid.studies.tolist())
        assert judged <= set(setup.held_out(fold))
        assert trained
        assert not trained & set(setup.held_out(fold))
        if isinstance(job.train, RegionSamples) and isinstance(job.valid, RegionSamples):
            assert "soft" in job.train.sample(0, None)
            assert "soft" not in job.valid.sample(0, None)
            assert all(np.array_equal(job.valid.codes[study], setup.codes[study]) for study in judged)


def test_labels_in_a_run_are_those_of_the_data(world: Path) -> None:
    stored, given = RunFolder(world / "run").labels(), pd.read_csv(world / "data" / "train.csv")
    (studies, ours), (others, theirs) = label_codes(stored), label_codes(given)
    assert np.array_equal(ours, theirs[[list(others).index(study) for study in studies]])


def test_a_bundle_ranks_graders_by_how_well_they_did_on_what_they_had_not_seen(world: Path, tmp_path: Path) -> None:
    """Two members a task: the one with the smaller loss first, all first folds before all second ones."""
    recipe = tmp_path / "two.toml"
    recipe.write_text(tiny_recipe(graders=GRADERS | {"other": {"tasks": ["spinal"]}}), encoding="utf-8")
    shutil.copytree(world / "run", tmp_path / "run", ignore=shutil.ignore_patterns("cache"))
    run = tmp_path / "run"
    write_json(load_recipe(recipe).model_dump(mode="json"), run / "recipe.json")
    for fold in (0, 1):
        ours = run / "members" / "spinal_split" / f"fold{fold}"
        other = shutil.copytree(ours, run / "members" / "spinal_other" / f"fold{fold}")
        result = json.loads((ours / "result.json").read_text())
        result["best"]["valid_loss"] -= 0.1
        write_json(result, Path(other) / "result.json")
    RunFolder(run).finish()
    bundle = make_bundle(run, tmp_path / "weights")
    ranks = {member.name: member.rank for member in bundle.manifest.members if member.name.startswith("spinal")}
    assert ranks == {
        "spinal_other_fold0": 1,
        "spinal_split_fold0": 2,
        "spinal_other_fold1": 3,
        "spinal_split_fold1": 4,
    }
    assert {member.rank for member in bundle.manifest.members if member.name.startswith("whole")} == {1, 2}
    assert all(member.rank is None for member in bundle.manifest.members if member.spec.stage == "keypoints")


def test_a_recipe_draws_more_often_from_one_source(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Rows of the training set; what a fold holds out is judged once. A source that is not there stops the run."""
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    words = ["--recipe", world / "tiny.toml", "--data", data, "--out", tmp_path / "run"]
    more = ["--set", "stage1.members.t2.draws={scanner=3}"]
    assert train_utils.main(["train", *map(str, words), *more]) == 1
    assert "t2: the recipe draws from 'scanner'" in capsys.readouterr().err
    ids = sorted(int(study) for study in pd.read_csv(data / "train.csv")["study_id"])
    sources = pd.DataFrame({"study_id": ids[:2], "source": "scanner"})
    sources.to_csv(data / "train_sources.csv", index=False)
    recipe = load_recipe(world / "tiny.toml", [more[1]])
    setup = set_up(tmp_path / "run", recipe, open_data(data), make_accelerator(recipe.loop))
    prepare(setup)
    member = as_trained("t2", recipe.stage1.members["t2"])
    make_stacks(setup, "t2", recipe.stage1.members["t2"].spec)
    for fold in (0, 1):
        job = make_job(setup, member, fold)
        often = [study for study in member.trained_on(setup, fold) for _ in range(3 if study in ids[:2] else 1)]
        assert job.train.studies.tolist() == often
        assert sorted(job.valid.studies) == setup.held_out(fold)
