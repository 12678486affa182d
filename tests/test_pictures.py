"""A picture shows the patient's right on the viewer's left however pixels were stored, and says what is doubtful."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Circle, Rectangle, RegularPolygon

from lumbar.dicom.series import Series, Slice
from lumbar.drawing import style
from lumbar.geometry import slice_affine, to_pixel
from lumbar.labels import CONDITIONS, KEYPOINT_SERIES, LABEL_COLUMNS, LEVELS, SeriesType, level_title, side_of
from lumbar.prediction.result import StudyResult
from lumbar.recipe.evidence import Evidence, PatientTest
from lumbar.recipe.recipe import load_recipe
from lumbar.report.pictures import show_study
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study

SIDE_PX, STEP_MM = 160, 1.25
HEIGHTS_MM = {level: 70.0 - 35.0 * place for place, level in enumerate(LEVELS)}
#: Every condition was tested on patients.
TESTED = dict.fromkeys(
    CONDITIONS,
    Evidence(
        learnt_from="phantoms", tested=(PatientTest(patients=41, graded_by="two readers", figures={"kappa": 0.52}),)
    ),
)
SERIES_IDS: dict[SeriesType, int] = {"sagittal_t1": 7, "sagittal_t2": 6, "axial_t2": 8}


def make_slice(instance: int, ipp: tuple[float, float, float], iop: tuple[float, ...], plane: Any) -> Slice:
    """A slice that is brighter on the patient's left (x > 0) and carries its place in its orientation only."""
    affine = slice_affine(ipp, iop, (STEP_MM, STEP_MM))
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    x_mm = affine[0, 0] * columns + affine[0, 1] * rows + affine[0, 3]
    pixels = np.where(x_mm > 0, 900, 100).astype(np.int16) + (rows % 7).astype(np.int16)
    return Slice(Path(f"{instance}.dcm"), instance, pixels, affine, plane=plane)


def make_study(axial_iop: tuple[float, ...] = (1, 0, 0, 0, 1, 0)) -> Study:
    half = STEP_MM * (SIDE_PX - 1) / 2
    sagittal = [make_slice(n + 1, (-20 + 10 * n, -half, half), (0, 1, 0, 0, 0, -1), "sagittal") for n in range(5)]
    column, row = np.array(axial_iop[:3]), np.array(axial_iop[3:])
    axial = [
        make_slice(n + 1, tuple(-half * (column + row) + [0, 0, z]), axial_iop, "axial")
        for n, z in enumerate(sorted(HEIGHTS_MM.values()))
    ]
    by_type = {
        "sagittal_t1": Series(7, "Sagittal T1", "sagittal", tuple(sagittal), (0,) * 5),
        "sagittal_t2": Series(6, "Sagittal T2/STIR", "sagittal", tuple(sagittal), (0,) * 5),
        "axial_t2": Series(8, "Axial T2", "axial", tuple(axial), (0,) * 5),
    }
    return Study(11, {kind: (series,) for kind, series in by_type.items()})


def make_keypoints(study: Study) -> tuple[Keypoint, ...]:
    points = []
    for condition in CONDITIONS:
        kind = KEYPOINT_SERIES[condition]
        x = {"left": 20.0, "right": -20.0, None: 0.0}[side_of(condition)]
        x /= 2 if kind == "axial_t2" else 1
        for level in LEVELS:
            mm = (x, 10.0, HEIGHTS_MM[level])
            distances = [abs(to_pixel(item.affine, mm)[2]) for item in study.series[kind][0].slices]
            item = study.series[kind][0].slices[int(np.argmin(distances))]
            column, row, _ = to_pixel(item.affine, mm)
            points.append(
                Keypoint(condition, level, SERIES_IDS[kind], item.instance, (column, row), mm, 0.9, 9.0, 0.93)
            )
    return tuple(points)


def make_result(study: Study, **changes: Any) -> StudyResult:
    probabilities = np.tile([0.9, 0.07, 0.03], (5, 5, 1))
    there = np.ones((5, 5), bool)
    result = StudyResult(
        11, probabilities, np.zeros((0, 5, 5, 3)), there, there, make_keypoints(study), seconds=1.5, evidence=TESTED
    )
    return replace(result, **changes)


def make_data(labels: pd.DataFrame | None = None) -> DataFolder:
    return DataFolder(Path("nowhere"), "train", (11,), pd.DataFrame(), labels)


def axes_titled(figure: Figure, start: str) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_title(loc="left").startswith(start)]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def table_of(figure: Figure) -> Axes:
    return next(ax for ax in figure.axes if "Probabilities" in texts(ax))


def corner_letters(ax: Axes) -> tuple[str, str]:
    """The letters at the viewer's left and right edge."""
    letters = {text.get_text(): text.get_position()[0] for text in ax.texts if text.get_text() in set("RLAP")}
    first, second = sorted(letters, key=lambda letter: letters[letter])
    return first, second


@pytest.mark.parametrize(
    "axial_iop",
    [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0), (0, 1, 0, -1, 0, 0), (0, -1, 0, 1, 0, 0)],
    ids=["usual", "columns to the right", "upside down", "transposed", "transposed and turned"],
)
def test_the_patients_left_is_on_the_viewers_right_however_pixels_are_stored(axial_iop: tuple[float, ...]) -> None:
    study = make_study(axial_iop)
    figure = show_study(make_result(study), make_data(), study=study)
    panels = axes_titled(figure, "Axial T2")
    assert [ax.get_title(loc="left") for ax in panels] == [f"Axial T2 · {level_title(level)}" for level in LEVELS]
    for ax in panels:
        assert corner_letters(ax) == ("R", "L")
        shown = np.asarray(ax.images[0].get_array())
        assert shown[:, : SIDE_PX // 2].mean() < 200 < 800 < shown[:, SIDE_PX // 2 :].mean()
        left_edge, right_edge = ax.get_xlim()
        assert left_edge < right_edge  # columns run to the viewer's right
        points = sorted(patch.center[0] for patch in ax.patches if isinstance(patch, Circle))
        assert points[1] - points[0] == pytest.approx(20.0)  # mm between the two sides' points


def test_a_left_keypoint_lies_on_the_viewers_right() -> None:
    study = make_study((-1, 0, 0, 0, 1, 0))
    result = make_result(study)
    only_left = tuple(point for point in result.keypoints if point.condition == "left_subarticular_stenosis")
    figure = show_study(replace(result, keypoints=only_left), make_data(), study=study)
    for ax in axes_titled(figure, "Axial T2"):
        (ring,) = [patch for patch in ax.patches if isinstance(patch, Circle)]
        image = ax.images[0]
        column = int((ring.center[0] - image.get_extent()[0]) / STEP_MM)
        assert np.asarray(image.get_array())[80, column] > 800  # the bright half is the patient's left


def test_sagittal_images_run_from_front_to_back_and_each_side_shows_its_own_foramina() -> None:
    study = make_study()
    figure = show_study(make_result(study), make_data(), study=study)
    (right,) = axes_titled(figure, "Sagittal T1 · right")
    (canal,) = axes_titled(figure, "Sagittal T2")
    (left,) = axes_titled(figure, "Sagittal T1 · left")
    assert right.get_position().x0 < canal.get_position().x0 < left.get_position().x0
    for ax, bright in ((right, False), (left, True)):
        assert bool(np.asarray(ax.images[0].get_array()).mean() > 500) is bright
    for ax in (right, canal, left):
        assert corner_letters(ax) == ("A", "P")
        top_to_bottom = [patch.center[1] for patch in ax.patches if isinstance(patch, Circle)]
        assert np.diff(top_to_bottom) == pytest.approx([35.0] * 4)
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the head is up


def test_every_image_names_levels_with_their_confidence_or_says_that_a_point_is_repaired() -> None:
    study = make_study()
    result = make_result(study)
    figure = show_study(result, make_data(), study=study)
    for ax in axes_titled(figure, "Sagittal"):
        assert {f"{level_title(level)}  .93" for level in LEVELS} <= set(texts(ax))
    assert {ax.get_title(loc="right") for ax in axes_titled(figure, "Axial T2")} == {"R .93 · L .93"}
    points = tuple(
        replace(point, repaired=True) if point.condition.startswith("right") else point for point in result.keypoints
    )
    figure = show_study(replace(result, keypoints=points), make_data(), study=study)
    (right,) = axes_titled(figure, "Sagittal T1 · right")
    assert "L4/L5  repaired" in texts(right)
    assert {ax.get_title(loc="right") for ax in axes_titled(figure, "Axial T2")} == {"R repaired · L .93"}


def test_a_bar_in_each_graded_cell_shows_how_certain_it_is() -> None:
    study = make_study()
    result = make_result(study)
    probabilities = result.probabilities.copy()
    probabilities[0, 2] = [0.2, 0.5, 0.3]
    graded = np.ones((5, 5), bool)
    graded[0, 3] = False
    ax = table_of(show_study(replace(result, probabilities=probabilities, graded=graded), make_data(), study=study))

    def shares(level: int) -> list[float]:
        """Parts of the canal's bar, left to right: the coloured patches at the foot of its cell."""
        inside = [
            patch
            for patch in ax.patches
            if isinstance(patch, Rectangle)
            and patch.get_height() == pytest.approx(0.11)
            and 2 <= patch.get_x() < 3
            and level + 0.7 < patch.get_y() < level + 1
        ]
        return [patch.get_width() / 0.86 for patch in inside]

    assert shares(2) == pytest.approx([0.2, 0.5, 0.3])
    assert shares(1) == pytest.approx([0.9, 0.07, 0.03])
    assert shares(3) == []  # the prior says nothing of this patient


def test_doubtful_and_repaired_keypoints_look_different() -> None:
    study = make_study()
    result = make_result(study)
    shapes = {}
    for name, change in (("sure", {}), ("doubtful", {"confidence": 0.1}), ("repaired", {"repaired": True})):
        points = tuple(replace(point, **change) for point in result.keypoints)
        figure = show_study(replace(result, keypoints=points), make_data(), study=study)
        patch = axes_titled(figure, "Sagittal T2")[0].patches[0]
        shapes[name] = (type(patch), patch.get_linestyle())
    assert len(set(shapes.values())) == 3
    assert shapes["sure"] == (Circle, "solid")
    assert shapes["repaired"][0] is RegularPolygon


def test_the_table_holds_all_25_distributions_under_their_own_heads() -> None:
    study = make_study()
    result = make_result(study)
    result.probabilities[CONDITIONS.index("left_neural_foraminal_narrowing"), LEVELS.index("l4_l5")] = [
        0.11,
        0.26,
        0.63,
    ]
    ax = table_of(show_study(result, make_data(), study=study))
    heads = {text.get_text(): text.get_position()[0] for text in ax.texts if "\n" in text.get_text()}
    lines = {text.get_text(): text.get_position()[1] for text in ax.texts if "/" in text.get_text()}
    assert list(lines) == [level_title(level) for level in LEVELS]
    assert heads["right\nforamen"] < heads["spinal\ncanal"] < heads["left\nforamen"]
    near = [
        text
        for text in ax.texts
        if text.get_text().isdecimal()
        and abs(text.get_position()[0] - heads["left\nforamen"]) < 0.5
        and abs(text.get_position()[1] - lines["L4/L5"]) < 0.1
    ]
    assert [text.get_text() for text in near] == ["11", "26", "63"]
    assert [text.get_weight() == "bold" for text in near] == [False, False, True]
    assert sum(text.get_text().isdecimal() for text in ax.texts) == 75


def test_rows_from_the_prior_are_hatched_and_named() -> None:
    study = make_study()
    graded = np.ones((5, 5), bool)
    graded[0, 4] = graded[1, 2] = False
    figure = show_study(make_result(study, graded=graded), make_data(), study=study)
    ax = table_of(figure)
    assert texts(ax).count("prior") == 2
    assert sum(isinstance(patch, Rectangle) and patch.get_hatch() is not None for patch in ax.patches) == 2
    assert any("2 of 25 rows from the prior" in text.get_text() for text in figure.texts)
    grey = to_rgba(style.UNGRADED_COLOUR)
    (canal,) = axes_titled(figure, "Sagittal T2")
    assert [patch.get_edgecolor() == grey for patch in canal.patches] == [False] * 4 + [True]


def test_known_labels_are_boxed_and_empty_ones_are_not() -> None:
    study = make_study()
    labels = pd.DataFrame([["Severe"] * 24 + [np.nan]], index=[11], columns=list(LABEL_COLUMNS))
    ax = table_of(show_study(make_result(study), make_data(labels), study=study))
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    assert len(boxes) == 24
    assert {round((box.get_x() + box.get_width() / 2) % 1, 2) for box in boxes} == {0.8}  # round the third number


def test_missing_series_levels_and_keypoints_are_said_in_place_of_an_image() -> None:
    study = make_study()
    result = make_result(study)
    without = Study(11, {**study.series, "sagittal_t1": ()})
    points = tuple(
        point
        for point in result.keypoints
        if KEYPOINT_SERIES[point.condition] == "sagittal_t2" or (point.level != "l1_l2" and "sub" in point.condition)
    )
    figure = show_study(replace(result, keypoints=points), make_data(), study=without)
    for ax in axes_titled(figure, "Sagittal T1"):
        assert "no such series" in texts(ax)
    assert ["no axial slice" in " ".join(texts(ax)) for ax in axes_titled(figure, "Axial T2")] == [True] + [False] * 4
    bare = show_study(replace(result, keypoints=()), make_data(), study=study)
    assert len(axes_titled(bare, "Sagittal T2")[0].images) == 1  # the middle slice, without marks
    nothing = show_study(replace(result, keypoints=()), make_data(), study=Study(11, {}))
    assert all(not ax.images for ax in axes_titled(nothing, "Sagittal") + axes_titled(nothing, "Axial"))


def test_severities_differ_in_lightness_too_so_that_no_colour_sense_is_needed() -> None:
    ramp = style.SEVERITY_MAP(np.linspace(0, 1, 40))[:, :3]
    lightness = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()
    for colour in style.SEVERITY_MAP(np.linspace(0, 1, 40)):
        ink = np.array(to_rgba(style.ink_on(tuple(colour)))[:3])
        assert contrast(ink, colour[:3]) > 4.5  # WCAG AA for text


def contrast(one: np.ndarray, two: np.ndarray) -> float:
    def luminance(colour: np.ndarray) -> float:
        linear = np.where(colour > 0.04045, ((colour + 0.055) / 1.055) ** 2.4, colour / 12.92)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_picture_of_a_study_is_large_enough_and_holds_something() -> None:
    study, stream = make_study(), io.BytesIO()
    show_study(make_result(study), make_data(), study=study).savefig(stream, format="png", dpi=50)
    stream.seek(0)
    pixels = imread(stream)
    assert pixels.shape[:2] == (480, 800)
    assert pixels[..., :3].std() > 0.2


def test_the_real_study_can_be_drawn(cc0_study: Path) -> None:
    from lumbar.study.study import open_data

    result = make_result(make_study(), study_id=1001, keypoints=())
    figure = show_study(result, open_data(cc0_study))
    assert [len(ax.images) for ax in axes_titled(figure, "Sagittal")] == [1, 1, 1]


def test_a_severity_that_nothing_on_patients_backs_is_hatched_and_the_figure_says_why() -> None:
    study = make_study()
    alone = {"spinal_canal_stenosis": TESTED["spinal_canal_stenosis"]}
    untested = {condition: Evidence(learnt_from="phantoms") for condition in CONDITIONS[1:]}
    figure = show_study(make_result(study, evidence={**alone, **untested}), make_data(), study=study)
    ax = table_of(figure)
    hatched = [box for box in ax.patches if isinstance(box, Rectangle) and box.get_hatch()]
    assert len(hatched) == 20
    assert not any(2 < box.get_x() < 3 for box in hatched), "the canal's column is plain"
    line = next(text for text in figure.texts if text.get_text().startswith("Severities rest on: "))
    said = " ".join(line.get_text().split())
    assert "spinal: learnt from phantoms alone, tested on 41 patients, graded by " in said
    assert "foraminal, subarticular: learnt from phantoms alone, never tested on patients" in said
    assert "no test on patients" in words_of(figure)
    assert line.get_weight() == "bold"
    assert line.get_window_extent(figure.canvas.get_renderer()).x1 < figure.bbox.x1  # type: ignore[attr-defined]
    mark = next(mark for ax in axes_titled(figure, "Axial T2") for mark in ax.patches if isinstance(mark, Circle))
    assert to_rgba(mark.get_edgecolor()) == to_rgba(style.UNGRADED_COLOUR)


def test_a_phantom_is_called_one_and_shown_as_it_was_graded() -> None:
    study = make_study()
    figure = show_study(make_result(study, evidence={}, phantom=True), make_data(), study=study)
    assert any(text.get_text() == "PHANTOM, no patient" for text in figure.texts)
    assert not any(box.get_hatch() for box in table_of(figure).patches)
    assert "prior" in words_of(figure)
    assert "no test on patients" not in words_of(figure), "nothing is hatched"


def test_what_the_shipped_bundles_severities_rest_on_fits_above_the_images(root: Path) -> None:
    """No radiologist graded the test, and the figure says so on two lines."""
    study, evidence = make_study(), load_recipe(root / "recipes" / "shipped.toml").card.evidence
    figure = show_study(make_result(study, evidence=evidence), make_data(), study=study)
    line = next(text for text in figure.texts if text.get_text().startswith("Severities rest on: "))
    assert "mid-sagittal T2 images), graded by two blind readings of vision models, no radiologist" in line.get_text()
    box = line.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    assert box.x1 < figure.bbox.x1
    titles = [ax.title for ax in figure.axes] + [ax._left_title for ax in figure.axes]  # type: ignore[attr-defined]
    assert all(one.get_window_extent().y1 <= box.y0 for one in titles if one.get_text())


def words_of(figure: Figure) -> list[str]:
    """All texts on a figure's axes."""
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_a_probability_is_rounded_one_way_and_a_confidence_is_no_percentage() -> None:
    assert [style.percent(share) for share in (0.0, 0.005, 0.015, 0.965, 0.9649, 1.0)] == [0, 1, 2, 97, 96, 100]
    assert [style.confidence(value) for value in (0.0, 0.046, 0.93, 0.999)] == [".00", ".05", ".93", "1.00"]


def test_the_manuals_picture_of_the_report_has_the_pages_own_colours(root: Path) -> None:
    """A picture with a palette of its own showed a legend that was grey where the page is blue."""
    picture = np.round(imread(root / "docs" / "report.png")[..., :3] * 255).astype(int)
    for colour in (style.RAISES, style.LOWERS, *(style.SEVERITY_MAP(place / 2) for place in range(3))):
        wanted = np.round(np.array(to_rgba(colour)[:3]) * 255).astype(int)
        assert (picture == wanted).all(axis=-1).sum() > 50, colour
