"""Mixing of training samples with partners: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019).

The partner of a sample, its share and the box are named by (seed, epoch, sample), and the data set loads both. So a
sample is mixed alike in any batch and in any number of processes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from lumbar.compute.forward import mapped
from lumbar.labels import SIDES
from lumbar.recipe.augment import Augment

Batch = dict[str, Tensor]
Sample = Callable[[int, np.random.Generator], dict[str, Any]]
#: Before the partner's names in a batch.
PARTNER: Final = "partner/"
SHARE, BOX = "mix/share", "mix/box"
#: Which side of a sample is its partner's, where recipes mix sides: 0 none, else a place in `SIDES`, from 1.
SIDE: Final = "mix/side"
#: Names these draws beside a sample's own.
_WORD: Final = 0x6D6978


def with_partner(
    own: dict[str, Any], load: Sample, count: int, words: tuple[int, int, int], augment: Augment
) -> dict[str, Any]:
    """A sample with its partner's arrays, the share that stays its own and the box that does not.

    `words`: seed, epoch and the sample's index, one of `count`. A sample that is not mixed is its own partner.
    """
    rng = np.random.default_rng([*words, _WORD])
    share, box, partner, side = 1.0, np.zeros(4, np.float32), own, 0
    first = rng.random() < augment.mix_p
    if first or (augment.mixup_p and rng.random() < augment.mixup_p):
        place = int(rng.integers(count))
        share = float(rng.beta(augment.mix_alpha, augment.mix_alpha))
        partner = load(place, np.random.default_rng([*words, _WORD, place]))
        if first and augment.mix == "cutmix":
            box = draw_box(rng, share, augment)
        if first and augment.mix == "sides":
            share, side = 1.0, 1 + int(rng.integers(len(SIDES)))
    drawn: dict[str, Any] = {SHARE: np.float32(share), BOX: box}
    if augment.mix == "sides":
        drawn[SIDE] = np.int64(side)
    return own | {PARTNER + name: value for name, value in partner.items()} | drawn


def draw_box(rng: np.random.Generator, share: float, augment: Augment) -> np.ndarray:
    """(4,) top, left, bottom, right in shares of the picture: a box of the area 1 - share around any place, cut where
    it leaves the picture; of features a run of slices, as top and bottom."""
    if augment.mix_on == "features":
        start = rng.uniform(0, share)
        return np.array([start, 0, start + 1 - share, 1], np.float32)
    half = np.sqrt(1 - share) / 2
    middle = rng.random(2)
    return np.concatenate([middle - half, middle + half]).clip(0, 1).astype(np.float32)


def partner_of(batch: Batch) -> Batch | None:
    """The batch of partners; None where nothing is mixed."""
    found = {name.removeprefix(PARTNER): value for name, value in batch.items() if name.startswith(PARTNER)}
    return found or None


def inside(box: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows, columns): which pixels have their middle in the box (B, 4), see `draw_box`."""
    across, down = (
        (torch.arange(count, device=box.device, dtype=box.dtype) + 0.5) / count for count in (columns, rows)
    )
    top, left, bottom, right = box[:, :, None].unbind(1)  # (B, 1) each
    return ((down >= top) & (down < bottom))[:, :, None] & ((across >= left) & (across < right))[:, None]


def images(own: Tensor, other: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pictures (B, …, H, W) mixed with the partners' by the batch's draws, and the share (B,) that is their own."""
    share = batch[SHARE]
    wide = [-1] + [1] * (own.ndim - 1)
    if not bool(batch[BOX].any()):
        return torch.lerp(other, own, share.view(wide).to(own)), share
    mask = inside(batch[BOX], *own.shape[-2:])
    cut = mask.view(len(own), *[1] * (own.ndim - 3), *mask.shape[1:])
    kept = 1 - mask.float().mean((1, 2))
    return torch.where(cut, other, own), kept


def labels(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Targets (B, …) mixed by the share (B,) that is their own."""
    return torch.lerp(other, own, share.view(-1, *[1] * (own.ndim - 1)))


def runs(batch: Batch, slices: int) -> tuple[Tensor, Tensor]:
    """Which of the features of `slices` slices come from the partner, (B, slices), and the share (B,) that is own."""
    taken = inside(batch[BOX], slices, 1)[:, :, 0]
    cut = batch[BOX].any(1)
    return taken, torch.where(cut, 1 - taken.float().mean(1), batch[SHARE])


def of_side(side: Tensor, slices: int) -> Tensor:
    """(B, slices): which slices of a sagittal series, from the patient's right to left, are those of a `side` (B,); the
    middle one of an odd number is neither's."""
    places = torch.arange(slices, device=side.device)
    right, left = places < slices // 2, places >= slices - slices // 2
    own = [left if name == "left" else right for name in SIDES]
    return torch.stack([torch.zeros_like(right), *own])[side]


@contextmanager
def mixed_features(network: nn.Module, batch: Batch, slices: int) -> Iterator[None]:
    """Within, the features that every backbone gives for the first half of its samples are mixed with the second's.

    A network folds slices and views into the batch behind the sample, so that a backbone's rows are (sample, …, slice).
    `slices`: how many of them a view has.
    """
    taken, _ = runs(batch, slices)
    share, cut = batch[SHARE], batch[BOX].any(1)

    def mix(module: nn.Module, given: Any, features: Tensor) -> Tensor:
        folded = features.unflatten(0, (2 * len(share), -1))  # (2 B, rows, …)
        own, other = folded.tensor_split(2)
        rows = own.shape[1]
        wide = [*own.shape[:2], *[1] * (own.ndim - 2)]
        keep = share[:, None].to(own.dtype).expand(-1, rows)
        if bool(cut.any()):
            keep = torch.where(cut[:, None], (~taken.repeat(1, rows // slices)).to(own.dtype), keep)
        if SIDE in batch:
            half = of_side(batch[SIDE], slices)
            keep = torch.where(half.any(1, keepdim=True), (~half.repeat(1, rows // slices)).to(own.dtype), keep)
        blended = torch.lerp(other, own, keep.view(wide))
        return torch.cat([blended, other]).flatten(0, 1)

    hooks = [module.register_forward_hook(mix) for module in backbones(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def backbones(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that see single slices: by the house's custom they are called `backbone`."""
    return [module for name, module in network.named_modules() if name.rpartition(".")[2] == "backbone"]


def first_half(answer: Any) -> Any:
    """What a network says of the first half of its samples, whichever form its answer has."""
    return mapped(lambda value: value[: len(value) // 2], answer)
