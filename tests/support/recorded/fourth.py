"""The fourth place's recorded networks as specs of ours."""

from lumbar.recipe.detector import DetectorSpec
from tests.support.recorded.record import Adapter, Ours, Record, first


def _unet(record: Record) -> Ours:
    shape = record.inputs()[0].shape
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="unet",
        encoder=record.backbone().partition(".")[0],
        in_chans=shape[1],
        num_classes=record.ctor["classes"],
        image_size=shape[-1],
    )
    return Ours(
        spec,
        {"": ""},
        first,
        lambda found, told: [(found[:, :, ::8, ::8], told["heatmap"]), (found.max((2, 3)), told["maxima"])],
        unused=("classification_head.",),
        tolerance=5e-4,
    )


def _slice_scores(record: Record) -> Ours:
    shape, keys = record.inputs()[0].shape, record.keys
    spec = DetectorSpec(
        series_type="axial_t2",
        network="slice_scores",
        answer="slices",
        place="whole",
        encoder=record.backbone().partition(".")[0],
        in_chans=shape[1],
        num_classes=keys["fc.4.weight"][0],
        image_size=shape[-1],
        network_args={"layers": record.ctor["layer_num"], "hidden": keys["lstm.weight_hh_l0"][1]},
    )
    names = {"encoder.": "model.", "along.lstm.": "lstm.", "along.head.": "fc."}
    return Ours(
        spec,
        names,
        first,
        lambda found, told: [(found.transpose(0, 2, 1), told["logits"])],
        unused=tuple(record.content.get("kept_as_built", ())),
    )


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"smp\.Unet": _unet,
    r"AxialModel ": _slice_scores,
}
