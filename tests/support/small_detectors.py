"""Small detectors of every network, for the tests of what networks keep and refuse."""

from typing import Any

from lumbar.recipe.detector import DetectorSpec

RESNET = {"encoder": "tu-resnet18", "encoder_args": {"channels": [8, 8, 16, 16]}}
CONVNEXT = {"encoder": "convnext_atto", "encoder_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}}
DECODER = {"decoder_channels": [16, 16, 8, 8, 8]}
HEAD = {"neck": 16, "head": 16}
DEEPLAB = {"decoder_channels": 16, "decoder_aspp_dropout": 0.0}
VOLUMES = {
    "network": "convnext3d",
    "place": "whole",
    "in_chans": 9,
    "image_size": 32,
    "network_args": {"widths": [8, 16, 16], "depths": [1, 2, 1]},
}
INFLATED = {"network": "regressor", "answer": "points", "depth": True, "place": "whole", "image_size": 32}


def spec_of(series_type: str, backbone: dict[str, Any] = RESNET, **fields: Any) -> DetectorSpec:
    """A small detector."""
    return DetectorSpec(**{"series_type": series_type, "image_size": 64, **backbone, **fields})
