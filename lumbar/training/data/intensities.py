"""Grey values of regions and stacks that were changed at random and cut, as they would be made."""

from collections.abc import Callable

import torch
from torch import Tensor

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.region import Region


def finish_of(region: Region) -> Callable[[Tensor], Tensor] | None:
    """What the last step makes of a batch (B, T, H, W); None: it is standardised.

    What is reckoned over the region is reckoned anew over what is left of it. What was reckoned over slices or series
    stays, since the values that changes lead to are seen as they are.
    """
    if region.plain:
        return None
    if region.scope != "crop":
        return _clipped if region.intensity != "standard" else _same
    low, high = (0.0, 1.0) if region.intensity == "minmax" else (share / 100 for share in region.percentiles)

    def stretched(images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if region.intensity == "minmax":
            least, most = (value[:, None] for value in torch.aminmax(flat, dim=1))
        else:
            least, most = (torch.quantile(flat, share, dim=1)[:, None] for share in (low, high))
        span = most - least
        scaled = ((flat - least) / span.clamp_min(1e-6)).clamp(0, 1) * 2 - 1
        return torch.where(span > 0, scaled, torch.zeros_like(flat)).view_as(images)

    return stretched


def finish_of_stacks(spec: DetectorSpec) -> Callable[[Tensor], Tensor] | None:
    """The same of a detector's stacks (B, C, S, S): those that are not plain keep the values that changes lead to."""
    if spec.plain:
        return None
    return _same if spec.intensity == "standard" else _from_black


def _same(images: Tensor) -> Tensor:
    return images


def _clipped(images: Tensor) -> Tensor:
    return images.clamp(-1, 1)


def _from_black(images: Tensor) -> Tensor:
    return images.clamp(0, 1)
