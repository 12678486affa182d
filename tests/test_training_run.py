"""The whole run by its command line: trains, skips what is done, notices what changed, evaluates, bundles, predicts."""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
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
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data
from lumbar.training.data.make import make_packs, make_stacks
from lumbar.training.data.packs import read_header
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.folder import RunFolder
from lumbar.training.job import make_job
from lumbar.training.loop import loop
from lumbar.training.loop.loop import Job
from lumbar.training.outcome.bundling import make_bundle
from lumbar.training.outcome.evaluate import evaluate
from lumbar.training.run import prepare
from lumbar.training.setup import set_up
from lumbar.training.stages import as_trained
from tests.support.tiny_recipe import DETECTORS, GRADERS, tiny_recipe
from tests.support.worlds import small_phantoms

RECIPE = 'published = { "private leaderboard" = 0.39 }\n' + tiny_recipe(stage2={"any_severe_weight": 0.5})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a recipe and the finished run of it."""
    root = tmp_path_factory.mktemp("run")
    small_phantoms(root / "data", 5, 3, {4: {"without_t1": True}})
    (root / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    assert _train(root) == 0
    return root


def _train(root: Path, *more: str) -> int:
    words = ["--recipe", root / "tiny.toml", "--data", root / "data", "--out", root / "run", *more]
    return train_utils.main(["train", *map(str, words)])


class _TrainsError(Exception):
    """The first job that would be trained."""


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would be trained from now on raises its name."""

    def refuse(job: Job, *rest: object) -> None:
        raise _TrainsError(f"{job.member} {job.fold}")

    monkeypatch.setattr(loop, "fit", refuse)


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
    assert _train(world) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (world / "run").rglob("*.safetensors")}
    assert tables == (world / "run" / "predictions" / "blend.csv").stat().st_mtime_ns


@pytest.mark.usefixtures("no_training")
def test_a_run_may_be_named_from_where_one_stands(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    RunFolder(Path("run")).check_finished()
    assert _train(Path()) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_only_members_whose_settings_changed_are_trained_again_and_until_then_nothing_is_made_of_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shutil.copytree(world / "run", tmp_path / "run"))
    with pytest.raises(_TrainsError, match="whole 0"):
        _train(world, "--out", run, "--set", "stage2.members.whole.roi_mm=60.0")
    assert RunFolder(tmp_path / "run").untrained() == []  # older results that say nothing of the region
    for words in (["evaluate", "--run", run], ["bundle", "--run", run, "--out", str(tmp_path / "bundle")]):
        assert train_utils.main(words) == 1
        assert "training by its present recipe and data has not ended; run" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    assert _train(world, "--out", run) == 0
    assert train_utils.main(["evaluate", "--run", run]) == 0


def test_graders_train_again_without_the_labels_left_out_and_are_judged_on_all(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = pd.read_csv(world / "run" / "folds.csv")
    labels = pd.read_csv(world / "run" / "labels.csv").set_index("study_id")
    column = "spinal_canal_stenosis_l4_l5"
    study = next(
        int(row.study_id) for row in folds.itertuples() if row.fold != 0 and labels[column].notna()[row.study_id]
    )
    pd.DataFrame({"row_id": [f"{study}_{column}"], "loss": [3.2]}).to_csv(tmp_path / "suspect_labels.csv", index=False)
    jobs: list[Job] = []

    def look(job: Job, *rest: object) -> None:
        jobs.append(job)
        raise _TrainsError(job.member)

    monkeypatch.setattr(loop, "fit", look)
    run = str(shutil.copytree(world / "run", tmp_path / "run"))
    with pytest.raises(_TrainsError):
        _train(world, "--out", run, "--set", f"leave_out={tmp_path / 'suspect_labels.csv'}")
    (job,) = jobs
    assert isinstance(job.train, RegionSamples)  # the detectors stay as they are
    assert isinstance(job.valid, RegionSamples)
    place = CONDITIONS.index("spinal_canal_stenosis"), LEVELS.index("l4_l5")
    assert job.train.codes[study][place] == UNLABELLED
    assert job.valid.codes[study][place] != UNLABELLED
    assert sum((job.train.codes[each] != job.valid.codes[each]).sum() for each in job.train.codes) == 1


def test_graders_train_again_with_corrected_labels_and_are_judged_on_the_folders(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tables that change one label in two ways are two trainings; one that changes nothing is none."""
    folds = pd.read_csv(world / "run" / "folds.csv").set_index("study_id")["fold"]
    labels = pd.read_csv(world / "run" / "labels.csv").set_index("study_id")
    column = "spinal_canal_stenosis_l4_l5"
    study = next(int(one) for one in folds.index if folds[one] != 0 and labels[column].notna()[one])
    own = ["Normal/Mild", "Moderate", "Severe"].index(labels[column][study])
    place = CONDITIONS.index("spinal_canal_stenosis"), LEVELS.index("l4_l5")
    jobs: list[Job] = []

    def look(job: Job, *rest: object) -> None:
        jobs.append(job)
        raise _TrainsError(job.member)

    monkeypatch.setattr(loop, "fit", look)
    run = str(shutil.copytree(world / "run", tmp_path / "run"))
    for new in ((own + 1) % 3, (own + 2) % 3):
        table = tmp_path / f"{new}.csv"
        table.write_text(f"row_id,label,was\n{study}_{column},{SEVERITIES[new]},{SEVERITIES[own]}\n")
        with pytest.raises(_TrainsError):
            _train(world, "--out", run, "--set", f"corrected_labels={table}")
        job = jobs[-1]
        assert isinstance(job.train, RegionSamples)
        assert isinstance(job.valid, RegionSamples)
        assert job.train.codes[study][place] == new
        assert job.valid.codes[study][place] == own
        assert sum((job.train.codes[each] != job.valid.codes[each]).sum() for each in job.train.codes) == 1
    assert jobs[0].fingerprint != jobs[1].fingerprint


@pytest.mark.slow
def test_weights_of_other_settings_are_never_taken_for_the_result(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with another rate is stopped behind its first epoch: its weights lie beside the older run's result."""
    shutil.copytree(world / "run", tmp_path / "run")
    end = loop.fit

    def stopped(job: Job, *rest: object) -> None:
        end(job, *rest)  # type: ignore[arg-type]
        raise _TrainsError(f"{job.member} {job.fold}")

    monkeypatch.setattr(loop, "fit", stopped)
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(_TrainsError, match="whole 0"):
        _train(world, *out, "--set", "stage2.members.whole.learning_rate=0.002")
    folder = RunFolder(tmp_path / "run")
    assert (folder.member("whole", 0) / "result.json").is_file()
    assert folder.untrained() == ["whole fold 0"]
    with pytest.raises(_TrainsError, match="whole 0"):
        _train(world, *out)


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


SLOWLY = """
import sys, time
import train_utils
from lumbar.training.loop import loop

show = loop._show
loop._show = lambda *batch: time.sleep(0.1) or show(*batch)
sys.exit(train_utils.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_an_unbroken_one(world: Path, tmp_path: Path) -> None:
    words = ["train", "--recipe", world / "tiny.toml", "--data", world / "data", "--out", tmp_path / "run"]
    command = [sys.executable, "-c", SLOWLY, *map(str, words), "--set", "loop.checkpoint_steps=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, cwd=Path(train_utils.__file__).parent) as begun:
        until = time.monotonic() + 240
        while not any(batch > 0 for batch in _batches_done(tmp_path / "run")):
            assert begun.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        begun.send_signal(signal.SIGKILL)
    assert begun.returncode == -signal.SIGKILL
    assert any(batch > 0 for batch in _batches_done(tmp_path / "run"))
    assert _train(world, "--out", str(tmp_path / "run")) == 0
    assert not _batches_done(tmp_path / "run")
    one, two = (_metrics(root / "run" / "metrics.jsonl") for root in (world, tmp_path))
    assert {key: row["valid_loss"] for key, row in one.items()} == pytest.approx(
        {key: row["valid_loss"] for key, row in two.items()}, abs=1e-6
    )
    ours = pd.read_csv(world / "run" / "predictions" / "blend.csv", index_col="row_id")
    theirs = pd.read_csv(tmp_path / "run" / "predictions" / "blend.csv", index_col="row_id")
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)


def _batches_done(run: Path) -> list[int]:
    """Of every member that is being trained, the batches of its epoch that are done."""
    headers = [read_header(path) for path in run.glob("members/*/*/checkpoint.safetensors")]
    return [header["progress"]["batch"] for header in headers if header is not None]


@pytest.mark.slow
def test_two_processes_train_the_system_as_one_does(tmp_path: Path) -> None:
    """Losses and figures agree to 1e-3 (2e-5 seen): batch norms, noise and draws are those of the whole batch.

    Dropout is off: it is drawn for a place in a process's share, so that two processes drop other things than one.
    """
    small_phantoms(tmp_path / "data", 8, 3)
    recipe = tmp_path / "tiny.toml"
    network = {"decoder_channels": 8, "decoder_aspp_dropout": 0.0}
    graders = {"whole": GRADERS["whole"] | {"any_severe_weight": 0.5}}
    recipe.write_text(tiny_recipe(graders=graders, stage1={"network_args": network}))
    words = ["train", "--recipe", str(recipe), "--data", str(tmp_path / "data"), "--set", "folds.train=[0]"]
    noise = ("stage1.augment.noise=0.3", "stage2.augment.noise=0.3")
    for setting in (*noise, "stage2.keypoints=labels", "stage2.batch_size=10"):  # a study to each
        words += ["--set", setting]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, train_utils.__file__, *words, "--out", str(tmp_path / "two")]
    for hours in (["--hours", "0.0001"], []):  # both stop together, and go on
        done = subprocess.run([*command, *hours], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ("stopped before" in done.stderr) == bool(hours)
    assert train_utils.main([*words, "--out", str(tmp_path / "one")]) == 0
    one, two = (_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == 4
    assert one.keys() == two.keys()  # and a row each: the processes did not train apart
    for key, row in one.items():
        for name in ("train_loss", "valid_loss"):
            assert row[name] == pytest.approx(two[key][name], abs=1e-3), key


def _metrics(path: Path) -> dict[tuple[str, int, int], dict[str, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {(row["member"], row["fold"], row["epoch"]): row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.slow
def test_curves_go_to_tensorboard_where_the_recipe_says_so(world: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    text = tiny_recipe({"t2": DETECTORS["t2"]}, {"canal": {"task": "spinal", "epochs": 2}})
    (tmp_path / "two.toml").write_text(text, encoding="utf-8")
    words = ["loop.tensorboard=true", "stage2.keypoints=labels", "folds.train=[0]"]
    more = [word for each in words for word in ("--set", each)]
    assert _train(world, "--recipe", str(tmp_path / "two.toml"), "--out", str(tmp_path / "run"), *more) == 0
    curves = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    rows = _metrics(tmp_path / "run" / "metrics.jsonl")
    shown = curves.Scalars("valid_loss/canal_fold0")
    assert [point.step for point in shown] == [1, 2]
    assert [point.value for point in shown] == pytest.approx(
        [rows["canal", 0, epoch]["valid_loss"] for epoch in (1, 2)]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_changed_images_are_trained_on_again(world: Path) -> None:
    path = next((world / "data" / "train_images").rglob("*.dcm"))
    found, whole = path.stat(), path.read_bytes()
    try:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))
        assert _train(world) == 0  # another time, the same image
        path.write_bytes(whole[:-100] + bytes(100))  # the last pixels
        with pytest.raises(_TrainsError, match="t2 0"):
            _train(world)
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert _train(world) == 0  # as it was: read again, and found to be what the networks were trained on


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
    from lumbar.prediction.predictor import Predictor
    from lumbar.study.study import open_data, read_study
    from lumbar.training.outcome.bundling import make_bundle

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
    from lumbar.training.folder import RunFolder

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
