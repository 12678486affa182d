"""Random changes to training samples, drawn one sample at a time and applied to a whole batch on its device.

`draw` names every random number of one sample (so a sample's change depends on seed, epoch and index alone, whatever
the number of processes); `Warp` and `Filter` are torchvision v2 transforms that take images and their keypoints
together. Pixel coordinates are (column, row) with pixel centres at whole numbers. A new change is a field of
`recipe.augment.Augment`, a number in `draw`, and a step in `Warp` or `Filter`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lumbar.recipe.augment import Augment

Draw = dict[str, np.ndarray]
Size = tuple[int, int]  # height, width
KERNEL = 5  # pixels; sharpening and motion blur
SHADE = 4  # control points a side of the bias field
#: What a draw holds.
KEYS = ("matrix", "shift", "kernel", "order", "gamma", "noise", "shade", "coarse", "bands", "grain", "holes", "bend")
#: Steps towards the place that a bent picture shows a keypoint at; each leaves less than 0.7 of the way.
STEPS = 30


def draw(
    rng: np.random.Generator,
    augment: Augment,
    slices: int,
    *,
    shuffle: bool = True,
    columns: bool = False,
    rows: bool = False,
) -> Draw:
    """The random numbers of one image stack.

    `matrix` (2, 2) and `shift` (2,) (share of the image) move its content, `kernel` (5, 5) filters it, `order`
    (slices,) places its slices, `gamma` `noise` `shade` `coarse` change its intensities, `bands` (4,) darkens its top,
    bottom, left and right (share of the image), `grain` says where in a field its noise begins, `holes`
    (N, 4) are dark from top, left to bottom, right (shares), `bend` (4, 4, 2) moves places smoothly (shares, columns
    first). `shuffle` False keeps order; `columns` and `rows` turn the picture round.
    """
    order = np.arange(slices)
    if shuffle and rng.random() < augment.channel_shuffle_p:
        order = rng.permutation(slices)
    gamma = (1 + augment.gamma) ** rng.uniform(-1, 1)
    coarse = 1 - (augment.coarsen * rng.random() if rng.random() < 0.5 else 0)
    if augment.repeat_p and rng.random() < augment.repeat_p:
        order = np.full(slices, slices // 2)
    turned = np.diag([-1 if columns else 1, -1 if rows else 1]).astype(np.float32)
    drawn = {
        "matrix": _matrix(rng, augment) @ turned,
        "shift": rng.uniform(-augment.shift, augment.shift, 2).astype(np.float32),
        "kernel": _kernel(rng, augment.sharpen_or_blur_p),
        "order": order,
        "gamma": np.array(gamma, np.float32),
        "noise": np.array(augment.noise * rng.random(), np.float32),
        "shade": (augment.shading * rng.uniform(-1, 1, (SHADE, SHADE))).astype(np.float32),
        "coarse": np.array(coarse, np.float32),
        "bands": _bands(rng, augment.bands),
        "grain": np.array(rng.integers(2**31)),
    }
    return drawn | {"holes": _holes(rng, augment), "bend": _bend(rng, augment.distort)}


def _matrix(rng: np.random.Generator, augment: Augment) -> np.ndarray:
    turn = np.deg2rad(rng.uniform(-augment.rotate_deg, augment.rotate_deg))
    shear_x, shear_y = np.tan(np.deg2rad(rng.uniform(-augment.shear_deg, augment.shear_deg, 2)))
    if rng.random() < 0.5:  # shear along one axis at a time: both together would be a rotation again
        shear_x = 0.0
    else:
        shear_y = 0.0
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    zoom = 1 + rng.uniform(-augment.zoom, augment.zoom)
    stretched = np.diag(_stretch(rng, augment.stretch))
    return (zoom * rotation @ np.array([[1, shear_x], [shear_y, 1]]) @ stretched).astype(np.float32)


def _stretch(rng: np.random.Generator, most: float) -> tuple[float, float]:
    """Factors of width and height, one the inverse of the other: an image keeps its area."""
    factor = (1 + most) ** rng.uniform(-0.5, 0.5) if most else 1.0
    return factor, 1 / factor


def _bands(rng: np.random.Generator, widest: float) -> np.ndarray:
    """(4,) widths; each border has a band in half of the images that have any."""
    if not widest or rng.random() < 0.5:
        return np.zeros(4, np.float32)
    return (widest * rng.random(4) * (rng.random(4) < 0.5)).astype(np.float32)


def _holes(rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """(N, 4) holes, those that are not there empty; N is the same for every sample."""
    if not augment.holes_p:
        return np.zeros((0, 4), np.float32)
    middle, size = rng.random((augment.holes, 2)), augment.hole_size * rng.uniform(0.5, 1, (augment.holes, 2))
    there = (np.arange(augment.holes) < rng.integers(1, augment.holes + 1)) & (rng.random() < augment.holes_p)
    holes = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
    return (holes * there[:, None]).astype(np.float32)


def _bend(rng: np.random.Generator, most: float) -> np.ndarray:
    if not most or rng.random() < 0.5:
        return np.zeros((SHADE, SHADE, 2), np.float32)
    return (most * rng.uniform(-1, 1, (SHADE, SHADE, 2))).astype(np.float32)


def _kernel(rng: np.random.Generator, probability: float) -> np.ndarray:
    """(5, 5): identity, an unsharp mask of random strength, or motion blur along a random direction."""
    kernel = np.zeros((KERNEL, KERNEL), np.float32)
    middle = KERNEL // 2
    kernel[middle, middle] = 1
    if rng.random() >= probability:
        return kernel
    if rng.random() < 0.5:
        strength = rng.uniform(0.2, 0.5)
        blur = np.zeros_like(kernel)
        blur[middle - 1 : middle + 2, middle - 1 : middle + 2] = 1 / 9
        return (kernel + strength * 4 * (kernel - blur)).astype(np.float32)
    length, angle = rng.integers(3, KERNEL + 1), rng.uniform(0, np.pi)
    kernel[:] = 0
    for step in np.linspace(-(length - 1) / 2, (length - 1) / 2, 2 * KERNEL):
        row, column = round(middle + step * np.sin(angle)), round(middle + step * np.cos(angle))
        kernel[row, column] += 1
    return kernel / kernel.sum()


@functools.lru_cache(maxsize=8)
def _spread(side: int, device: torch.device) -> Tensor:
    """(side, SHADE): bicubic interpolation of a bias field's control points along one axis, as a matrix."""
    unit = torch.eye(SHADE, device=device)[None, None]
    return nnf.interpolate(unit, (side, SHADE), mode="bicubic", align_corners=True)[0, 0]


class Warp(v2.Transform):
    """Moves each image of a batch, and the keypoints on it, by its own matrix and shift; crops the middle to `size`.

    Content at offset d from the image's middle goes to matrix @ d + shift x size. What comes from outside the source
    repeats its border. Where `bend` (B, 4, 4, 2) is given, a place shows what lies so far off, in shares of `size`.
    """

    def __init__(self, matrix: Tensor, shift: Tensor, size: int | Size, bend: Tensor | None = None) -> None:
        super().__init__()
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.sides = torch.tensor([self.width, self.height], device=shift.device)  # columns first, as places are
        self.matrix, self.shift = matrix, shift * self.sides  # (B, 2, 2), (B, 2) px
        self.field = None if bend is None or not bool(bend.any()) else self._field(bend)

    def _field(self, bend: Tensor) -> Tensor:
        """(B, 2, height, width) px, columns first."""
        down, across = (_spread(side, bend.device) for side in (self.height, self.width))
        return down @ (bend * self.sides).movedim(-1, 1) @ across.T

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image batch (B, C, H, W) or keypoint batch (B, K, 2)."""
        if isinstance(inpt, tv_tensors.KeyPoints):
            return self._points(inpt)
        return self._images(inpt) if isinstance(inpt, tv_tensors.Image) else inpt

    def _points(self, points: tv_tensors.KeyPoints) -> tv_tensors.KeyPoints:
        height, width = points.canvas_size
        middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=points.device)
        own = points.as_subclass(Tensor) - middle
        moved = own @ self.matrix.transpose(1, 2) + self.shift[:, None] + (self.sides - 1) / 2
        for _ in range(STEPS if self.field is not None else 0):
            straight = own - self._bent(moved)
            moved = straight @ self.matrix.transpose(1, 2) + self.shift[:, None] + (self.sides - 1) / 2
        return tv_tensors.KeyPoints(moved, canvas_size=(self.height, self.width))

    def _bent(self, places: Tensor) -> Tensor:
        """How far off (B, K, 2) px lies what is shown at places (B, K, 2) px; NaN stays."""
        assert self.field is not None
        grid = ((places.nan_to_num() + 0.5) * 2 / self.sides - 1)[:, None]
        off = nnf.grid_sample(self.field, grid, padding_mode="border", align_corners=False)  # (B, 2, 1, K)
        return torch.where(places.isnan(), places, off[:, :, 0].movedim(1, 2))

    def _images(self, images: tv_tensors.Image) -> tv_tensors.Image:
        height, width = images.shape[-2:]
        across, down = (
            torch.arange(side, device=images.device, dtype=torch.float32) - (side - 1) / 2
            for side in (self.width, self.height)
        )
        offset = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).view(1, -1, 2) - self.shift[:, None]
        source = offset @ torch.linalg.inv(self.matrix).transpose(1, 2)
        if self.field is not None:
            source = source + self.field.flatten(2).movedim(1, 2)
        grid = source * torch.tensor([2 / width, 2 / height], device=images.device)
        out = nnf.grid_sample(
            images.as_subclass(Tensor),
            grid.view(-1, self.height, self.width, 2),
            padding_mode="border",
            align_corners=False,
        )
        return tv_tensors.Image(out)


class Filter(v2.Transform):
    """Sharpens, blurs, shades, coarsens, pads, adds noise to each image of a batch by its own numbers; points stay."""

    def __init__(self, numbers: dict[str, Tensor]) -> None:
        super().__init__()
        self.numbers = numbers

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image batch (B, C, H, W), standardised before and after."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        images = self._coarse(self._tones(self._kernels(inpt.as_subclass(Tensor))))
        images = self._pierced(self._darkened(images))
        if bool(self.numbers["noise"].any()):
            images = images.addcmul(self._grain(images), self.numbers["noise"].view(-1, 1, 1, 1))
        return tv_tensors.Image(images)

    def _kernels(self, images: Tensor) -> Tensor:
        kernels = self.numbers["kernel"]
        chosen = torch.nonzero(kernels[:, KERNEL // 2, KERNEL // 2] != 1).flatten()
        if not len(chosen):
            return images
        some = images[chosen]
        padded = nnf.pad(some.reshape(1, -1, *some.shape[-2:]), [KERNEL // 2] * 4, mode="replicate")
        weight = kernels[chosen].repeat_interleave(images.shape[1], 0)[:, None]
        out = images.clone()
        out[chosen] = nnf.conv2d(padded, weight, groups=len(weight)).view_as(some)
        return out

    def _tones(self, images: Tensor) -> Tensor:
        """Gamma and bias field, above each stack's darkest value; in one buffer, which is what costs on a CPU."""
        gamma, shade = self.numbers["gamma"].view(-1, 1, 1, 1), self.numbers["shade"]
        bends, shades = bool((gamma != 1).any()), bool(shade.any())
        if not (bends or shades):
            return images
        low, high = (value.view(-1, 1, 1, 1) for value in torch.aminmax(images.flatten(1), dim=1))
        raised = images - low
        if bends:
            span = (high - low).clamp_min(1e-6)
            raised.div_(span).clamp_min_(1e-6).pow_(gamma).mul_(span)
        if shades:
            rows, columns = (_spread(side, shade.device) for side in images.shape[-2:])
            raised.mul_((rows @ shade @ columns.T).exp_()[:, None])
        return raised.add_(low)

    def _grain(self, images: Tensor) -> Tensor:
        """Noise for a batch (B, C, H, W): one field, moved by another random way for each stack.

        Drawing a field for every stack takes a CPU longer than all the rest of the augmentation.
        """
        field = torch.randn_like(images[:1]).flatten()
        starts = (self.numbers["grain"] % len(field)).tolist()
        return torch.stack([field.roll(start) for start in starts]).view_as(images)

    def _darkened(self, images: Tensor) -> Tensor:
        """Bands as dark as the stack's darkest value."""
        bands = self.numbers["bands"]  # (B, 4)
        for index in torch.nonzero(bands.any(dim=1)).flatten().tolist():
            height, width = images.shape[-2:]
            top, bottom, left, right = (
                round(float(share) * side)
                for share, side in zip(bands[index], (height, height, width, width), strict=True)
            )
            inner = images[index, :, top : height - bottom, left : width - right].clone()
            images[index] = images[index].min()
            images[index, :, top : height - bottom, left : width - right] = inner
        return images

    def _pierced(self, images: Tensor) -> Tensor:
        """Holes as dark as the stack's darkest value."""
        holes = self.numbers["holes"]  # (B, N, 4)
        if not bool(holes.any()):
            return images
        down, across = ((torch.arange(side, device=holes.device) + 0.5) / side for side in images.shape[-2:])
        dark = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool, device=holes.device)
        for hole in holes.unbind(1):
            top, left, bottom, right = hole[:, :, None].unbind(1)
            dark |= ((down >= top) & (down < bottom))[:, :, None] & ((across >= left) & (across < right))[:, None]
        return torch.where(dark[:, None], images.amin((1, 2, 3), keepdim=True), images)

    def _coarse(self, images: Tensor) -> Tensor:
        coarse = self.numbers["coarse"]
        for index in torch.nonzero(coarse < 1).flatten().tolist():
            size = [max(8, round(side * float(coarse[index]))) for side in images.shape[-2:]]
            small = nnf.interpolate(images[index : index + 1], size, mode="bilinear", antialias=True)
            images[index : index + 1] = nnf.interpolate(small, images.shape[-2:], mode="bilinear")
        return images


def apply(
    images: Tensor,
    points: Tensor | None,
    numbers: dict[str, Tensor],
    size: int | Size,
    finish: Callable[[Tensor], Tensor] | None = None,
    *,
    padded: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """A batch of stacks (B, C, H, W) and keypoints (B, K, 2) px, changed by their draws and cut to (B, C, size, size).

    Stacks come back standardised, or as `finish` has them. Keypoints that are NaN stay NaN. `padded`: slices without
    contrast are empty ones, which no noise fills.
    """
    order = numbers["order"]  # (B, C)
    if bool((order.diff(dim=1) != 1).any()):
        images = images.gather(1, order.view(*images.shape[:2], 1, 1).expand_as(images))
    empty = images.amax((2, 3), keepdim=True) == images.amin((2, 3), keepdim=True) if padded else None
    image = tv_tensors.Image(images)
    spots = tv_tensors.KeyPoints(
        points if points is not None else images.new_zeros(len(images), 0, 2), canvas_size=tuple(images.shape[-2:])
    )
    change = v2.Compose([Warp(numbers["matrix"], numbers["shift"], size, numbers["bend"]), Filter(numbers)])
    with torch.autocast(images.device.type, enabled=False):
        image, spots = change(image, spots)
    changed = (finish or standardise)(image.as_subclass(Tensor))
    changed = changed if empty is None else changed.masked_fill(empty, 0.0)
    return changed, None if points is None else spots.as_subclass(Tensor)


def crop_middle(images: Tensor, size: int | Size, finish: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The middle (…, size, size) of (…, H, W), standardised, or as `finish` has it: what validation sees."""
    height, width = (size, size) if isinstance(size, int) else size
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return (finish or standardise)(images[..., top : top + height, left : left + width])


def standardise(images: Tensor) -> Tensor:
    """(x - mean) / std over the last three axes, population std; constant stacks become zero."""
    flat = images.flatten(-3)
    centred = flat - flat.mean(-1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / flat.shape[-1] ** 0.5
    return centred.div_(torch.where(deviation > 0, deviation, 1.0)).view(images.shape)
