"""Phantom studies: same seed same bytes, true geometry, real label rates, and severity that shows in the pictures."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS
from lumbar.phantom.anatomy import Anatomy, draw_anatomy
from lumbar.phantom.dataset import study_ids, write_phantoms
from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.render import draw_camera, picture, tissue_maps
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.severity import REAL_COUNTS, Grades, draw_grades
from lumbar.phantom.study import StudyPlan, plan, render, table_rows
from lumbar.phantom.vertebrae import FIRST

SMALL = {"matrices": (128,), "sagittal_slices": (9, 9), "axial_kind": "angled", "stack_slices": (3, 3)}
TINY = {**SMALL, "matrices": (96,), "sagittal_slices": (5, 5), "stack_slices": (1, 1)}
PIXEL_MM = 0.6


def digest(root: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small studies: ordinary, compressed, without T1, and with axial series that miss L1/L2."""
    out = tmp_path_factory.mktemp("phantoms")
    base = PhantomOptions(**SMALL)  # type: ignore[arg-type]
    variations = {
        1: replace(base, compressed=True, two_axial=True),
        2: replace(base, without_t1=True, two_axial=False),
        3: replace(base, axial_misses_level=True, two_axial=False),
    }
    ids = write_phantoms(out, 4, 3, first_id=11, variations=variations, two_axial=False, **SMALL)
    assert ids == [11, 12, 13, 14]
    return out


def read(folder: Path, row: pd.Series) -> pydicom.FileDataset:
    return pydicom.dcmread(folder / "train_images" / f"{row.study_id}/{row.series_id}/{row.instance_number}.dcm")


def to_patient(dataset: pydicom.FileDataset, x: float, y: float) -> np.ndarray:
    row, column = np.array(dataset.ImageOrientationPatient[:3]), np.array(dataset.ImageOrientationPatient[3:])
    step = dataset.PixelSpacing
    return np.array(dataset.ImagePositionPatient) + x * step[1] * row + y * step[0] * column


def keypoints_mm(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "train_label_coordinates.csv")
    places = [to_patient(read(folder, row), row.x, row.y) for _, row in table.iterrows()]
    return pd.concat([table, pd.DataFrame(places, columns=["px", "py", "pz"])], axis=1)


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_whatever_the_workers_and_the_count(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "a", 2, 5, **TINY)
    write_phantoms(tmp_path / "b", 2, 5, workers=2, **TINY)
    first = write_phantoms(tmp_path / "c", 1, 5, **TINY)[0]
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "c/train_images" / str(first)) == digest(tmp_path / "a/train_images" / str(first))


def test_another_seed_gives_another_study() -> None:
    options = PhantomOptions(**SMALL)  # type: ignore[arg-type]
    assert not np.allclose(plan(1, 0, 1, options).grades.narrowing, plan(2, 0, 1, options).grades.narrowing)
    assert len(set(study_ids(300, 1, None))) == 300


def test_surface_coils_show_the_same_person_otherwise() -> None:
    """The same tables and sagittal pictures; on axial ones fat shines behind and the front and the spine are dark."""
    options = PhantomOptions(**TINY, two_axial=False)  # type: ignore[arg-type]
    even, coil = (plan(6, 0, 1, replace(options, surface_coil=share)) for share in (0.0, 1.0))
    assert table_rows(even) == table_rows(coil)
    before, after = render(even, 6, 0), render(coil, 6, 0)
    axial = [series.description == "Axial T2" for series in coil.series]
    assert [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == axial
    place = axial.index(True)
    shares = [_front_to_back(even, place, pictures[place]) for pictures in (before, after)]
    assert shares[0] > 0.5  # belly and back alike
    assert shares[1] < 0.25


def _front_to_back(study: StudyPlan, place: int, pictures: list[np.ndarray]) -> float:
    """How bright the brightest tenth is that lies 40 mm and more before the spine, compared with that behind it."""
    bright = []
    for level, (plane, pixels) in enumerate(zip(study.series[place].planes, pictures, strict=True), start=FIRST):
        _, wall, _ = plane.to_pixel(study.person.spine.origin[level])
        behind = (np.arange(plane.pixels[0]) - wall) * plane.spacing
        parts = pixels[behind < -40], pixels[(behind > 30) & (behind < 70)]
        bright.append([np.percentile(part, 90) for part in parts])
    front, back = np.mean(bright, axis=0)
    return float(front / back)


def test_test_split_has_no_labels(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, 1, split="test", **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_images", "test_series_descriptions.csv"]


def test_files_are_mr_images_with_unique_ids_and_sound_geometry(folder: Path) -> None:
    seen: set[str] = set()
    frames: dict[str, set[str]] = {}
    for path in folder.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.SOPClassUID == pydicom.uid.MRImageStorage == dataset.file_meta.MediaStorageSOPClassUID
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert dataset.Modality == "MR"
        assert int(path.stem) == dataset.InstanceNumber
        assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns)
        assert np.ptp(dataset.pixel_array) > 0
        row, column = np.array(dataset.ImageOrientationPatient[:3]), np.array(dataset.ImageOrientationPatient[3:])
        assert np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-5)
        frames.setdefault(dataset.StudyInstanceUID, set()).add(dataset.FrameOfReferenceUID)
        assert dataset.SOPInstanceUID not in seen
        seen.add(dataset.SOPInstanceUID)
    assert len(frames) == 4
    assert all(len(found) == 1 for found in frames.values())


def test_tables_list_exactly_what_was_written(folder: Path) -> None:
    labels = pd.read_csv(folder / "train.csv")
    assert list(labels.columns) == ["study_id", *LABEL_COLUMNS]
    series = pd.read_csv(folder / "train_series_descriptions.csv")
    on_disk = {(int(p.parent.name), int(p.name)) for p in (folder / "train_images").glob("*/*")}
    assert on_disk == set(zip(series.study_id, series.series_id, strict=True))
    counts = series.groupby("study_id").series_description.value_counts().unstack(fill_value=0)
    assert counts["Sagittal T1"].tolist() == [1, 1, 0, 1]
    assert counts["Axial T2"].tolist() == [1, 2, 1, 1]


def test_what_no_series_shows_has_neither_label_nor_keypoint(folder: Path) -> None:
    labels = pd.read_csv(folder / "train.csv").set_index("study_id")
    points = pd.read_csv(folder / "train_label_coordinates.csv")
    foramina = [column for column in LABEL_COLUMNS if "foraminal" in column]
    assert labels.loc[13, foramina].isna().all()
    assert labels.loc[11].notna().all()
    assert not ((points.study_id == 13) & points.condition.str.contains("Foraminal")).any()
    assert pd.isna(labels.loc[14, "left_subarticular_stenosis_l1_l2"])
    assert not ((points.study_id == 14) & points.condition.str.contains("Sub") & (points.level == "L1/L2")).any()
    assert labels.notna().sum().sum() == len(points)


def test_compressed_study_is_rle_and_the_others_are_plain(folder: Path) -> None:
    syntax = {
        study: {
            pydicom.dcmread(p).file_meta.TransferSyntaxUID for p in (folder / f"train_images/{study}").rglob("*.dcm")
        }
        for study in (11, 12)
    }
    assert syntax == {11: {pydicom.uid.ExplicitVRLittleEndian}, 12: {pydicom.uid.RLELossless}}


def test_left_keypoints_lie_left_and_levels_run_from_head_to_foot(folder: Path) -> None:
    points = keypoints_mm(folder)
    for (_, condition), group in points.groupby(["study_id", "condition"]):
        assert (np.diff(group.sort_values("level").pz) < -15).all(), condition
    table = points.pivot_table(index=["study_id", "level"], columns="condition", values="px")
    for name, least in (("Neural Foraminal Narrowing", 20), ("Subarticular Stenosis", 12)):
        assert ((table[f"Left {name}"] - table[f"Right {name}"]).dropna() > least).all()


def test_keypoints_of_one_level_agree_between_series(folder: Path) -> None:
    points = keypoints_mm(folder)
    table = points.pivot_table(index=["study_id", "level"], columns="condition", values="pz")
    recess = table[["Left Subarticular Stenosis", "Right Subarticular Stenosis"]].mean(axis=1)
    assert ((table["Spinal Canal Stenosis"] - recess).abs().dropna() < 9).all()


def test_canal_keypoint_of_an_open_level_is_bright_on_t2() -> None:
    contrasts = []
    for seed in range(3):
        person = open_person(seed)
        image, plane = cut(person, "T2", person.spine.canal_point(FIRST + 2), np.eye(3)[1], -np.eye(3)[2])
        x, y, _ = plane.to_pixel(person.spine.canal_point(FIRST + 2))
        sac = image[int(y) - 1 : int(y) + 2, int(x) - 2 : int(x) + 3].max()
        contrasts.append(sac / np.median(image))
    assert min(contrasts) > 1.4


def grades(narrowing: np.ndarray) -> Grades:
    severity = narrowing.astype(int)
    return Grades(narrowing, severity, severity)


def open_person(seed: int) -> Anatomy:
    return draw_anatomy(np.random.default_rng(seed), grades(np.full((5, 5), 0.3)))


def cut(
    person: Anatomy, weighting: str, centre: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, Plane]:
    """A slice of 60 mm around a point, in units of the brightest tissue."""
    count = int(60 / PIXEL_MM)
    plane = Plane(centre - (row + column) * PIXEL_MM * (count - 1) / 2, row, column, (count, count), PIXEL_MM)
    series = SeriesPlan("Axial T2", weighting, (plane,), (1,), 4.0, 4.0)  # type: ignore[arg-type]
    camera = draw_camera(np.random.default_rng(1), person, series)
    camera = replace(camera, noise=0.01, blur=0.6, saturated_front=(0.0, 1.0), border=0.0, gamma=1.0)
    pixels = picture(np.random.default_rng(2), camera, person, plane, tissue_maps(person, plane, 4.0))
    return pixels / np.percentile(pixels, 99.5), plane


def shown(seed: int, kind: str, class_: int) -> float:
    """How much room a region of a class shows: bright area (mm²) around its keypoint, right side, L3/L4."""
    narrowing = np.full((5, 5), 0.4)
    rows = {"spinal": (0,), "foraminal": (2,), "subarticular": (4,)}[kind]
    narrowing[list(rows), 2] = class_ + 0.5
    person = draw_anatomy(np.random.default_rng(seed), grades(narrowing))
    spine, level = person.spine, FIRST + 2
    open_spine = open_person(seed).spine
    if kind == "foraminal":
        centre = spine.foramen_point(level, 1)
        image, _ = cut(person, "T1", centre, np.eye(3)[1], -np.eye(3)[2])
        reach, bright = 8.0, 0.62
    else:
        centre = spine.canal_point(level) if kind == "spinal" else open_spine.recess_point(level, 1)
        image, _ = cut(person, "T2", centre, spine.left[level], spine.back[level])
        reach, bright = (9.0, 0.7) if kind == "spinal" else (4.0, 0.30)
    middle = (len(image) - 1) / 2
    away = np.hypot(*(np.indices(image.shape) - middle)) * PIXEL_MM
    return float(((image > bright) & (away < reach)).sum() * PIXEL_MM**2)


@pytest.mark.parametrize("kind", ["spinal", "foraminal", "subarticular"])
def test_severity_shows_as_lost_room(kind: str) -> None:
    room = np.array([[shown(seed, kind, class_) for class_ in range(3)] for seed in range(4)])
    mean = room.mean(axis=0)
    assert mean[0] > 1.2 * mean[1] > 1.2 * 1.2 * mean[2], mean
    assert (room[:, 0] > room[:, 2]).all(), room


def test_one_side_narrows_without_the_other() -> None:
    narrowing = np.full((5, 5), 0.4)
    narrowing[1, 2] = narrowing[3, 2] = 2.7
    spine = draw_anatomy(np.random.default_rng(1), grades(narrowing)).spine
    level = FIRST + 2
    assert np.subtract(*spine.recess_span(level, 0)[::-1]) < 0.4 * np.subtract(*spine.recess_span(level, 1)[::-1])
    assert spine.fat_depth[0, level] < 0.5 * spine.fat_depth[1, level]


def test_label_rates_follow_the_real_counts() -> None:
    count = 2500
    drawn = np.stack([draw_grades(np.random.default_rng([7, index])).severity for index in range(count)])
    rates = REAL_COUNTS / REAL_COUNTS.sum(axis=-1, keepdims=True)
    found = np.stack([(drawn == severity).mean(axis=0) for severity in range(3)], axis=-1)
    tolerance = 4.5 * np.sqrt(rates * (1 - rates) / count)
    assert (np.abs(found - rates) < tolerance).all()
    assert 0.16 < (drawn[:, 0] == 2).any(axis=1).mean() < 0.21
    assert np.corrcoef(drawn[:, 3, 3], drawn[:, 4, 3])[0, 1] > 0.25  # sides of a level go together


def test_narrowing_stays_within_its_class() -> None:
    for index in range(200):
        drawn = draw_grades(np.random.default_rng(index))
        assert (np.clip(np.floor(drawn.narrowing), 0, 2) == drawn.severity).all()


def test_label_noise_changes_labels_and_no_pixel() -> None:
    plain, noisy = PhantomOptions(**SMALL), PhantomOptions(label_noise=True, **SMALL)  # type: ignore[arg-type]
    changed = [
        (draw_grades(np.random.default_rng(i), True).label != draw_grades(np.random.default_rng(i)).label).mean()
        for i in range(200)
    ]
    assert 0.02 < np.mean(changed) < 0.15
    studies = [plan(4, 1, 1, options) for options in (plain, noisy)]
    assert table_rows(studies[0]).labels != table_rows(studies[1]).labels
    assert table_rows(studies[0]).coordinates == table_rows(studies[1]).coordinates
    pictures = [render(replace(study, series=study.series[:1]), 4, 1)[0][4] for study in studies]
    assert (pictures[0] == pictures[1]).all()


def test_both_slice_orders_and_odd_numberings_occur() -> None:
    left_first, plain = [], []
    for index in range(120):
        series = plan(2, index, 1, PhantomOptions()).series[0]
        left_first.append(series.planes[0].position[0] > series.planes[-1].position[0])
        plain.append(series.instances == tuple(range(1, len(series.instances) + 1)))
        assert len(set(series.instances)) == len(series.instances)
    assert 0.5 < np.mean(left_first) < 0.78
    assert 0.6 < np.mean(plain) < 0.95


def test_axial_series_vary_in_kind_count_and_coverage() -> None:
    counts, missed, tilted = [], 0, 0
    for index in range(90):
        study = plan(2, index, 1, PhantomOptions())
        axial = [series for series in study.series if series.description == "Axial T2"]
        counts.append(len(axial))
        labels = table_rows(study).labels
        missed += labels["left_subarticular_stenosis_l1_l2"] == ""
        tilted += len({tuple(np.round(plane.normal, 6)) for plane in axial[0].planes}) > 1
        for condition in CONDITIONS[3:]:
            assert all(labels[f"{condition}_{level}"] for level in LEVELS[2:]), "a lower level has no axial slice"
    assert 0.08 < np.mean(np.array(counts) == 2) < 0.28
    assert 1 <= missed <= 16
    assert 25 < tilted < 65


def test_an_unknown_override_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="matrix"):
        write_phantoms(tmp_path, 1, 1, matrix=3)
