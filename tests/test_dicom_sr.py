"""A structured report says what was found where, in standard codes, points at the right pixel, and tells no more."""

import dataclasses
import importlib.util
import shutil
import subprocess
import warnings
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes as standard

import train_utils
from lumbar.geometry import to_patient
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, KEYPOINT_SERIES, LEVELS, SEVERITIES, condition_title, level_title, side_of
from lumbar.phantom.dataset import write_phantoms
from lumbar.prediction.outputs import submission_table
from lumbar.prediction.result import StudyResult
from lumbar.recipe.evidence import Evidence, PatientTest, complete
from lumbar.report.dicom_sr import codes
from lumbar.report.dicom_sr import write as dicom_sr
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, open_data, read_study

hd = pytest.importorskip("highdicom", reason="structured reports need highdicom")
BUNDLE: Any = SimpleNamespace(identity="0123456789abcdef" * 4)
STUDY = 501
MADE = datetime(2026, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    size = {"matrices": (128,), "sagittal_slices": (5, 5), "axial_kind": "angled", "stack_slices": (3, 3)}
    write_phantoms(folder, 1, 5, first_id=STUDY, **size)
    return folder


def made_up(data: DataFolder, **changes: Any) -> StudyResult:
    """A result with a keypoint for each condition and level, each on some slice of the right kind of series."""
    (study_id,) = data.study_ids
    study = read_study(data, study_id)
    points = []
    for row, condition in enumerate(CONDITIONS):
        series = study.series[KEYPOINT_SERIES[condition]][0]
        for column, level in enumerate(LEVELS):
            item = series.slices[(3 * row + column) % len(series.slices)]
            xy = (20.25 + 3 * row, 30.75 + 4 * column)
            mm = tuple(float(value) for value in to_patient(item.affine, xy))
            points.append(Keypoint(condition, level, series.series_id, item.instance, xy, mm, 0.9, 9.0, 0.9))
    raw = np.arange(1.0, 76.0).reshape(5, 5, 3)
    result = StudyResult(
        study_id,
        raw / raw.sum(-1, keepdims=True),
        np.full((1, 5, 5, 3), np.nan),
        np.ones((5, 5), bool),
        np.ones((5, 5), bool),
        tuple(points),
        used={kind: [one.series_id for one in listed] for kind, listed in study.series.items()},
    )
    return dataclasses.replace(result, **changes)


def write(result: StudyResult, data: DataFolder, out: Path) -> Path:
    (path,), left_out = dicom_sr.write_reports([result], data, BUNDLE, out, MADE)
    assert left_out == []
    return path


@pytest.fixture(scope="module")
def reported(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Path]:
    """A made-up result of the phantom and its report."""
    data = open_data(phantom)
    result = made_up(data)
    result.probabilities[0, 0] = (1e-7, 0.1234564, 0.8765435)  # the submission keeps half a unit of what is nothing
    return result, write(result, data, tmp_path_factory.mktemp("reported"))


def check(path: Path) -> list[str]:
    """What dciodvfy calls an error; a private coding scheme is a warning, and so are flaws that the images have."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian's dicom3tools)")
    ended = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (ended.stdout + ended.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    return [line for line in lines if line.startswith("Error")]


def groups_of(path: Path) -> dict[str, Any]:
    """Measurement groups by their tracking identifier, as highdicom reads them back."""
    content = hd.sr.srread(path).content
    groups = [
        *content.get_planar_roi_measurement_groups(),
        *content.get_image_measurement_groups(),
    ]
    return {group.tracking_identifier: group for group in groups}


def named(code: Any) -> tuple[str, str]:
    return code.value, code.scheme_designator


@pytest.mark.parametrize(
    "changes", [["verified"], pytest.param(["noted", "renamed", "cut short"], marks=pytest.mark.slow)]
)
def test_a_report_replaces_a_report_and_none_that_somebody_changed(
    phantom: Path, reported: tuple[StudyResult, Path], tmp_path: Path, changes: list[str]
) -> None:
    data, (result, first) = open_data(phantom), reported
    shutil.copytree(first.parent, tmp_path / first.parent.name)
    path, whole = tmp_path / first.parent.name / first.name, first.read_bytes()
    assert write(result, data, tmp_path).read_bytes() == whole
    for change in changes:
        path.write_bytes(whole)
        report = dcmread(path)
        if change == "verified":
            report.VerificationFlag = "VERIFIED"
        elif change == "noted":
            report.ImageComments = "seen by a radiologist"
        else:
            report.PatientName = "Somebody"
        report.save_as(path)
        if change == "cut short":
            path.write_bytes(whole[:100])
        changed = path.read_bytes()
        with pytest.raises(InputError, match=r"\.dcm: is there already"):
            dicom_sr.check_out(tmp_path, data)
        with pytest.raises(InputError, match=r"\.dcm: is there already"):
            write(result, data, tmp_path)
        assert path.read_bytes() == changed


def test_the_report_says_level_side_condition_and_probabilities(reported: tuple[StudyResult, Path]) -> None:
    result, path = reported
    told = submission_table([result]).set_index("row_id")
    assert path.parts[-2:] == ("dicom_sr", f"{STUDY}.dcm")
    groups = groups_of(path)
    assert len(groups) == 25
    for condition in CONDITIONS:
        for level in LEVELS:
            group = groups[f"{condition_title(condition)} {level_title(level)}"]
            assert named(group.finding_type) == codes.CONDITION_CODES[condition][:2]
            (site,) = group.finding_sites
            assert named(site.value) == codes.LEVEL_CODES[level][:2]
            side = side_of(condition)
            assert (site.laterality is None) is (side is None)
            if side:
                assert site.laterality.meaning.lower() == side
            said = {named(one.name): float(one.value) for one in group.get_measurements()}
            for severity in SEVERITIES:  # as submission.csv has them, digit by digit
                there = told.loc[f"{STUDY}_{condition}_{level}", severity]
                assert said[codes.PROBABILITY_CODES[severity][:2]] == pytest.approx(there, abs=1e-12)
            graded = {named(one.name): named(one.value) for one in group.get_qualitative_evaluations()}
            assert graded[codes.SEVERITY[:2]] == codes.SEVERITY_CODES["severe"][:2]  # the last of rising numbers
            assert graded[codes.BASIS[:2]] == codes.OWN_VIEW[:2]


def test_a_severity_of_a_strange_region_says_so(phantom: Path, tmp_path: Path) -> None:
    data, strangeness = open_data(phantom), np.full((5, 5), 0.5)
    strangeness[1, 3] = 1.2
    report = dcmread(write(made_up(data, strangeness=strangeness), data, tmp_path))
    said = [str(element.value) for element in report.iterall() if element.keyword == "TextValue"]
    assert sum("do not trust this severity" in text for text in said) == 1


def texts_of(report: Dataset) -> list[str]:
    """Its comments."""
    named_so = [one for one in report.ContentSequence if named_of(one) == codes.COMMENT[:2]]
    return [str(item.TextValue) for item in named_so]


def named_of(item: Dataset) -> tuple[str, str]:
    code = item.ConceptNameCodeSequence[0]
    return code.CodeValue, code.CodingSchemeDesignator


def test_nobody_seems_to_have_signed_it_and_it_is_dated_when_it_was_made(
    phantom: Path, reported: tuple[StudyResult, Path], tmp_path: Path
) -> None:
    result, path = reported
    report = dcmread(path)
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("PARTIAL", "UNVERIFIED", "PRELIMINARY")
    assert "READ AND SIGNED BY NOBODY" in report.CompletionFlagDescription
    assert (report.ContentDate, report.ContentTime) == ("20260203", "040506")
    assert report.StudyDate == "20240101"
    assert texts_of(report)[0].startswith("MADE BY SOFTWARE, READ AND SIGNED BY NOBODY.")
    (path,), _ = dicom_sr.write_reports([result], open_data(phantom), BUNDLE, tmp_path / "now")
    assert dcmread(path).ContentDate == datetime.now().astimezone().strftime("%Y%m%d")


def test_what_backs_a_severity_stands_in_codes_and_in_words(phantom: Path, tmp_path: Path) -> None:
    data = open_data(phantom)
    test = PatientTest(patients=41, graded_by="two readers", figures={"kappa": 0.52})
    told = {"spinal_canal_stenosis": Evidence(learnt_from="phantoms", tested=(test,))}
    result = made_up(data, evidence=complete(told))
    for case, kinds in ((result, {codes.TESTED, codes.UNTESTED}), (made_up(data, phantom=True), {codes.PHANTOM})):
        path = write(case, data, tmp_path)
        groups = groups_of(path)
        backing = {
            name: next(
                named(one.value) for one in group.get_qualitative_evaluations() if named(one.name) == codes.EVIDENCE[:2]
            )
            for name, group in groups.items()
        }
        assert set(backing.values()) == {kind[:2] for kind in kinds}
        assert any(text.startswith("PHANTOM") for text in texts_of(dcmread(path))) is case.phantom
        if case is result:
            assert backing["Spinal Canal Stenosis L1/L2"] == codes.TESTED[:2]
            (words,) = texts_of(groups["Spinal Canal Stenosis L1/L2"][0])
            assert words == "learnt from phantoms alone, tested on 41 patients, graded by two readers: kappa 0.52"
        assert check(path) == []


def test_a_point_lies_on_its_slice_where_another_library_finds_the_same_millimetres(
    phantom: Path, reported: tuple[StudyResult, Path]
) -> None:
    data, (result, path) = open_data(phantom), reported
    images = {str(image.SOPInstanceUID): image for image in map(dcmread, data.image_folder.rglob("*.dcm"))}
    groups = groups_of(path)
    for point in result.keypoints:
        region = groups[f"{condition_title(point.condition)} {level_title(point.level)}"].roi
        (source,) = [item for item in region.ContentSequence if item.ValueType == "IMAGE"]
        image = images[source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
        to_mm = hd.spatial.ImageToReferenceTransformer.for_image(image)
        assert to_mm(np.asarray(region.value, float))[0] == pytest.approx(point.mm, abs=0.01)


def test_dciodvfy_finds_no_error(reported: tuple[StudyResult, Path]) -> None:
    assert check(reported[1]) == []


def test_dciodvfy_finds_no_error_on_the_real_study(cc0_study: Path, tmp_path: Path) -> None:
    data = open_data(cc0_study)
    path = write(made_up(data), data, tmp_path)
    report = dcmread(path)
    image = dcmread(next(data.image_folder.rglob("*.dcm")), stop_before_pixels=True)
    assert report.StudyInstanceUID == image.StudyInstanceUID
    assert (report.PatientID, report.PatientName) == (image.PatientID, image.PatientName)
    assert report.PatientIdentityRemoved == "YES"
    assert len(groups_of(path)) == 25
    assert check(path) == []


@pytest.mark.slow
def test_the_same_results_give_the_same_file_and_others_another_instance(phantom: Path, tmp_path: Path) -> None:
    data = open_data(phantom)
    result = made_up(data)
    first, again = write(result, data, tmp_path / "a"), write(result, data, tmp_path / "b")
    assert first.read_bytes() == again.read_bytes()
    other = dcmread(write(made_up(data, probabilities=np.full((5, 5, 3), 1 / 3)), data, tmp_path / "c"))
    assert other.SeriesInstanceUID == dcmread(first).SeriesInstanceUID
    assert other.SOPInstanceUID != dcmread(first).SOPInstanceUID
    later = SimpleNamespace(identity="f" * 64)
    (path,), _ = dicom_sr.write_reports([result], data, later, tmp_path / "d", MADE)
    assert dcmread(path).SeriesInstanceUID != dcmread(first).SeriesInstanceUID


def rewritten(phantom: Path, copy: Path, change: Any) -> DataFolder:
    """The folder again, with every file's header changed."""
    shutil.copytree(phantom, copy)
    for path in copy.rglob("*.dcm"):
        image = dcmread(path)
        change(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save_as(path)
    return open_data(copy)


def test_nothing_of_the_patient_but_what_a_report_needs_is_kept_and_nothing_is_logged(
    phantom: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def name(image: Dataset) -> None:
        image.PatientName, image.PatientID, image.StudyDate = "SECRETNAME", "SECRETID", "20240230"
        image.PatientAge, image.PatientAddress, image.InstitutionName = "042Y", "SECRETSTREET", "SECRETPLACE"
        image.PatientSex = "SECRET SEX"

    data = rewritten(phantom, tmp_path / "data", name)
    result = made_up(data)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        path = write(result, data, tmp_path)
    report = dcmread(path)
    assert (report.PatientName, report.PatientID) == ("SECRETNAME", "SECRETID")
    assert report.StudyDate == report.PatientSex == ""  # no such day, no such sex
    assert "PatientAge" not in report
    assert b"SECRETSTREET" not in path.read_bytes()
    assert b"SECRETPLACE" not in path.read_bytes()
    said = "".join(capfd.readouterr()) + caplog.text + "".join(str(remark.message) for remark in remarks)
    assert "SECRET" not in said


def test_the_image_is_found_by_position_where_file_names_mislead(
    phantom: Path, reported: tuple[StudyResult, Path], tmp_path: Path
) -> None:
    result, plain = reported
    shutil.copytree(phantom, tmp_path / "data")
    for series in (tmp_path / "data" / "train_images" / str(STUDY)).iterdir():
        paths = sorted(series.glob("*.dcm"))
        for path in paths:
            path.rename(path.with_suffix(".old"))
        for path, following in zip(paths, [*paths[1:], paths[0]], strict=True):
            path.with_suffix(".old").rename(following)
    path = write(result, open_data(tmp_path / "data"), tmp_path / "moved")
    assert path.read_bytes() == plain.read_bytes()


def test_prior_other_views_and_points_off_the_image_are_told_apart(phantom: Path, tmp_path: Path) -> None:
    data = open_data(phantom)
    whole = made_up(data)
    graded, seen = np.ones((5, 5), bool), np.ones((5, 5), bool)
    graded[0, 0] = seen[0, 0] = seen[0, 1] = False
    series = read_study(data, STUDY).series["sagittal_t2"][0]
    affine = next(item.affine for item in series.slices if item.instance == whole.keypoints[2].instance)
    mm = tuple(float(value) for value in to_patient(affine, (-7.0, 3.0)))
    outside = dataclasses.replace(whole.keypoints[2], xy_px=(-7.0, 3.0), mm=mm)
    points = (whole.keypoints[1], outside, *whole.keypoints[3:])
    path = write(made_up(data, graded=graded, seen=seen, keypoints=points), data, tmp_path)
    groups = groups_of(path)
    assert len(groups) == 25
    basis = {
        level: next(
            named(one.value)
            for one in groups[f"Spinal Canal Stenosis {level_title(level)}"].get_qualitative_evaluations()
            if named(one.name) == codes.BASIS[:2]
        )
        for level in LEVELS
    }
    assert [basis[level] for level in LEVELS[:3]] == [
        codes.PRIOR[:2],
        codes.OTHER_VIEWS[:2],
        codes.OWN_VIEW[:2],
    ]
    assert hasattr(groups["Spinal Canal Stenosis L2/L3"], "roi")
    assert not hasattr(groups["Spinal Canal Stenosis L3/L4"], "roi")  # an image without a point
    assert len(groups["Spinal Canal Stenosis L3/L4"].source_images) == 1
    assert check(path) == []


def test_a_study_without_identity_or_without_images_has_no_report_and_a_sentence(phantom: Path, tmp_path: Path) -> None:
    def forget(image: Dataset) -> None:
        del image.StudyInstanceUID

    data = rewritten(phantom, tmp_path / "data", forget)
    written, (sentence,) = dicom_sr.write_reports([made_up(data)], data, BUNDLE, tmp_path)
    assert written == []
    assert "study 501 has no structured report" in sentence
    assert "StudyInstanceUID" in sentence
    written, (sentence,) = dicom_sr.write_reports([made_up(data, keypoints=(), used={})], data, BUNDLE, tmp_path)
    assert written == []
    assert "none of its images" in sentence
    assert not (tmp_path / "dicom_sr").exists()


def test_standard_codes_are_those_of_the_standard() -> None:
    discs = [f"LevelOf{level.replace('_', '').upper()}IntervertebralDisc" for level in LEVELS]
    expected = [getattr(standard.SCT, name) for name in [*discs, "Left", "Right", "Moderate", "Severe", "Severity"]]
    expected += [standard.UCUM.NoUnits]
    ours = [*codes.LEVEL_CODES.values(), codes.SIDE_CODES["left"], codes.SIDE_CODES["right"]]
    ours += [codes.SEVERITY_CODES["moderate"], codes.SEVERITY_CODES["severe"], codes.SEVERITY]
    ours += [codes.NO_UNITS]
    assert [code[:2] for code in ours] == [named(code) for code in expected]
    assert codes.PROCEDURE == ("24968-0", "LN", "MR Lumbar spine"), "LOINC"


def test_without_highdicom_the_command_says_what_to_install_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "highdicom" else find_spec(name))
    folders = ["--data", str(tmp_path), "--weights", str(tmp_path), "--out", str(tmp_path / "out")]
    assert train_utils.main(["predict", *folders, "--dicom-sr"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install highdicom" in line


def test_the_command_leaves_a_report_beside_the_submission(
    phantom: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = made_up(open_data(phantom))
    monkeypatch.setattr("lumbar.prediction.schedule.predict", lambda *_, **__: [result])
    command = ["predict", "--data", str(phantom), "--weights", str(root / "weights"), "--out", str(tmp_path)]
    assert train_utils.main(command) == 0
    assert not (tmp_path / "dicom_sr").exists()
    assert train_utils.main([*command, "--dicom-sr"]) == 0
    (said,) = capsys.readouterr().err.splitlines()[1:]
    assert said.startswith("What the severities rest on: spinal: ")
    (path,) = (tmp_path / "dicom_sr").iterdir()
    report = dcmread(path)
    assert (path.name, report.SeriesDescription) == ("501.dcm", "Lumbar grades, research use only")
    result = dataclasses.replace(result, keypoints=(), used={})
    assert train_utils.main([*command, "--dicom-sr"]) == 0
    assert "study 501 has no structured report" in capsys.readouterr().err
