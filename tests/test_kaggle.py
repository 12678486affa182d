"""Inputs are found in both of Kaggle's mount layouts, a device is only trusted after a kernel ran, wheels install."""

import base64
import hashlib
import importlib.util
import json
import re
import zipfile
from pathlib import Path

import pytest

from lumbar.issues import InputError
from lumbar.kaggle import inputs
from lumbar.kaggle.inputs import find_inputs, install_missing_wheels, is_competition_rerun
from tests.support.tiny_dicom import write_stack


def make_data(folder: Path, split: str = "test", text: str = "study_id,series_id,series_description\n") -> Path:
    (folder / f"{split}_images" / "1" / "2").mkdir(parents=True)
    (folder / f"{split}_series_descriptions.csv").write_text(text)
    return folder


def make_bundle(folder: Path, name: str = "a") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"description": name, "members": [], "prior": []}))
    return folder


def look(tmp_path: Path, **environment: str) -> inputs.Inputs:
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    return find_inputs(kaggle=tmp_path / "kaggle", here=here, environment=environment, say=lambda line: None)


@pytest.mark.parametrize(
    ("data_place", "bundle_place"),
    [
        (inputs.COMPETITION, "my-weights"),
        (f"competitions/{inputs.COMPETITION}", "datasets/someone/my-weights"),
        (f"competitions/{inputs.COMPETITION}", "datasets/someone/my-weights/bundles/first"),
        (f"competitions/{inputs.COMPETITION}", "models/someone/lumbar/pytorch/default/1/bundle"),
        ("datasets/someone/other-studies", "notebooks/someone/training/run"),
    ],
)
def test_both_mount_layouts_are_found_by_their_marker_files(tmp_path: Path, data_place: str, bundle_place: str) -> None:
    mounted = tmp_path / "kaggle" / "input"
    data, bundle = make_data(mounted / data_place), make_bundle(mounted / bundle_place)
    (tmp_path / "kaggle" / "working").mkdir()
    found = look(tmp_path)
    assert (found.data, found.weights, found.out) == (data, bundle, tmp_path / "kaggle" / "working")


def test_what_was_found_is_said_in_one_line(tmp_path: Path) -> None:
    mounted = tmp_path / "kaggle" / "input"
    data, bundle = make_data(mounted / "data"), make_bundle(mounted / "weights")
    lines: list[str] = []
    find_inputs(kaggle=tmp_path / "kaggle", here=tmp_path, environment={}, say=lines.append)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert str(data) in lines[0]
    assert str(bundle) in lines[0]


def test_a_checkout_on_a_laptop_is_enough(tmp_path: Path) -> None:
    data = make_data(tmp_path / "here" / "sample_data", "train")
    bundle = make_bundle(tmp_path / "here" / "weights")
    found = look(tmp_path)
    assert (found.data, found.weights, found.out) == (data, bundle, tmp_path / "here")


def test_attached_studies_go_before_sample_data_in_the_current_folder(tmp_path: Path) -> None:
    make_data(tmp_path / "here" / "sample_data", "train")
    make_bundle(tmp_path / "here" / "weights", "shipped")
    data = make_data(tmp_path / "kaggle" / "input" / "competitions" / inputs.COMPETITION)
    bundle = make_bundle(tmp_path / "kaggle" / "input" / "datasets" / "someone" / "weights", "own")
    found = look(tmp_path)
    assert (found.data, found.weights) == (data, bundle)


def test_the_competition_goes_before_other_attached_studies(tmp_path: Path) -> None:
    mounted = tmp_path / "kaggle" / "input"
    make_bundle(mounted / "weights")
    make_data(mounted / "aaa-other", text="another table\n")
    make_data(mounted / "bbb-labelled", "train")
    data = make_data(mounted / "competitions" / inputs.COMPETITION)
    assert look(tmp_path).data == data


def test_environment_variables_go_before_everything(tmp_path: Path) -> None:
    make_data(tmp_path / "kaggle" / "input" / inputs.COMPETITION)
    make_bundle(tmp_path / "kaggle" / "input" / "weights")
    data, bundle = make_data(tmp_path / "d", "train"), make_bundle(tmp_path / "w")
    found = look(tmp_path, LUMBAR_DATA=str(data), LUMBAR_WEIGHTS=str(bundle), LUMBAR_OUT=str(tmp_path / "o"))
    assert (found.data, found.weights, found.out) == (data, bundle, tmp_path / "o")


def test_the_variable_of_studies_may_name_any_folder_or_zip_of_images(tmp_path: Path) -> None:
    make_data(tmp_path / "here" / "sample_data")
    make_bundle(tmp_path / "here" / "weights")
    write_stack(tmp_path / "tree" / "a" / "b", [0.0, 4.0])
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as packed:
        packed.write(tmp_path / "tree" / "a" / "b" / "1.dcm", "1")
    for place in (tmp_path / "tree", tmp_path / "tree.zip"):
        assert look(tmp_path, LUMBAR_DATA=str(place)).data == place


@pytest.mark.parametrize("variable", ["LUMBAR_DATA", "LUMBAR_WEIGHTS"])
def test_a_variable_that_points_to_the_wrong_folder_is_refused_by_name(tmp_path: Path, variable: str) -> None:
    make_data(tmp_path / "here" / "sample_data")
    make_bundle(tmp_path / "here" / "weights")
    with pytest.raises(InputError, match=rf"{variable}=.*there is no "):
        look(tmp_path, **{variable: str(tmp_path)})


@pytest.mark.parametrize(
    ("has_data", "has_bundle", "wanted", "unwanted"),
    [
        (False, True, "found no studies", "weights bundle"),
        (True, False, "found no weights bundle", "studies in"),
        (False, False, "studies.* and no .*weights bundle", "nothing"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence_that_names_the_remedy(
    tmp_path: Path, has_data: bool, has_bundle: bool, wanted: str, unwanted: str
) -> None:
    if has_data:
        make_data(tmp_path / "kaggle" / "input" / "data")
    if has_bundle:
        make_bundle(tmp_path / "kaggle" / "input" / "weights")
    with pytest.raises(InputError) as caught:
        look(tmp_path)
    sentence = str(caught.value)
    assert re.search(wanted, sentence)
    assert "Add Input" in sentence
    assert unwanted not in sentence
    assert "\n" not in sentence


def test_two_different_bundles_are_never_chosen_from_in_silence(tmp_path: Path) -> None:
    mounted = tmp_path / "kaggle" / "input"
    make_data(mounted / "data")
    one, two = make_bundle(mounted / "one", "a"), make_bundle(mounted / "datasets" / "me" / "two", "b")
    with pytest.raises(InputError, match="LUMBAR_WEIGHTS") as caught:
        look(tmp_path)
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)


def test_a_folder_that_is_mounted_twice_is_one_folder(tmp_path: Path) -> None:
    mounted = tmp_path / "kaggle" / "input"
    make_data(mounted / inputs.COMPETITION)
    make_data(mounted / "competitions" / inputs.COMPETITION)
    make_bundle(mounted / "weights")
    make_bundle(mounted / "datasets" / "me" / "weights")
    found = look(tmp_path)
    assert found.data.name == inputs.COMPETITION
    assert found.weights.name == "weights"


def test_weights_that_ship_with_attached_code_step_back_behind_own_weights(tmp_path: Path) -> None:
    mounted = tmp_path / "kaggle" / "input"
    make_data(mounted / inputs.COMPETITION)
    checkout = mounted / "a-checkout"
    (checkout / "lumbar").mkdir(parents=True)
    (checkout / "lumbar" / "labels.py").touch()
    shipped = make_bundle(checkout / "weights", "shipped")
    assert look(tmp_path).weights == shipped
    own = make_bundle(mounted / "own", "own")
    assert look(tmp_path).weights == own


def test_another_datasets_manifest_is_no_bundle(tmp_path: Path) -> None:
    mounted = tmp_path / "kaggle" / "input"
    make_data(mounted / "data")
    for name, text in (("app", '{"name": "an app"}'), ("list", "[1, 2]"), ("broken", "{"), ("binary", "\x00\x01")):
        (mounted / name).mkdir()
        (mounted / name / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="weights bundle"):
        look(tmp_path)


def test_image_folders_are_not_searched(tmp_path: Path) -> None:
    data = make_data(tmp_path / "kaggle" / "input" / inputs.COMPETITION)
    make_bundle(data / "test_images" / "1" / "2")
    with pytest.raises(InputError, match="weights bundle"):
        look(tmp_path)


def test_only_the_hidden_rerun_goes_on_with_the_prior() -> None:
    assert is_competition_rerun({"KAGGLE_IS_COMPETITION_RERUN": "1"})
    for environment in ({}, {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, {"KAGGLE_IS_COMPETITION_RERUN": ""}):
        assert not is_competition_rerun(environment)


PROBE = "lumbar-probe"


def make_wheel(folder: Path) -> Path:
    """A wheel with one module, made by hand."""
    folder.mkdir(parents=True)
    stem = "lumbar_probe-1.0"
    files = {
        "lumbar_probe.py": "VALUE = 7\n",
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {PROBE}\nVersion: 1.0\nRequires-Dist: not-there\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}"
        for name, text in files.items()
    ]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, record: "\n".join([*lines, f"{record},,"]) + "\n"}.items():
            archive.writestr(name, text)
    return path


def test_nothing_is_installed_outside_kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inputs.subprocess, "run", lambda *args, **options: pytest.fail("pip was started"))
    assert install_missing_wheels(kaggle=tmp_path / "kaggle", wanted=(PROBE,)) == []


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_wheel(tmp_path / "kaggle" / "input" / "w" / "wheels")
    monkeypatch.setattr(inputs.subprocess, "run", lambda *args, **options: pytest.fail("pip was started"))
    assert install_missing_wheels(kaggle=tmp_path / "kaggle", wanted=("numpy",)) == []


def test_a_missing_package_without_wheels_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    lines: list[str] = []
    assert install_missing_wheels(kaggle=tmp_path / "kaggle", say=lines.append, wanted=(PROBE,)) == []
    assert len(lines) == 1
    assert PROBE in lines[0]
    assert "weights dataset" in lines[0]


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")
@pytest.mark.parametrize("place", ["weights", "datasets/someone/weights"])
def test_wheels_install_from_the_attached_dataset_without_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    make_wheel(tmp_path / "kaggle" / "input" / place / "wheels")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    lines: list[str] = []
    assert install_missing_wheels(
        kaggle=tmp_path / "kaggle", say=lines.append, wanted=(PROBE, "lumbar-no-such-wheel")
    ) == [PROBE]
    assert (tmp_path / "site" / "lumbar_probe.py").read_text() == "VALUE = 7\n"
    assert len(lines) == 1
    assert "lumbar-no-such-wheel" in lines[0]
