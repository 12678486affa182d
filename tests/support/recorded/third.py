"""The third place's recorded networks as specs of ours."""

import timm

from lumbar.recipe.detector import DetectorSpec
from tests.support.recorded.record import Adapter, Ours, Record, first, sigmoid


def _centernet(record: Record) -> Ours:
    keys = record.keys
    levels = 1 + len({key.split(".")[2] for key in keys if key.startswith("neck.upsample_conv.")})
    encoder = record.backbone()
    reductions = timm.create_model(encoder, features_only=True).feature_info.reduction()
    classes, side = keys["head.2.weight"][0], record.inputs()[0].shape[-2]
    spec = DetectorSpec(
        series_type="axial_t2" if classes <= 2 else "sagittal_t2",
        network="centernet",
        encoder=encoder,
        in_chans=record.inputs()[0].shape[1],
        num_classes=classes,
        image_size=side,
        stride=reductions[-levels],
        network_args={"neck": keys["neck.last.0.weight"][0], "head": keys["head.0.weight"][0]},
    )
    names = {
        "encoder.": "backbone.",
        "neck.lateral.": "neck.lateal_conv.",
        "neck.upwards.": "neck.upsample_conv.",
        "neck.": "neck.",
        "head.": "head.",
    }
    return Ours(spec, names, first, lambda found, told: [(found, sigmoid(told["logits"]))])


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"third_kp_": _centernet,
}
