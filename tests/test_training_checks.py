"""Bad training data: every fault in one sentence each, all at once, before anything is trained."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import train_utils
from lumbar.compute.accelerator import make_accelerator
from lumbar.issues import InputError
from lumbar.recipe.recipe import load_recipe
from lumbar.training.checks import disk
from lumbar.training.checks.recipe import weights_bytes
from lumbar.training.checks.samples import check_samples
from lumbar.training.checks.tables import find_faults, open_checked
from lumbar.training.data.make import make_stacks, stack_folder
from lumbar.training.data.packs import Packs
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.folder import RunFolder
from lumbar.training.run import prepare
from lumbar.training.setup import set_up
from tests.support.worlds import small_phantoms

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "demo.toml"
SERIES, LABELS, POINTS = "train_series_descriptions.csv", "train.csv", "train_label_coordinates.csv"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder without faults."""
    return small_phantoms(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def _edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    changed = change(table)
    (table if changed is None else changed).to_csv(path, index=False)


def test_sound_data_has_no_fault(sound: Path) -> None:
    assert find_faults(sound) == []
    assert len(open_checked(sound, load_recipe(RECIPE)).study_ids) == 2


def _set(row: int, column: str, value: str) -> Callable[[pd.DataFrame], None]:
    def change(table: pd.DataFrame) -> None:
        table.loc[row, column] = value

    return change


def _twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[[0]]])


FAULTS = {
    "a label word": (LABELS, _set(1, "left_subarticular_stenosis_l4_l5", "Mild"), "'Mild'"),
    "a study twice": (LABELS, _twice, "train.csv: a study is listed twice"),
    "a column": (
        LABELS,
        lambda t: t.rename(columns={"spinal_canal_stenosis_l1_l2": "spinal_canal_stenosis_l1l2"}),
        "rename it",
    ),
    "no labels": (LABELS, lambda t: t.assign(**dict.fromkeys(t.columns[1:], "")), "no label at all"),
    "a study id": (LABELS, _set(0, "study_id", "abc"), "no whole number"),
    "a description": (SERIES, _set(0, "series_description", "Sagital T1"), "is none of"),
    "a series twice": (SERIES, _twice, "a series is listed twice"),
    "a series not on disk": (SERIES, _set(1, "series_id", "77"), "no .dcm file"),
    "a condition": (POINTS, _set(0, "condition", "Spinal Stenosis"), "condition is unknown"),
    "a level": (POINTS, _set(0, "level", "L6/S1"), "level is unknown"),
    "a keypoint twice": (POINTS, _twice, "a keypoint is listed twice"),
    "a keypoint outside": (POINTS, _set(3, "x", "4000"), "outside its image"),
    "a keypoint left of zero": (POINTS, _set(3, "y", "-7"), "outside its image"),
    "a keypoint's number": (POINTS, _set(3, "y", "many"), "is no number"),
    "a keypoint's slice": (POINTS, _set(2, "instance_number", "987"), "lies on a slice without a file"),
    "a keypoint's series": (POINTS, _set(2, "series_id", "123"), "is not in train_series_descriptions.csv"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_file_and_line(data: Path, name: str) -> None:
    table, change, words = FAULTS[name]
    _edit(data / table, change)
    faults = find_faults(data)
    assert any(words in fault for fault in faults), faults
    assert all(table in fault for fault in faults if words in fault)


@pytest.mark.parametrize("table", [SERIES, LABELS, POINTS])
def test_a_missing_table_is_named(data: Path, table: str) -> None:
    (data / table).unlink()
    assert any(table in fault and "missing" in fault for fault in find_faults(data))


def test_missing_images_are_named(data: Path) -> None:
    shutil.rmtree(data / "train_images")
    assert any(fault.startswith("train_images is missing") for fault in find_faults(data))


def test_all_faults_are_told_at_once_and_nothing_is_trained(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a label word", "a series twice", "a keypoint outside", "a level"):
        table, change, _ = FAULTS[name]
        _edit(data / table, change)
    words = ["train", "--recipe", RECIPE, "--data", data, "--out", tmp_path / "run"]
    assert train_utils.main([*map(str, words)]) == 1
    said = capsys.readouterr().err
    assert "4 fault(s)" in said
    assert all(FAULTS[name][2] in said for name in ("a label word", "a series twice", "a keypoint outside", "a level"))
    assert not (tmp_path / "run" / "cache").exists()


def test_empty_labels_and_missing_keypoints_are_no_faults(data: Path) -> None:
    _edit(data / LABELS, _set(0, "spinal_canal_stenosis_l1_l2", ""))
    _edit(data / POINTS, lambda table: table.iloc[5:])
    assert find_faults(data) == []


def test_faults_of_the_recipes_networks_and_sources_are_told_with_those_of_the_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 2's, too: nothing waits until stage 1 is trained."""
    _edit(data / SERIES, _set(0, "series_description", "Sagital T1"))
    (data / "train_sources.csv").write_text("study_id,source\n1,scanner\n", encoding="utf-8")
    weights = tmp_path / "none.safetensors"
    words = ["train", "--recipe", RECIPE, "--data", data, "--out", tmp_path / "run"]
    for setting in (
        "stage1.members.axial_t2.encoder=tu-resnet19",
        "stage2.members.small.backbone=resnet17",
        f"stage2.members.global_small.pretrained={weights}",
        "stage2.members.small.draws={magnet=3}",
    ):
        words += ["--set", setting]
    assert train_utils.main([*map(str, words)]) == 1
    said = capsys.readouterr().err
    assert "5 fault(s)" in said
    assert "Sagital T1" in said
    assert "axial_t2: " in said
    assert "resnet19" in said
    assert "resnet17" in said  # once, though three members have it
    assert f"{weights}: no such file with pretrained weights" in said
    assert "draws from 'magnet', but train_sources.csv names scanner" in said
    assert not (tmp_path / "run").exists()


def test_graders_that_would_have_no_study_are_told_at_once(sound: Path) -> None:
    alone = ["folds.count=2", "folds.train=[0]", "stage2.keypoints=out_of_fold"]
    with pytest.raises(InputError, match=r"folds\.train names one fold only.*stage2\.keypoints"):
        open_checked(sound, load_recipe(RECIPE, alone))
    assert open_checked(sound, load_recipe(RECIPE, [*alone[:2], "stage2.keypoints=labels"]))


def test_a_full_disk_is_told_before_anything_is_read(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, recipe = open_checked(sound, load_recipe(RECIPE)), load_recipe(RECIPE)
    run = RunFolder(tmp_path / "run")
    needed = disk.needed_bytes(data, data.study_ids, recipe, run)
    assert needed[run.cache] > 2 * recipe.stage1.members["sagittal_t2"].spec.image_size ** 2
    disk.check_space(needed)
    enough = sum(needed.values()) + disk.SPARE_BYTES
    for free, sentence in ((enough, None), (enough - 1, "free some, or give --out or --cache on another disk")):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(10, 9, free))
        with pytest.raises(InputError, match=sentence) if sentence else nullcontext():
            disk.check_space(needed)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    words = ["train", "--recipe", RECIPE, "--data", sound, "--out", tmp_path / "run", "--set", "folds.count=2"]
    words += ["--set", 'loop.mixed_precision="no"']  # the same for every run of a process
    assert train_utils.main([*map(str, words), "--set", "folds.train=[0]"]) == 1
    assert "no severity has 2 studies to spread over as many folds; add studies" in capsys.readouterr().err
    words += ["--set", 'folds.method="kfold"']
    assert train_utils.main([*map(str, words), "--set", "folds.train=[0]"]) == 1
    assert "free some, or give --out or --cache on another disk" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "run").rglob("*.safetensors") if path.is_file()]


def test_a_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        open_checked(tmp_path / "none", load_recipe(RECIPE))


def _words(data: Path, out: Path, *more: str) -> list[str]:
    """A run of the demo recipe that would train two folds of it."""
    kept = ('folds.method="kfold"', "folds.count=2", "folds.train=[0, 1]", 'loop.mixed_precision="no"', *more)
    words = ["train", "--recipe", str(RECIPE), "--data", str(data), "--out", str(out)]
    return [*words, *(word for setting in kept for word in ("--set", setting))]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_read(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert train_utils.main(_words(sound, tmp_path / "file" / "run")) == 1
    assert "cannot be written to" in capsys.readouterr().err


def test_members_without_samples_are_told_together_before_anything_is_trained(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit(data / POINTS, lambda t: t[t["condition"] == "Spinal Canal Stenosis"])
    _edit(data / LABELS, lambda t: t.assign(**{name: "" for name in t.columns if "subarticular" in name}))
    assert train_utils.main(_words(data, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    for name in ("sagittal_t1", "axial_t2", "subarticular_small"):
        for fold in (0, 1):
            assert f"{name} fold {fold}: no labelled sample to train on; add studies" in said
    assert "sagittal_t2 fold" not in said
    assert "foraminal_small fold" not in said
    assert not list((tmp_path / "run").rglob("best.safetensors"))


def test_batches_too_small_for_the_processes_are_told_for_every_member(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ['folds.method="kfold"', "folds.count=2", "folds.train=[0, 1]", 'loop.mixed_precision="no"']
    recipe = load_recipe(RECIPE, settings)
    setup = set_up(tmp_path, recipe, open_checked(sound, recipe), make_accelerator(recipe.loop))
    prepare(setup)
    for name, member in recipe.stage1.members.items():
        make_stacks(setup, name, member.spec)
    check_samples(setup)
    many = replace(setup, accelerator=SimpleNamespace(num_processes=40))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"sagittal_t2: a batch of .*40 processes.* as those above"):
        check_samples(many)
    assert "global_small: a batch of" in capsys.readouterr().err


def test_a_labelled_slice_that_cannot_be_read_is_told_and_its_stack_is_not_taught_to_be_empty(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = pd.read_csv(data / POINTS)
    row = points[points["condition"] == "Spinal Canal Stenosis"].iloc[0]
    study, series, instance = int(row["study_id"]), int(row["series_id"]), int(row["instance_number"])
    path = data / "train_images" / str(study) / str(series) / f"{instance}.dcm"
    path.write_bytes(path.read_bytes()[:900])
    _edit(data / LABELS, lambda t: pd.concat([t, t.iloc[[0]].assign(study_id="31")]))
    settings = ['folds.method="kfold"', "folds.count=2", "folds.train=[0, 1]", 'loop.mixed_precision="no"']
    recipe = load_recipe(RECIPE, settings)
    setup = set_up(tmp_path / "run", recipe, open_checked(data, recipe), make_accelerator(recipe.loop))
    prepare(setup)
    told = json.loads((tmp_path / "run" / "issues.json").read_text())["issues"]
    codes = {(issue["study"], issue["code"]) for issue in told}
    assert {(study, "file_unreadable"), (study, "keypoint_lost"), (31, "label_unused")} <= codes
    said = capsys.readouterr().err
    assert "keypoint_lost" in said
    assert str(tmp_path / "run" / "issues.json") in said
    member = recipe.stage1.members["sagittal_t2"]
    make_stacks(setup, "sagittal_t2", member.spec)
    folder = stack_folder(setup, "sagittal_t2")
    samples = StackSamples(folder, setup.study_ids, member.spec, member.training)
    assert study not in samples.studies
    assert len(samples.studies)


def test_a_disk_must_hold_weights_and_checkpoints_too(sound: Path, tmp_path: Path) -> None:
    data = open_checked(sound, load_recipe(RECIPE))
    recipes = [load_recipe(RECIPE, [f"folds.train={folds}"]) for folds in ("[0]", "[0, 1, 2]")]
    run = RunFolder(tmp_path, tmp_path / "cache")
    one, three = (disk.needed_bytes(data, data.study_ids, recipe, run)[run.root] for recipe in recipes)
    weights = sum(weights_bytes(member) for member in recipes[0].members().values())
    assert three - one == 2 * weights > 2 * 4 * 1e6
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "best.safetensors").write_bytes(bytes(weights))
    assert disk.needed_bytes(data, data.study_ids, recipes[0], run)[run.root] == one - weights


def test_a_machine_that_does_not_see_the_first_ones_packs_says_so(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --out and --cache on a disk that all machines share"):
        Packs(tmp_path, open_checked(sound, load_recipe(RECIPE)), tmp_path / "studies.json").know([7])


def test_pictures_of_a_member_that_has_no_sample_are_refused_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit(data / POINTS, lambda t: t[t["condition"] == "Spinal Canal Stenosis"])
    words = _words(data, tmp_path / "shown")
    assert train_utils.main(["show-batches", *words[1:]]) == 1
    assert "none of the first 12 studies has a labelled sample for sagittal_t1" in capsys.readouterr().err
