"""What moved a network: how each pixel of a region bears on the severity of the region's own condition.

Integrated gradients (Sundararajan et al., 2017): the share of a pixel in how far the log odds of severe against normal
or mild lie from those of a grey region, which is 0 after standardisation. Log odds and several points on the way, since
the probability of a sure network hardly moves. Smoothed, since single pixels are noise. On the shipped networks the
maps with 3 points are as near to those of occlusion as with 8.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import cv2
import numpy as np
import torch
from torch import nn

from lumbar.compute.forward import in_halves
from lumbar.grading.grade import Row, batched, rows_of, speaks
from lumbar.grading.regions import Regions
from lumbar.grading.tasks import TASKS, Sample, task_of
from lumbar.labels import Condition
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW, View, own_views

#: Said in the report beside the maps.
METHOD: Final = "Integrated gradients of the log odds of severe, smoothed, mean over the networks that saw the region."
#: Points on the way from the grey region to the real one.
STEPS: Final = 3
#: Width of the smoothing Gaussian as a share of the region's side (3 mm of a 50 mm region).
SMOOTHING: Final = 1 / 16
#: Slice images that go through a network at once; what a backward pass remembers of each must fit the device.
IMAGES_AT_ONCE: Final = 64

Maps = Mapping[tuple[Condition, View, int], np.ndarray]


def graded_views(condition: Condition, spec: GraderSpec | None = None) -> tuple[View, ...]:
    """The views that are a condition's own: a reader's, and those of a task that answers nothing else; of a member
    whose spec names its views those on which it sees the condition, none of one that it is not asked about."""
    if spec is not None and spec.task is None:
        samples = [sample for sample in task_of(spec).samples if condition in sample.conditions]
        shown = [view for sample in samples for view in own_views(condition, sample.views)]
        return tuple(dict.fromkeys(shown))
    own = OWN_VIEW[condition]
    alone = [
        view
        for task in TASKS.values()
        for sample in task.samples
        if sample.conditions == (condition,)
        for view in sample.views
    ]
    return tuple(dict.fromkeys([own, *alone]))


def saliency(
    regions: Regions, members: Iterable[tuple[GraderSpec, nn.Module]], device: torch.device | str = "cpu"
) -> Maps:
    """Maps (T, H, W) float32 by (condition, view, level index) for the regions that a member graded.

    The members see these regions (equal `region_key`) and are in evaluation mode on `device`. Positive: the pixel
    raises the log odds of severe.
    """
    sums: dict[tuple[Condition, View, int], np.ndarray] = {}
    counts: dict[tuple[Condition, View, int], int] = {}
    for spec, network in members:
        for sample in task_of(spec).samples:
            rows = [row for row in rows_of(regions, spec) if row.sample is sample]
            for key, values in _of_sample(regions, spec, network, sample, rows, torch.device(device)):
                sums[key] = sums.get(key, 0) + values
                counts[key] = counts.get(key, 0) + 1
    return {key: _smooth(total / counts[key]) for key, total in sums.items()}


def _of_sample(
    regions: Regions,
    spec: GraderSpec,
    network: nn.Module,
    sample: Sample,
    rows: Sequence[Row],
    device: torch.device,
) -> Iterable[tuple[tuple[Condition, View, int], np.ndarray]]:
    images = sum(spec.region_of(view).slices for view in sample.views) * (len(rows[0].levels) if rows else 1)
    at_once = max(IMAGES_AT_ONCE // images, 1)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        shares = in_halves(partial(_attributions, network), batched(part, spec), device)
        of_view = dict(zip(sample.views, shares.values(), strict=True))
        for place, condition in enumerate(sample.conditions):
            for view in graded_views(condition, spec):
                if view not in sample.views:
                    continue
                for row, one in enumerate(part):
                    for number, level in enumerate(one.levels):
                        if regions.present[view][level] and speaks(regions, spec, sample, condition, level):
                            yield (condition, view, level), of_view[view][row, place, number].float().cpu().numpy()


def _attributions(
    network: nn.Module, views: Mapping[str, torch.Tensor], seen: torch.Tensor
) -> Mapping[str, torch.Tensor]:
    """Integrated gradients (B, conditions, L, T, H, W) by view of every condition's log odds.

    Views are (B, L, T, C, H, W). Where a network sees five levels, a level's region is asked for the odds of all five.
    """
    total: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        grey = {name: (view * ((step + 0.5) / STEPS)).requires_grad_(True) for name, view in views.items()}
        # cuDNN's recurrent layers go back in training mode only, which would switch dropout and batch statistics on.
        with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
            logits = network(grey, seen)  # (B, L, conditions, 3)
            odds = logits[..., -1] - logits[..., 0]
            count = odds.shape[2]
            gradients = [
                torch.autograd.grad(odds[:, :, place].sum(), list(grey.values()), retain_graph=place + 1 < count)
                for place in range(count)
            ]
        for name, each in zip(grey, zip(*gradients, strict=True), strict=True):
            total[name] = total.get(name, 0) + torch.stack(each, dim=1)
    return {name: (total[name] / STEPS * view[:, None]).sum(dim=-3) for name, view in views.items()}


def _smooth(values: np.ndarray) -> np.ndarray:
    width = SMOOTHING * values.shape[-1]
    return np.stack([cv2.GaussianBlur(one, (0, 0), width) for one in values.astype(np.float32)])
