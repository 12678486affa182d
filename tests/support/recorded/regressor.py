"""Recorded networks whose cells, pooled, give points: the second, the sixth and the seventh place's."""

from typing import Any

import numpy as np

from lumbar.recipe.detector import DetectorSpec
from tests.support.recorded.record import Arrays, Ours, Record, sigmoid


def regressor(record: Record, head: str, encoder: str, output: str, scale: float = 1.0) -> Ours:
    """A network of the keys that begin with `head` and `encoder`, for images divided by `scale`."""
    array = record.inputs()[0]
    images = (array if array.ndim == 4 else array[:, None]) / np.float32(scale)
    return pooled_cells(record, images, {"head.": head, "encoder.": encoder}, output, record.ctor.get("pooling", "avg"))


def pooled_cells(
    record: Record, images: np.ndarray, names: dict[str, str], output: str, pool: str, means: str = "", **other: Any
) -> Ours:
    """A regressor that is called with `images` (B, C, H, W).

    `names`: beginnings of our keys → the record's. `output` and `means`: the record's names of the logits and, where
    they are compared, too, of the generalised means. `other`: as `Ours` has it.
    """
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="regressor",
        answer="points",
        encoder=record.backbone(),
        in_chans=images.shape[1],
        num_classes=record.keys[f"{names['head.']}weight"][0] // 2,
        image_size=images.shape[-1],
        network_args={"pool": pool},
    )
    watched = ("gem",) if means else ()

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        said = found["severity"] if watched else found
        pooled = [(found["gem"], told[means])] if means else []
        return [(said.reshape(len(images), -1), sigmoid(told[output])), *pooled]

    return Ours(spec, names, lambda _: images, pairs, watched=watched, **other)
