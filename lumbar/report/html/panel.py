"""The panel of a study: a slice for each part of the spine, cut to what matters, chosen as `show_study` does."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from lumbar.labels import KEYPOINT_SERIES, LEVELS, SeriesType, Side, level_title
from lumbar.report.html.cells import ORDER
from lumbar.report.html.slices import SERIES_TITLES, Shown, middle
from lumbar.report.pictures import AXIAL_MM, SAGITTAL_MARGIN_MM

#: Sagittal tiles from the patient's right to the left: title, series type, side.
_SAGITTAL: Final[tuple[tuple[str, SeriesType, Side | None], ...]] = (
    ("right foramina", "sagittal_t1", "right"),
    ("canal", "sagittal_t2", None),
    ("left foramina", "sagittal_t1", "left"),
)


def panel(shown: Shown, points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tiles for JSON: three sagittal slices, then an axial one a level; `points` as `Shown.points` gives them."""
    listed = list(points)
    tiles = []
    for name, kind, side in _SAGITTAL:
        own = [point for point in listed if _belongs(point, kind, side)]
        tiles.append(_tile(shown, f"{SERIES_TITLES[kind]} · {name}", kind, own))
    for row, level in enumerate(LEVELS):
        own = [point for point in listed if point["row"] == row and _belongs(point, "axial_t2", None)]
        tiles.append(_tile(shown, f"{SERIES_TITLES['axial_t2']} · {level_title(level)}", "axial_t2", own))
    return tiles


def _belongs(point: dict[str, Any], kind: SeriesType, side: Side | None) -> bool:
    condition = ORDER[point["column"]]
    return KEYPOINT_SERIES[condition] == kind and (side is None or condition.startswith(side))


def _tile(shown: Shown, title: str, kind: SeriesType, points: list[dict[str, Any]]) -> dict[str, Any]:
    """The slice that most of the points lie on, with all of them; without points the middle one of a sagittal series.

    A point of another slice stands where its place in the patient falls on this one.
    """
    axial = kind == "axial_t2"
    if points:
        (series, instance), _ = Counter((point["series"], point["instance"]) for point in points).most_common(1)[0]
        placed = [point | _place(shown, series, instance, point) for point in points]
        x, y = middle(point["x"] for point in placed), middle(point["y"] for point in placed)
        ys = [point["y"] for point in placed]
        side = AXIAL_MM if axial else max(ys) - min(ys) + 2 * SAGITTAL_MARGIN_MM
    else:
        found = None if axial else next((one for one in shown.series if one["kind"] == kind), None)
        if found is None:
            reason = "no axial slice at this level" if axial else "no such series"
            return {"title": title, "series": None, "reason": reason}
        item = found["slices"][len(found["slices"]) // 2]
        series, instance, placed = found["id"], item["instance"], []
        x, y, side = item["wide"] / 2, item["tall"] / 2, max(item["wide"], item["tall"])
    return {
        "title": title,
        "series": series,
        "instance": instance,
        "box": [round(value, 2) for value in (x - side / 2, y - side / 2, side, side)],
        "points": [{**point, "text": _text(point, axial)} for point in placed],
    }


def _place(shown: Shown, series: str, instance: int, point: dict[str, Any]) -> dict[str, Any]:
    xy = shown.place(int(series), instance, point["mm"])
    assert xy is not None, "a slice that a point was shown on is shown"
    return {"series": series, "instance": instance, "x": xy[0], "y": xy[1]}


def _text(point: dict[str, Any], axial: bool) -> str:
    """What stands beside a mark: its level, on an axial slice, which is one level's, its side; and how sure it is."""
    name = point["name"][-1] if axial else level_title(LEVELS[point["row"]])
    return f"{name} {point['sureness']}"
