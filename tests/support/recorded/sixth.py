"""The sixth place's recorded networks as specs of ours."""

from typing import Any

import numpy as np
import torch

from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec
from tests.support.recorded.record import Adapter, Ours, Record
from tests.support.recorded.regressor import regressor


def _own(record: Record) -> Ours:
    """Level points from a flattened map, or severities along the slices of a series."""
    if "head_3d" not in record.ctor:
        return regressor(record, "logits.", "encoder.", "logits")
    sides, frames = record.ctor["head_3d"] == "lstm_side", record.inputs()[0]
    spec = GraderSpec(
        views=("sagittal_series",) if sides else ("sagittal_t2",),
        conditions=CONDITIONS if sides else CONDITIONS[:1],
        network="lstm",
        backbone=record.backbone(),
        image_size=frames.shape[-1],
        slices=frames.shape[1],
        region={"neighbours": True},
        network_args={"sides": sides, "delta": record.ctor["delta"]},
    )
    view = spec.views[0]

    def called_with(arrays: list[np.ndarray]) -> Any:
        shown = torch.from_numpy(np.abs(arrays[0])).repeat(1, 1, 3, 1, 1)  # the channels are alike
        return {view: shown[:, None]}, torch.ones(len(shown), 1, 1, dtype=torch.bool)

    names = {"encoders.0.backbone.": "encoder."}
    for place, part in enumerate(("_center", "_left", "_right") if sides else ("",)):
        names |= {f"encoders.0.along.{place}.lstm.": f"lstm{part}.", f"heads.{place}.": f"logits{part}."}
    return Ours(spec, names, called_with, lambda found, told: [(found.reshape(1, -1), told["logits"])])


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"ClsModel ": _own,
    r"Net \(mdl_dh_4a2\)": lambda record: regressor(record, "head.", "backbone.", "logits", 255.0),
}
