"""Pictures of a graded study: what was found and where, and the 25 probabilities.

Images are in radiological view: the patient's right on the viewer's left, the front on the left of a sagittal image.
Points are placed by their millimetres, so a point also shows on a slice beside its own.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle

from lumbar.dicom.series import Slice
from lumbar.drawing import style
from lumbar.drawing.grey_range import OF_A_PART, grey_range
from lumbar.drawing.severity_table import draw_table
from lumbar.geometry import spacing_mm, to_pixel
from lumbar.issues import printable
from lumbar.keypoints.repair import LOW_CONFIDENCE
from lumbar.labels import (
    CONDITIONS,
    KEYPOINT_SERIES,
    LEVELS,
    Level,
    SeriesType,
    Side,
    level_title,
    side_of,
)
from lumbar.prediction.result import StudyResult
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.keypoint import Keypoint
from lumbar.study.standardise import slice_values
from lumbar.study.study import DataFolder, Study, read_study, true_severities

FIGURE_INCHES: Final = (16.0, 9.6)
AXIAL_MM: Final = 110.0  # shown part of an axial image; its field of view is often 200 to 280 mm
SAGITTAL_MARGIN_MM: Final = 34.0  # above L1/L2 and below L5/S1
LINE_WIDTH: Final = 190  # characters that fit into the figure's width
_DISPLAY: Final = Preprocessing()  # rescaled and upright
_KIND_TITLES: Final[dict[SeriesType, str]] = {
    "sagittal_t1": "Sagittal T1",
    "sagittal_t2": "Sagittal T2",
    "axial_t2": "Axial T2",
}


class _Canvas(FigureCanvasAgg):
    """Draws a figure once for a file, and packs it quickly.

    A notebook asks for empty edges to be cut off, for which a figure is drawn twice; these have none.
    """

    def print_figure(self, filename: Any, *args: Any, bbox_inches: Any = None, **kwargs: Any) -> Any:
        return super().print_figure(filename, *args, bbox_inches=None, **kwargs)

    def print_png(self, filename_or_obj: Any, *, metadata: Any = None, pil_kwargs: Any = None, **_: Any) -> None:
        packing = {"compress_level": 1} | (pil_kwargs or {})
        super().print_png(filename_or_obj, metadata=metadata, pil_kwargs=packing)


@dataclass(frozen=True)
class _View:
    """One slice, upright, with the keypoints to be drawn on it."""

    image: np.ndarray  # (H, W)
    step_mm: tuple[float, float]  # column to column, row to row
    points: tuple[tuple[Keypoint, tuple[float, float]], ...]  # with their place on the slice, mm from pixel (0, 0)
    name: str


def show_study(result: StudyResult, data: DataFolder, *, study: Study | None = None) -> Figure:
    """One study as a figure: T2 with the levels, both T1 sides, one axial slice a level, and the 25 probabilities.

    `study` saves reading it again. The images of a study that cannot be read stay empty and say so. Where the data
    folder holds labels, the table boxes the true severity.
    """
    study = read_study(data, result.study_id) if study is None else study
    slices = {
        (series.series_id, item.instance): item
        for listed in study.series.values()
        for series in listed
        for item in series.slices
    }
    figure = Figure(figsize=FIGURE_INCHES, dpi=100, facecolor=style.PAPER)
    _Canvas(figure)
    grid = GridSpec(
        2, 1, figure, height_ratios=(1.42, 1), left=0.012, right=0.988, top=0.905, bottom=0.062, hspace=0.13
    )
    top = grid[0].subgridspec(1, 4, width_ratios=(1, 1, 1, 2.02), wspace=0.035)
    sagittal: tuple[tuple[SeriesType, Side | None], ...] = (
        ("sagittal_t1", "right"),
        ("sagittal_t2", None),
        ("sagittal_t1", "left"),
    )
    for column, (kind, side) in enumerate(sagittal):
        points = [point for point in result.keypoints if _belongs(point, kind, side)]
        _draw_sagittal(figure.add_subplot(top[column]), _sagittal_view(study, slices, points, kind), result, kind, side)
    truth = true_severities(data, result.study_id)
    draw_table(figure.add_subplot(top[3]), result.probabilities, result.graded, truth, result.shown_as_told)
    bottom = grid[1].subgridspec(1, len(LEVELS), wspace=0.03)
    for column, level in enumerate(LEVELS):
        points = [point for point in result.keypoints if point.level == level and _belongs(point, "axial_t2", None)]
        _draw_axial(figure.add_subplot(bottom[column]), _view(slices, points), result, level)
    _draw_title(figure, result)
    _draw_key(figure, _doubts(result))
    return figure


def _belongs(point: Keypoint, kind: SeriesType, side: Side | None) -> bool:
    return KEYPOINT_SERIES[point.condition] == kind and side in (None, side_of(point.condition))


def _sagittal_view(
    study: Study, slices: dict[tuple[int, int], Slice], points: Sequence[Keypoint], kind: SeriesType
) -> _View | None:
    """The slice that most of the points lie on; without points the middle slice of the first series."""
    view = _view(slices, points)
    listed = study.series.get(kind, ())
    if view is None and listed:
        middle = listed[0].slices[len(listed[0].slices) // 2]
        return _upright(middle, (), listed[0].series_id)
    return view


def _view(slices: dict[tuple[int, int], Slice], points: Sequence[Keypoint]) -> _View | None:
    named = Counter((point.series_id, point.instance) for point in points)
    known = [key for key, _ in named.most_common() if key in slices]
    return _upright(slices[known[0]], points, known[0][0]) if known else None


def _upright(item: Slice, points: Iterable[Keypoint], series_id: int) -> _View:
    image, affine = slice_values(item, _DISPLAY)
    row_step, column_step = spacing_mm(affine)
    placed = []
    for point in points:
        column, row, _ = to_pixel(affine, point.mm)
        placed.append((point, (float(column * column_step), float(row * row_step))))
    return _View(image, (column_step, row_step), tuple(placed), f"series {series_id} · {printable(item.name)}")


def _draw_sagittal(ax: Axes, view: _View | None, result: StudyResult, kind: SeriesType, side: Side | None) -> None:
    title = f"{_KIND_TITLES[kind]} · {side} foramina" if side else f"{_KIND_TITLES[kind]} · canal"
    if view is None:
        _draw_nothing(ax, title, "no such series")
        return
    box = None
    if view.points:
        centres = np.array([xy for _, xy in view.points])
        middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
        height = float(np.ptp(centres[:, 1])) + 2 * SAGITTAL_MARGIN_MM
        box = (float(middle[0]), float(middle[1]), height)
    _draw_image(ax, view, box, title, ("A", "P"))
    _draw_marks(ax, view, result)
    right = ax.get_xlim()[1]
    for point, (x, y) in view.points:
        halo = style.halo()
        ax.plot([x + style.MARK_MM + 1.5, right], [y, y], color="white", linewidth=0.7, path_effects=halo)
        text, place = f"{level_title(point.level)}  {sureness(point)}", (right - 1.5, y - 1.2)
        style.write(ax, *place, text, color="white", size=style.LABEL_SIZE, ha="right", va="bottom", path_effects=halo)


def _draw_axial(ax: Axes, view: _View | None, result: StudyResult, level: Level) -> None:
    title = f"Axial T2 · {level_title(level)}"
    if view is None:
        _draw_nothing(ax, title, "no axial slice\nat this level")
        return
    x, y = np.mean([xy for _, xy in view.points], axis=0)
    _draw_image(ax, view, (float(x), float(y), AXIAL_MM), title, ("R", "L"))
    _draw_marks(ax, view, result)
    sides = sorted(
        (xy[0], f"{(side_of(point.condition) or '')[:1].upper()} {sureness(point)}") for point, xy in view.points
    )
    ax.set_title(" · ".join(text for _, text in sides), loc="right", size=style.NOTE_SIZE, color=style.FAINT, pad=4)


def sureness(point: Keypoint) -> str:
    """The confidence, 0 to 1; a repaired point has none of its own."""
    return "repaired" if point.repaired else style.confidence(point.confidence)


def _draw_nothing(ax: Axes, title: str, reason: str) -> None:
    _bare(ax, title)
    ax.set_facecolor(style.NO_IMAGE)
    style.write(ax, 0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=style.FAINT, size=10)


def _draw_image(
    ax: Axes, view: _View, box: tuple[float, float, float] | None, title: str, edges: tuple[str, str]
) -> None:
    """The part of a slice inside `box` (x, y of the centre and height, in mm), in the shape of the axes."""
    height, width = view.image.shape
    step_x, step_y = view.step_mm
    x, y, tall = box or ((width - 1) * step_x / 2, (height - 1) * step_y / 2, height * step_y)
    place = ax.get_position()
    shape = place.width * FIGURE_INCHES[0] / (place.height * FIGURE_INCHES[1])
    wide = tall * shape
    extent = (-step_x / 2, (width - 0.5) * step_x, (height - 0.5) * step_y, -step_y / 2)
    low, high = _display_range(view, x, y, wide, tall)
    ax.imshow(view.image, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    _bare(ax, title)
    ax.set(xlim=(x - wide / 2, x + wide / 2), ylim=(y + tall / 2, y - tall / 2), facecolor=style.DARK)
    for text, place_x, align in ((edges[0], 0.02, "left"), (edges[1], 0.98, "right")):
        style.write(ax,
            place_x, 0.985, text, transform=ax.transAxes, ha=align, va="top", color="white", size=11, weight="bold",
            path_effects=style.halo(),
        )  # fmt: skip
    _draw_scale(ax, wide)
    style.write(ax,
        0.98, 0.016, view.name, transform=ax.transAxes, ha="right", va="bottom", color="white",
        size=style.NOTE_SIZE - 0.5, path_effects=style.halo(),
    )  # fmt: skip


def _draw_scale(ax: Axes, wide_mm: float, length_mm: float = 20.0) -> None:
    share = length_mm / wide_mm
    ax.plot(
        [0.03, 0.03 + share],
        [0.025, 0.025],
        transform=ax.transAxes,
        color="white",
        linewidth=2.0,
        path_effects=style.halo(4.0),
    )
    style.write(ax,
        0.03 + share / 2, 0.035, f"{length_mm:.0f} mm", transform=ax.transAxes, color="white", size=style.NOTE_SIZE,
        ha="center", va="bottom", path_effects=style.halo(),
    )  # fmt: skip


def _display_range(view: _View, x: float, y: float, wide: float, tall: float) -> tuple[float, float]:
    """Display range from the shown part: the brightest half per cent (vessels, skin fat) may saturate."""
    columns = np.clip(np.array([x - wide / 2, x + wide / 2]) / view.step_mm[0], 0, view.image.shape[1]).astype(int)
    rows = np.clip(np.array([y - tall / 2, y + tall / 2]) / view.step_mm[1], 0, view.image.shape[0]).astype(int)
    shown = view.image[rows[0] : rows[1], columns[0] : columns[1]]
    return grey_range(shown if shown.size else view.image, OF_A_PART)


def _draw_marks(ax: Axes, view: _View, result: StudyResult) -> None:
    for point, xy in view.points:
        row, column = CONDITIONS.index(point.condition), LEVELS.index(point.level)
        told = bool(result.graded[row, column] and result.shown_as_told[row, column])
        colour = style.severity_colour(result.probabilities[row, column]) if told else style.UNGRADED_COLOUR
        doubtful = point.confidence < LOW_CONFIDENCE
        ax.add_artist(style.mark(xy, colour, repaired=point.repaired, doubtful=doubtful))


def _bare(ax: Axes, title: str) -> None:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title, loc="left", size=style.TITLE_SIZE, color=style.INK, pad=4)


def _draw_title(figure: Figure, result: StudyResult) -> None:
    style.write(figure, 0.012, 0.974, f"Study {result.study_id}", size=16, weight="bold", color=style.INK, va="center")
    lines = wrap(f"Severities rest on: {result.rests_on(short=True)}", LINE_WIDTH)
    tag = style.write(figure, 0.012, 0.943, "", size=style.LABEL_SIZE, color=style.INK, va="center", linespacing=1.1)
    tag.set(text="\n".join(lines), fontsize=style.LABEL_SIZE * min(1, 2 / len(lines)))  # there is room for two
    if result.phantom:
        style.write(figure, 0.2, 0.974, "PHANTOM, no patient", size=12, weight="bold", color=style.WARNING, va="center")
    elif not result.backed.all():
        tag.set(color=style.WARNING, weight="bold")
    from_prior = int((~np.asarray(result.graded, bool)).sum())
    parts = [f"{result.seconds:.1f} s", f"{len(result.issues)} issue{'' if len(result.issues) == 1 else 's'}"]
    parts += [f"{from_prior} of 25 rows from the prior"] if from_prior else []
    strange = int(result.strange.sum())
    parts += [f"{strange} strange region{'' if strange == 1 else 's'}"] if strange else []
    parts += ["research use only, not for clinical decisions"]
    style.write(
        figure, 0.988, 0.974, " · ".join(parts), size=style.LABEL_SIZE, color=style.FAINT, va="center", ha="right"
    )


def _doubts(result: StudyResult) -> str:
    """Why some severities are hatched, in a few words; empty where none are."""
    unbacked = bool((np.asarray(result.graded, dtype=bool) & ~result.backed[:, None]).any())
    strange = bool(result.strange.any())
    if unbacked and strange:
        return "no test, or strange"
    return "no test on patients" if unbacked else "strange" if strange else ""


def _draw_key(figure: Figure, doubts: str) -> None:
    """What marks and colours mean, in one line under the images; the axes' unit is a millimetre of paper.

    `doubts`: why some severities are hatched.
    """
    wide, tall = FIGURE_INCHES[0] * 25.4 * 0.976, 8.0
    ax = figure.add_axes((0.012, 0.008, 0.976, tall / (FIGURE_INCHES[1] * 25.4)))
    _bare(ax, "")
    ax.set(xlim=(0, wide), ylim=(0, tall), facecolor="none")
    marks: tuple[tuple[str, dict[str, bool]], ...] = (
        ("keypoint, with its confidence (0 to 1)", {}),
        ("doubtful", {"doubtful": True}),
        ("repaired from its neighbours", {"repaired": True}),
    )
    x = 3.0
    for text, kind in marks:
        ax.add_artist(style.mark((x, tall / 2), style.SEVERITY_MAP(0.5), radius=2.2, **kind))
        style.write(ax, x + 4.5, tall / 2, text, va="center", size=style.LABEL_SIZE, color=style.INK)
        x += 14 + 1.6 * len(text)
    _draw_colour_bar(ax, wide, tall, doubts)


def _draw_colour_bar(ax: Axes, wide: float, tall: float, doubts: str) -> None:
    left, right = wide - 160.0, wide - 94.0
    words: dict[str, Any] = {"va": "center", "size": style.LABEL_SIZE, "color": style.INK}
    style.write(ax, left - 2, tall / 2, "expected severity: normal or mild", ha="right", **words)
    ramp = np.linspace(0, 1, 256)[None]
    ax.imshow(ramp, cmap=style.SEVERITY_MAP, extent=(left, right, 2.2, tall - 2.2), aspect="auto")
    ax.set(xlim=(0, wide), ylim=(0, tall))
    style.write(ax, right + 2, tall / 2, "severe", **words)
    pale = style.pale(style.SEVERITY_MAP(0.5))
    boxes = (
        (right + 16, style.PRIOR_COLOUR, "////", "prior"),
        (right + 37, pale, style.UNBACKED_HATCH, doubts),
    )
    for x, colour, hatch, text in boxes if doubts else boxes[:1]:
        ax.add_artist(
            Rectangle((x, 2.2), 7, tall - 4.4, facecolor=colour, edgecolor=style.EDGE, hatch=hatch, linewidth=0.5)
        )
        style.write(ax, x + 9, tall / 2, text, **words)
