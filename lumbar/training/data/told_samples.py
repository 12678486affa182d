"""What a second level learns from: what its first level says of every slice, of studies that this had not seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

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
        with safe_open(self._path(row[0]), "np") as file:
            out |= {numbered(TOLD, place): file.get_tensor(name) for place, name in enumerate(names)}
        return out | {"study": np.int64(row[0])}


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
