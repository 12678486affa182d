"""What a second level learns from: what its first level says of every slice, of studies that this had not seen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from lumbar.bundle.network import example
from lumbar.recipe.views import View
from lumbar.training.data.layout import TOLD, numbered
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_samples import RegionSamples, Row


class ToldSamples(RegionSamples):
    """Stage 2: the severities of all levels beside answers of slices.

    Files hold, for each view, `<view>` (1, slices, numbers) float32, see `write_told`, and `<view>/present` (5,).
    """

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """`told` (1, slices, numbers) of each view, `seen` (1, V), `labels` (5, conditions), `level` (5,), `study` ();
        nothing is drawn."""
        row: Row = tuple(int(value) for value in self.rows[index])  # type: ignore[assignment]
        names = self.task.samples[row[2]].views
        present = self.present[row[0]][row[3]]
        out: dict[str, Any] = {"seen": np.array([[bool(present[name].any()) for name in names]])}
        out |= {"labels": self._labels(row, mirrored=False), "level": np.array(self._levels(row[1]))}
        if self.soft is not None:
            out["soft"] = self._targets(row, mirrored=False)
        out |= {numbered(TOLD, place): told for place, told in enumerate(self._told(row[0], names))}
        return out | {"study": np.int64(row[0])}

    def _told(self, study: int, names: Sequence[View]) -> list[np.ndarray]:
        with safe_open(self._path(study), "np") as file:
            return [file.get_tensor(name) for name in names]


class BlankTold(ToldSamples):
    """The same of studies that nobody was asked about yet, zeros in place of answers: to see what steps will take."""

    def __init__(self, samples: RegionSamples, network: nn.Module) -> None:
        """`samples` of the first level; `network`: the second level's."""
        vars(self).update(vars(samples))
        told = network.told(example(self.spec, next(network.parameters()).device)[0])  # type: ignore[operator]
        self.shapes = [tuple(value.shape[1:]) for value in told.values()]

    def _told(self, study: int, names: Sequence[View]) -> list[np.ndarray]:
        return [np.zeros(shape, np.float32) for shape in self.shapes]


def write_told(
    samples: RegionSamples,
    index: int,
    network: nn.Module,
    inputs: Callable[[dict[str, torch.Tensor]], Any],
    device: torch.device,
    path: Path,
    source: str,
) -> None:
    """Write what a network in evaluation mode says of the slices of a study, a sample as validation sees it.

    `inputs`: what the network takes of a batch.
    """
    study, _, _, series = (int(value) for value in samples.rows[index])
    batch = torch.utils.data.default_collate([samples.sample(index, None)])
    views, _ = inputs({name: value.to(device) for name, value in batch.items()})
    with torch.inference_mode():
        told = network.told(views)  # type: ignore[operator]
    arrays = {str(name): value[0].float().cpu().numpy() for name, value in told.items()}
    arrays |= {f"{name}/present": here for name, here in samples.present[study][series].items()}
    write_arrays(path, arrays, source=source)
