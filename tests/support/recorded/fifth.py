"""The fifth place's recorded networks as specs of ours."""

import re

import numpy as np

from lumbar.recipe.detector import DetectorSpec
from tests.support.recorded.record import Adapter, Ours, Record


def _pointer(record: Record) -> Ours | None:
    """Fifth place: a U-Net on every slice times a score of the slice."""
    if record.ctor.get("sequence", "LSTM") != "LSTM":
        return None
    told = str(record.ctor.get("segmenter", record.ctor.get("encoders"))).replace(",", " ").split()
    other = str(record.ctor.get("pointer", told[0]))
    deep = int(told[told.index("blocks") - 1]) if "blocks" in told else 5
    shape, keys = record.inputs()[0].shape, record.keys
    at = next(
        name for name in ("pointer.extractor.", "pointer.extracter.") if any(key.startswith(name) for key in keys)
    )
    spec = DetectorSpec(
        series_type="sagittal_t1",
        network="pointer",
        answer="heatmaps",
        depth=True,
        place="whole",
        points="series",
        encoder=f"tu-{told[0].removesuffix('_ns')}",
        in_chans=shape[1],
        num_classes=record.ctor["K"],
        image_size=shape[-1],
        network_args={
            "encoder_depth": deep,
            "decoder_channels": [256, 128, 64, 32, 16][:deep],
            "pointer_encoder": f"tu-{other}",
            "pointer_hidden": record.ctor["hidden_size"],
        },
    )
    names = {
        "encoder.model.": "segmenter.extracter.",
        "decoder.": "segmenter.decoder.",
        "maps.": "segmenter.head.",
        "pointer_encoder.model.": at,
        "along.lstm.": "pointer.rnn.",
        "along.head.": "pointer.out.",
    }
    return Ours(
        spec,
        names,
        lambda arrays: _emptied(arrays[0], str(record.content["inputs"])),
        lambda found, told: [(found[..., ::8, ::8], told["output"]), (found.max((2, 3, 4)), told["peak"])],
        # of an encoder that is used in part the rest is recorded, too
        unused=("pointer.dense.", *(("segmenter.extracter.",) if deep < 5 else ())),
        tolerance=5e-4,
    )


def _emptied(stacks: np.ndarray, rule: str) -> np.ndarray:
    """Stacks with the slices at zero that the rule for an input says are."""
    found = re.search(r"slices (\d+) and (\d+) of sample (\d+) set to zero", rule)
    stacks = stacks.copy()
    if found is not None:
        first, second, sample = map(int, found.groups())
        stacks[sample, [first, second]] = 0
    return stacks


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"DetectModel ": _pointer,
}
