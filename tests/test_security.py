"""What a hostile bundle or study cannot do, what a run does not tell, and that equal input gives equal bytes."""

import ast
import json
import logging
import re
import shutil
import socket
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

import train_utils
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.manifest import MANIFEST
from lumbar.dicom.series import MAX_STUDY_BYTES, read_series
from lumbar.issues import InputError
from lumbar.prediction import schedule
from lumbar.study.study import DataFolder, open_data
from lumbar.submission import rounded, to_rows
from tests.conftest import ROOT
from tests.support.tiny_dicom import image, merge_into_enhanced, write_slice, write_stack
from tests.support.worlds import small_phantoms, tiny_bundle

pytestmark = pytest.mark.usefixtures("networks_kept")

SOURCES = [*sorted((ROOT / "lumbar").rglob("*.py")), ROOT / "train_utils.py"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", 3))


@pytest.fixture(scope="module")
def written(data: DataFolder, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run from the command line."""
    return run(data.root, bundle, tmp_path_factory.mktemp("out"))


def run(root: Path, bundle: Bundle, out: Path, *more: str) -> Path:
    chosen = ["--data", str(root), "--weights", str(bundle.folder), "--out", str(out), "--device", "cpu"]
    assert train_utils.main(["predict", *chosen, *more]) == 0
    return out


def first_study_of(data: DataFolder, folder: Path) -> Path:
    """A copy of the data folder whose table names one study."""
    shutil.copytree(data.root, folder)
    table = pd.read_csv(folder / "train_series_descriptions.csv")
    table[table["study_id"] == data.study_ids[0]].to_csv(folder / "train_series_descriptions.csv", index=False)
    return folder


# -- code and files ---------------------------------------------------------------------------------------------------


def test_nothing_runs_code_from_a_file() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {"marshal", "shelve", "dill", "joblib"} & names, path
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                assert node.attr.endswith("Error"), path  # what torch.load raises is named, nothing is unpickled
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__", "os.system"), path
                if called == "torch.load":
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("weights_only") == "True", path
                if called.startswith("subprocess."):
                    assert not any(word.arg == "shell" for word in node.keywords), path


def test_every_requirement_is_pinned() -> None:
    lines = [
        line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).read_text().splitlines()
    ]
    wanted = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert len(wanted) > 20
    assert [line for line in wanted if not re.match(r"[A-Za-z0-9._-]+(\[\w+\])?==[0-9]", line) and line[0] != "-"] == []


@pytest.mark.parametrize("place", ["/etc/passwd.safetensors", "../outside.safetensors", "a/../../outside.safetensors"])
def test_a_manifest_cannot_name_a_file_outside_of_its_folder(bundle: Bundle, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["members"][0]["file"] = place
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="points outside the bundle"):
        load_bundle(folder)


def test_a_link_in_a_bundle_cannot_lead_outside(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    file = folder / bundle.manifest.members[0].file
    shutil.move(file, tmp_path / "outside.safetensors")
    file.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(InputError, match="points outside the bundle"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rnn_hidden", 50_000, "of another shape"),
        ("backbone", "resnet152", "do not fit the network"),
        ("rnn_layers", 10**6, r"rnn_layers is [\d.e+]+; allowed: \d+(\.0)? or less"),
        ("image_size", 10**7, r"image_size is [\d.e+]+; allowed: \d+(\.0)? or less"),
        ("slices", 10**7, r"slices is [\d.e+]+; allowed: \d+(\.0)? or less"),
        ("roi_mm", 1e9, r"roi_mm is [\d.e+]+; allowed: \d+(\.0)? or less"),
    ],
)
def test_a_manifest_cannot_ask_for_more_memory_than_its_files_hold(
    bundle: Bundle, tmp_path: Path, key: str, value: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    next(member for member in manifest["members"] if member["name"] == "spinal")["spec"][key] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setattr(Bundle, "fill", lambda *_: pytest.fail("the network was built"))
    with pytest.raises(InputError, match=words):
        load_bundle(folder).network("spinal")


# -- bombs ------------------------------------------------------------------------------------------------------------


def test_small_files_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), np.zeros(3), syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + b"".join(packer.compress(bytes(2**20)) for _ in range(257)) + packer.flush())
    assert path.stat().st_size < 2**19
    assert "inflates to more than 256 MB" in read_series(tmp_path, 7, "Sagittal T1", 1)[1][0].detail


@pytest.mark.parametrize("enhanced", [True, False])
def test_many_small_compressed_images_cannot_fill_the_memory(tmp_path: Path, enhanced: bool) -> None:
    """A study's pixels are counted before they are decoded; what is too much for it is left out whole."""
    write_stack(tmp_path, [0.0, 4.0, 8.0], shape=(64, 64), **({} if enhanced else {"syntax": RLELossless}))
    if enhanced:
        merge_into_enhanced(tmp_path, RLELossless)
    needed = 3 * 64 * 64 * 2
    assert read_series(tmp_path, 7, "Sagittal T1", 1, room=needed)[0] is not None
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1, room=needed - 1)
    assert series is None
    assert [issue.code for issue in issues] == ["series_ignored"]
    assert f"need more than {MAX_STUDY_BYTES >> 30} GB" in issues[0].detail


def test_a_frame_cannot_be_checked_in_one_place_and_decoded_in_another(tmp_path: Path) -> None:
    """A second table of offsets would let the decoder see a frame that was never checked."""
    path = write_slice(tmp_path / "1.dcm", image(1), np.zeros(3), syntax=RLELossless)
    dataset = dcmread(path)
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = bytes(8), (2**20).to_bytes(8, "little")
    dataset.save_as(path)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert issues == []
    assert series is not None
    assert np.array_equal(series.slices[0].pixels, image(1))


# -- network and patients ---------------------------------------------------------------------------------------------


def test_a_run_opens_no_connection(
    data: DataFolder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise AssertionError("a run reached for the network")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, cut)
    monkeypatch.setattr(socket, "getaddrinfo", cut)
    monkeypatch.setattr(socket, "create_connection", cut)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert (run(data.root, bundle, tmp_path) / "submission.csv").is_file()


def test_nothing_of_the_patient_but_the_given_ids_leaves_a_run(
    data: DataFolder,
    bundle: Bundle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    copy = first_study_of(data, tmp_path / "data")
    secrets = {"PatientName": "Zebrafinch^Quilla", "PatientID": "MRN8675309", "PatientBirthDate": "19470213",
               "InstitutionName": "Hospital of Xanadu", "AccessionNumber": "ACC424242"}  # fmt: skip
    for number, path in enumerate(sorted(copy.rglob("*.dcm"))):
        dataset = dcmread(path)
        for keyword, value in secrets.items():
            setattr(dataset, keyword, value)
        if number % 5 == 0:
            dataset.PixelSpacing = None  # faults are told, too
        dataset.save_as(path)
    caplog.set_level(logging.DEBUG)
    out = run(copy, bundle, tmp_path / "out", "--html")
    assert (out / "report.html").is_file()
    said = "".join(capfd.readouterr()) + caplog.text + "".join(path.read_text() for path in out.iterdir())
    assert "slice_dropped" in said
    for value in (*secrets.values(), "Zebrafinch", str(tmp_path / "data")):
        assert value not in said


# -- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_order_of_folders_and_files_changes_no_byte(
    data: DataFolder, bundle: Bundle, written: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    copy.mkdir()
    for path in sorted(data.root.rglob("*"), reverse=True):
        if path.is_file():
            target = copy / path.relative_to(data.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    out = run(copy, bundle, tmp_path / "out")
    for name in ("submission.csv", "keypoints.csv"):
        assert (out / name).read_bytes() == (written / name).read_bytes()


@pytest.mark.parametrize("alone", [False, True])
def test_the_number_of_threads_changes_no_byte(
    data: DataFolder, bundle: Bundle, written: Path, tmp_path: Path, alone: bool
) -> None:
    """A study of many is computed on one core; of a folder of one study all cores compute the same layer."""
    root, first = data.root, written
    if alone:
        root = first_study_of(data, tmp_path / "data")
        first = run(root, bundle, tmp_path / "first")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        out = run(root, bundle, tmp_path / "out")
    finally:
        torch.set_num_threads(threads)
    for name in ("submission.csv", "keypoints.csv"):
        assert (out / name).read_bytes() == (first / name).read_bytes()


def test_other_studies_beside_it_change_no_row_of_a_study(data: DataFolder, bundle: Bundle, written: Path) -> None:
    whole = pd.read_csv(written / "submission.csv", dtype=str)
    alone = next(iter(schedule.predict(data, bundle, study_ids=[data.study_ids[-1]])))
    rows = whole[whole["row_id"].str.startswith(f"{alone.study_id}_")].reset_index(drop=True)
    expected = rounded(to_rows([alone.study_id], alone.probabilities[None]))
    assert rows.to_csv() == expected.to_csv()
