"""Regions in `report.html`: where their boxes lie on the slices, and which pixels moved a network."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from lumbar.geometry import plane_distances, to_pixel
from lumbar.grading.regions import cut_regions
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import VIEWS
from lumbar.report.html.regions import Seen, region_views
from lumbar.report.html.saliency import graded_views, saliency
from lumbar.report.html.slices import Shown
from tests.support.small_study import CANAL, small_study, turned, upside_down


def test_boxes_lie_in_the_same_place_whichever_way_a_network_sees_the_images() -> None:
    plain = small_study()
    crossed = small_study(**{kind: [turned(one, upside_down) for one in plain.series[kind]] for kind in plain.series})
    boxes = []
    for study, orientation in ((plain, "canonical"), (crossed, "canonical"), (crossed, "stored")):
        points = {("left_subarticular_stenosis", "l3_l4"): _on_axial(study, CANAL["l3_l4"])}
        spec = GraderSpec(task="subarticular", slices=3, preprocessing={"orientation": orientation})
        views = region_views([Seen(spec, cut_regions(study, points, spec), {})], Shown(study))
        region = next(one for one in views if one["title"] == "Axial T2, left")
        boxes.append([entry["box"] for entry in region["slices"]])
        assert region["map"] is None
    np.testing.assert_allclose(boxes[1], boxes[0], atol=0.02)
    np.testing.assert_allclose(boxes[2], boxes[0], atol=1.6)  # rounded from the other end, 1.5 mm pixels


def test_a_turned_box_is_drawn_as_it_lies_on_the_slice() -> None:
    study = small_study()
    points = {
        ("spinal_canal_stenosis", level): _on_sagittal(study, np.add(mm, (0, 3.0 * row, 0)))
        for row, (level, mm) in enumerate(CANAL.items())
    }
    drawn = {}
    for rotate in ("none", "canal"):
        region = {"box": "mm", "extent": (20, 40), "rotate": rotate}
        seen = {"views": ["sagittal_t2"], "conditions": ["spinal_canal_stenosis"]}
        spec = GraderSpec(**seen, network="attention", slices=3, region=region)
        cuts = cut_regions(study, points, spec)
        views = region_views([Seen(spec, cuts, {})], Shown(study))
        found = next(one for one in views if one["title"] == "Sagittal T2" and one["row"] == 2)
        drawn[rotate] = next(entry for entry in found["slices"] if entry)
        turn = cuts.cuts["sagittal_t2", LEVELS[2]].turn
    assert "corners" not in drawn["none"]
    corners = np.array(drawn["canal"]["corners"])
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    np.testing.assert_allclose(sides, [40, 20, 40, 20], atol=1.6)  # boxes end at whole pixels of 1.5 mm
    dx, dy = corners[1] - corners[0]
    assert abs(turn) > 0.05
    assert abs(np.arctan2(dy, dx) - turn) < 0.01
    x, y, wide, tall = drawn["canal"]["box"]
    np.testing.assert_allclose([corners.min(0), corners.max(0)], [[x, y], [x + wide, y + tall]], atol=0.02)


class Corner(nn.Module):
    """Severe where the left recess' second slice is bright in its top left corner, dark in its bottom right one."""

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        second = views["axial_left"][:, :, 1, 0]  # (B, L, H, W)
        z = second[..., :8, :8].mean(dim=(-2, -1)) - second[..., -8:, -8:].mean(dim=(-2, -1))
        return torch.stack([-z, torch.zeros_like(z), z], dim=-1)[:, :, None]


def test_a_map_shows_what_moved_the_network_which_way_and_on_which_slice() -> None:
    spec = GraderSpec(task="subarticular", image_size=32, slices=3)
    study = small_study()
    points = {("left_subarticular_stenosis", level): _on_axial(study, CANAL[level]) for level in ("l1_l2", "l3_l4")}
    regions = cut_regions(study, points, spec)
    regions.tensors["axial_left"][...] = 1.0
    maps = saliency(regions, [(spec, Corner())])
    assert set(maps) == {("left_subarticular_stenosis", "axial_left", level) for level in (0, 2)}
    found = maps["left_subarticular_stenosis", "axial_left", 2]
    assert found.shape == (3, 32, 32)
    assert not found[[0, 2]].any()
    assert found[1, 3, 3] > 0 > found[1, -4, -4]
    assert abs(found[1, 3, 28]) < 0.01 * found[1, 3, 3]


def _on_axial(study: Any, mm: np.ndarray) -> Any:
    return _on(study.series["axial_t2"][0], mm)


def _on_sagittal(study: Any, mm: np.ndarray) -> Any:
    return _on(study.series["sagittal_t2"][0], mm)


def _on(series: Any, mm: np.ndarray) -> Any:
    item = series.slices[int(np.argmin(plane_distances(series.affines, mm)))]
    x, y, _ = to_pixel(item.affine, mm)
    return SimpleNamespace(series_id=series.series_id, instance=item.instance, xy_px=(x, y), mm=tuple(mm))


def test_the_canal_is_graded_on_two_views_and_every_other_condition_on_its_own() -> None:
    assert graded_views("spinal_canal_stenosis") == ("sagittal_t2", "axial_middle")
    own = [graded_views(condition) for condition in CONDITIONS[1:]]
    assert [len(views) for views in own] == [1] * 4
    assert {view for views in own for view in views} < set(VIEWS)
