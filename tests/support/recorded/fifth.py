"""The fifth place's recorded networks as specs of ours."""

import re
from typing import Any

import numpy as np
import torch

from lumbar.grading.tasks import task_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from tests.support.recorded.record import Adapter, Ours, Record

#: Deep networks of other builds of torch differ by so much.
_DEEP = 1e-4


def _pointer(record: Record) -> Ours | None:
    """A U-Net on every slice times a score of the slice, by either pointer."""
    transformer = record.ctor.get("sequence", "LSTM") != "LSTM"
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
            "pointer": "transformer" if transformer else "lstm",
            "pointer_hidden": record.ctor["hidden_size"],
        },
    )
    names = {
        "encoder.model.": "segmenter.extracter.",
        "decoder.": "segmenter.decoder.",
        "maps.": "segmenter.head.",
        "pointer_encoder.model.": at,
        **(_ROBERTA if transformer else {"along.lstm.": "pointer.rnn."}),
        "along.head.": "pointer.out.",
    }
    unused = ("pointer.transformer.pooler.", *_WORDS) if transformer else ("pointer.dense.",)
    attention = f"{_LAYER}attention.self."
    return Ours(
        spec,
        names,
        lambda arrays: _emptied(arrays[0], str(record.content["inputs"])),
        lambda found, told: [(found[..., ::8, ::8], told["output"]), (found.max((2, 3, 4)), told["peak"])],
        # of an encoder that is used in part the rest is recorded, too
        unused=(*unused, *(("segmenter.extracter.",) if deep < 5 else ())),
        tolerance=_DEEP,
        joined={
            f"along.attention.{leaf}": tuple(f"{attention}{each}.{leaf}" for each in ("query", "key", "value"))
            for leaf in (("weight", "bias") if transformer else ())
        },
        made={"along.places": _places} if transformer else {},
    )


_EMBEDDINGS = "pointer.transformer.embeddings."
_LAYER = "pointer.transformer.encoder.layer.0."
#: What one vector a place holds of ours.
_WORDS = (f"{_EMBEDDINGS}position_embeddings.", f"{_EMBEDDINGS}token_type_embeddings.")
_ROBERTA = {
    "along.into.": "pointer.dense.",
    "along.norm_places.": f"{_EMBEDDINGS}LayerNorm.",
    "along.norm_attention.": f"{_LAYER}attention.LayerNorm.",
    "along.norm_forwards.": f"{_LAYER}intermediate.LayerNorm.",
    "along.attention.": f"{_LAYER}attention.self.query.",
    "along.out.": f"{_LAYER}attention.output.dense.",
    "along.forwards.0.": f"{_LAYER}intermediate.dense.",
    "along.forwards.2.": f"{_LAYER}output.dense.",
    "along.norm.": "pointer.transformer.LayerNorm.",
    "along.places": f"{_EMBEDDINGS}position_embeddings.weight",
}


def _places(record: Record) -> np.ndarray:
    """The vectors of the places in a stack: RoBERTa counts from two, and all words are of the first type."""
    places, types = (record.weight(f"{words}weight") for words in _WORDS)
    found: np.ndarray = places[2 : 2 + record.inputs()[0].shape[1]] + types[0]
    return found


#: How the recorded versions of the grader are called here; of records without a version the first.
_SEQUENCES = {1: "features", 2: "skip", 3: "slices"}
_CONDITIONS, _LEVELS = 5, 5


def _grader(record: Record) -> Ours:
    """25 crops of a study, in label order: canal, left and right foramen, left and right recess, five levels each."""
    (crops,) = record.inputs()
    version = int(record.ctor.get("version", 1))
    spec = GraderSpec(
        task="global",
        levels="all",
        network="condition_sequence",
        backbone=record.backbone(),
        image_size=crops.shape[-1],
        slices=crops.shape[2],
        network_args={"sequence": _SEQUENCES[version]},
    )
    views = task_of(spec).samples[0].views
    names = {"encoders.0.": "cnn.", "along.": "rnn1.", "pool.score.": "pooler.fc.", "across.": "rnn2."}
    names |= {f"heads.{at}.": f"out{at + 1}." for at in range(3)}

    def called_with(arrays: list[np.ndarray]) -> Any:
        bright = np.linspace(0.5, 1.5, arrays[0].shape[1]).astype(np.float32)
        each = (arrays[0] * bright[:, None, None, None]).reshape(-1, _CONDITIONS, _LEVELS, *crops.shape[2:])
        named = {view: torch.from_numpy(each[:, place][:, :, :, None].copy()) for place, view in enumerate(views)}
        return named, torch.ones(len(each), _LEVELS, len(views), dtype=torch.bool)

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        def in_label_order(values: np.ndarray) -> np.ndarray:  # ours: level by level
            return values.reshape(_LEVELS, _CONDITIONS, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)

        slices = found["encoders.0.backbone"].reshape(_LEVELS * _CONDITIONS, -1, found["encoders.0.backbone"].shape[-1])
        scores = np.exp(found["pool.score"][..., 0])
        pooled, weights = found["pool"][:, ::8], scores / scores.sum(-1, keepdims=True)
        if version != 3:  # which the record has level by level, too
            pooled, weights = in_label_order(pooled), in_label_order(weights)
        return [
            (found["severity"].swapaxes(1, 2).reshape(told["logits"].shape), told["logits"]),
            (in_label_order(slices)[..., ::16].reshape(told["cnn"].shape), told["cnn"]),
            (weights, told["attention"]),
            (pooled, told["pooled"]),
        ]

    unused = ("rnn2.",) if version == 3 else ()
    watched = ("encoders.0.backbone", "pool", "pool.score")
    return Ours(spec, names, called_with, pairs, unused=unused, tolerance=_DEEP, watched=watched)


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
    r"CustomModel ": _grader,
}
