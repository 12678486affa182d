"""A run goes on: after a kill, with other settings or images, and in two processes as in one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import train_utils
from lumbar.training.data.packs import read_header
from lumbar.training.folder import RunFolder
from lumbar.training.loop import loop
from lumbar.training.loop.loop import Job
from tests.support.tiny_recipe import DETECTORS, GRADERS, tiny_recipe
from tests.support.trained import TrainsError, jobs_instead_of_training, train, trained
from tests.support.worlds import small_phantoms


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a recipe of one grader, and the finished run of it."""
    recipe = tiny_recipe(graders={"whole": GRADERS["whole"]}, stage2={"any_severe_weight": 0.5})
    return trained(tmp_path_factory.mktemp("run"), recipe)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Whatever would be trained from now on is noted here, and raises its name."""
    return jobs_instead_of_training(monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("no_training")
def test_only_members_whose_settings_changed_are_trained_again_and_until_then_nothing_is_made_of_the_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shutil.copytree(world / "run", tmp_path / "run"))
    with pytest.raises(TrainsError, match="whole 0"):
        train(world, "--out", run, "--set", "stage2.members.whole.roi_mm=60.0")
    assert RunFolder(tmp_path / "run").untrained() == []  # older results that say nothing of the region
    for words in (["evaluate", "--run", run], ["bundle", "--run", run, "--out", str(tmp_path / "bundle")]):
        assert train_utils.main(words) == 1
        assert "training by its present recipe and data has not ended; run" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    assert train(world, "--out", run) == 0
    assert train_utils.main(["evaluate", "--run", run]) == 0


@pytest.mark.slow
def test_weights_of_other_settings_are_never_taken_for_the_result(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with another rate is stopped behind its first epoch: its weights lie beside the older run's result."""
    shutil.copytree(world / "run", tmp_path / "run")
    end = loop.fit

    def stopped(job: Job, *rest: object) -> None:
        end(job, *rest)  # type: ignore[arg-type]
        raise TrainsError(f"{job.member} {job.fold}")

    monkeypatch.setattr(loop, "fit", stopped)
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(TrainsError, match="whole 0"):
        train(world, *out, "--set", "stage2.members.whole.learning_rate=0.002")
    folder = RunFolder(tmp_path / "run")
    assert (folder.member("whole", 0) / "result.json").is_file()
    assert folder.untrained() == ["whole fold 0"]
    with pytest.raises(TrainsError, match="whole 0"):
        train(world, *out)


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
    assert train(world, "--out", str(tmp_path / "run")) == 0
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


#: What each process runs: the command that stops at once, and the same again without a time.
TWICE = """
import sys
import train_utils

sys.exit(train_utils.main([*sys.argv[1:], "--hours", "0.0001"]) or train_utils.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_the_system_as_one_does(tmp_path: Path) -> None:
    """Losses and figures agree to 1e-3 (2e-5 seen): batch norms, noise and draws are those of the whole batch.

    Dropout is off: it is drawn for a place in a process's share, so that two processes drop other things than one.
    """
    small_phantoms(tmp_path / "data", 8, 3)
    recipe = tmp_path / "tiny.toml"
    network = {"decoder_channels": 8, "decoder_aspp_dropout": 0.0}
    graders = {"whole": GRADERS["whole"] | {"any_severe_weight": 0.5}}
    recipe.write_text(tiny_recipe({"t2": DETECTORS["t2"]}, graders, stage1={"network_args": network}))
    words = ["train", "--recipe", str(recipe), "--data", str(tmp_path / "data"), "--set", "folds.train=[0]"]
    noise = ("stage1.augment.noise=0.3", "stage2.augment.noise=0.3")
    for setting in (*noise, "stage2.keypoints=labels", "stage2.batch_size=10"):  # a study to each
        words += ["--set", setting]
    (tmp_path / "twice.py").write_text(TWICE, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    home = str(Path(train_utils.__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": home}
    command = [*launch, str(tmp_path / "twice.py"), *words, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("stopped before") == 1  # both stop together, and go on
    assert train_utils.main([*words, "--out", str(tmp_path / "one")]) == 0
    one, two = (_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == 2
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
    assert train(world, "--recipe", str(tmp_path / "two.toml"), "--out", str(tmp_path / "run"), *more) == 0
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
        assert train(world) == 0  # another time, the same image
        path.write_bytes(whole[:-100] + bytes(100))  # the last pixels
        with pytest.raises(TrainsError, match="t2 0"):
            train(world)
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert train(world) == 0  # as it was: read again, and found to be what the networks were trained on
