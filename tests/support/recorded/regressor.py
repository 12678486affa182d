"""Recorded networks whose cells, pooled, give points: the sixth and the seventh place's."""

import numpy as np

from lumbar.recipe.detector import DetectorSpec
from tests.support.recorded.record import Ours, Record, sigmoid


def regressor(record: Record, head: str, encoder: str, output: str, scale: float = 1.0) -> Ours:
    array, points = record.inputs()[0], record.keys[f"{head}weight"][0] // 2
    images = array if array.ndim == 4 else array[:, None]
    pool = record.ctor.get("pooling", "avg")
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="regressor",
        answer="points",
        encoder=record.backbone(),
        in_chans=images.shape[1],
        num_classes=points,
        image_size=images.shape[-1],
        network_args={"pool": pool},
    )
    return Ours(
        spec,
        {"head.": head, "encoder.": encoder},
        lambda arrays: (arrays[0] if arrays[0].ndim == 4 else arrays[0][:, None]) / np.float32(scale),
        lambda found, told: [(found.reshape(len(found), -1), sigmoid(told[output]))],
    )
