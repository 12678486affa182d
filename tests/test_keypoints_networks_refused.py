"""Detectors that cannot be built, or do not give what they are asked for."""

import pytest

from lumbar.issues import InputError
from lumbar.keypoints.networks.registry import build_detector
from lumbar.recipe.detector import DetectorSpec
from tests.support.small_detectors import CONVNEXT, INFLATED, VOLUMES


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "unknown"}, "unknown detector network 'unknown'; known: .*deeplabv3plus"),
        ({"encoder": "resnet999"}, "deeplabv3plus cannot be built on encoder 'resnet999'"),
        ({"encoder": "tu-resnet999"}, "cannot be built on encoder 'tu-resnet999'"),
        ({"encoder_args": {"channels": [8]}}, "takes no encoder_args .*; use timm's, 'tu-resnet34'"),
        ({"encoder": "tu-hf-hub:someone/model"}, "names a place to load from"),
        ({"encoder": "tu-resnet18", "encoder_args": {"checkpoint_path": "x.pth"}}, "'checkpoint_path'.* leave it out"),
        ({"network_args": {"encoder_weights": "imagenet"}}, "'encoder_weights'.* leave it out"),
        ({"encoder": "tu-resnet18", "encoder_args": {"channels": [8, 16]}}, "cannot be built on encoder 'tu-resnet18'"),
        ({"network_args": {"colour": 1}}, "takes no network_args 'colour'; known: .*decoder_channels"),
        (
            {**INFLATED, "encoder": "vit_tiny_patch16_224", "network_args": {"volume": True}},
            "'vit_tiny_patch16_224' cannot be inflated .* its layer patch_embed is a PatchEmbed, which knows rows",
        ),
        (
            {**INFLATED, "encoder": "inception_v3", "network_args": {"volume": True}},
            "its layer Mixed_6b.branch7x7_2.conv is 1 x 7 and has no third size; name another",
        ),
        (
            {**INFLATED, **CONVNEXT, "in_chans": 7, "network_args": {"volume": True}},
            "inflated, (leaves nothing|cannot take volumes) of 7 slices of 32 px; give it",
        ),
        (
            {**INFLATED, "encoder": "densenet121", "in_chans": 8, "network_args": {"volume": True}},
            "'densenet121', inflated, cannot take volumes of 8 slices of 32 px; give it larger ones",
        ),
        (
            {"network": "level_scores", "answer": "slices", "num_classes": 2},
            "for names of all levels; give num_classes 5, or twice as many",
        ),
        ({"network": "regressor"}, "'regressor' answers points, not heatmaps"),
        (
            {"network": "level_scores", "answer": "slices", "canal_distances": True},
            "'level_scores' knows nothing of canal_distances; leave the key out, or name slice_scores",
        ),
        ({"network": "pointer"}, "'pointer' answers heatmaps with depth = true, not heatmaps;"),
        (
            {"network": "pointer", "depth": True, "encoder": "tu-resnet18", "network_args": {"pointer": "gru"}},
            "pointer = 'gru' is no sequence of slices; give lstm or transformer",
        ),
        (
            {
                "network": "pointer",
                "depth": True,
                "encoder": "tu-resnet18",
                "network_args": {"pointer": "transformer", "pointer_hidden": 18},
            },
            "pointer_hidden = 18 cannot be shared by 4 heads",
        ),
        ({"network": "unet", "answer": "boxes"}, "'unet' answers heatmaps, not boxes"),
        ({**VOLUMES, "answer": "points"}, "'convnext3d' answers slices or points with depth = true, not points;"),
        (
            {**VOLUMES, "answer": "slices", "in_chans": 7},
            "3 stages halve 7 slices of 32 px to nothing; give in_chans = 8",
        ),
        (
            {**VOLUMES, "answer": "slices", "network_args": {"widths": [8, 8], "depths": [1]}},
            "must tell of the same stages",
        ),
        (
            {**VOLUMES, "answer": "slices", "network_args": {"widths": [8, 0]}},
            "widths = .* give a list of whole numbers, 1 or more",
        ),
        ({"network": "unet", "stride": 4}, "'unet' gives maps of stride 1"),
        ({"network": "unet_head", "stride": 2, "encoder": "resnet18"}, "'unet_head' gives maps of stride 1"),
        (
            {"network": "unet_head", "encoder": "resnet18", "network_args": {"channels": [8, 8]}},
            "'resnet18' has 5 maps, and network_args channels tells of 2",
        ),
        (
            {"network": "unet", "network_args": {"severities": 0.5}},
            "severities = 0.5 cannot be used; give a whole number",
        ),
        ({"network": "frames"}, "'frames' answers points, not heatmaps"),
        (
            {"network": "slice_scores", "answer": "slices", "network_args": {"along": "gru"}},
            'along = \'gru\' cannot be used; give "lstm" or "transformer" or "alone"',
        ),
        (
            {"network": "slice_scores", "answer": "slices", "network_args": {"heads": 2}},
            "'heads' is nothing of along = \"lstm\"; leave it out",
        ),
        (
            {
                "network": "slice_scores",
                "answer": "slices",
                "encoder": "resnet18",
                "network_args": {"along": "transformer", "heads": 7},
            },
            "gives 512 features, which 7 heads cannot share; set heads",
        ),
        (
            {"network": "centernet", "stride": 16, "encoder_args": {"output_stride": 8}},
            "no level of stride 16; give one",
        ),
        (
            {"network": "slice_scores", "answer": "slices", "network_args": {"x": 1}},
            "no network_args 'x'; known: along",
        ),
        (
            {"network": "regressor", "answer": "points", "network_args": {"pool": "max"}},
            "pool = 'max' is no way to pool",
        ),
        ({"network": "regressor", "answer": "points", "encoder": "resnet999"}, "timm cannot build encoder 'resnet999'"),
        ({"network": "regressor", "answer": "points", "encoder": "hf-hub:a/b"}, "names a place to load from"),
    ],
)
def test_detectors_that_cannot_be_built_or_do_not_give_what_is_asked_are_refused_in_one_sentence(fields, words):
    with pytest.raises(InputError, match=words):
        build_detector(DetectorSpec(series_type="sagittal_t2", **fields))
