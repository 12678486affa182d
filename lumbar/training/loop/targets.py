"""What a detector is taught: a Gaussian around every keypoint, as tensors."""

import torch
from torch import Tensor


def heatmaps(points: Tensor, size: int, sigma: float) -> Tensor:
    """Target maps (B, K, S, S): a Gaussian of peak 1 at each point (B, K, 2) px; all zero where it is missing (NaN) or
    outside the image."""
    axis = torch.arange(size, device=points.device, dtype=torch.float32)
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(-1)  # False for NaN
    safe = torch.where(inside[..., None], points, 0.0)
    across, down = (torch.exp(-((axis - safe[..., [k]]) ** 2) / (2 * sigma**2)) for k in (0, 1))  # (B, K, S)
    return down[..., :, None] * across[..., None, :] * inside[..., None, None]
