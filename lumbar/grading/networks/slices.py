"""Slices of many stacks through one backbone."""

import torch
from torch import nn


def slice_features(backbone: nn.Module, stacks: torch.Tensor, at_once: int | None = None) -> torch.Tensor:
    """(N, T, H, W) stacks of one-channel slices → (N, T, F): the backbone's pooled features of every slice.

    `at_once`: how many slices the backbone gets at a time (None: all); it treats each by itself.
    """
    N, T, H, W = stacks.shape
    parts = stacks.reshape(N * T, 1, H, W).split(at_once or N * T)
    return torch.cat([backbone(part) for part in parts]).reshape(N, T, -1)
