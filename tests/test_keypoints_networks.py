"""Detectors of every answer: what every network keeps, what it refuses, and what cannot be built."""

import itertools
from typing import Any

import pytest
import timm
import torch
from torch import nn

from lumbar.issues import InputError
from lumbar.keypoints.answers.registry import answer_of
from lumbar.keypoints.networks.convnext3d import DepthWise
from lumbar.keypoints.networks.gives import with_neighbours
from lumbar.keypoints.networks.inflated import inflate, inflated_weight
from lumbar.keypoints.networks.registry import build_detector
from lumbar.keypoints.networks.regressor import expected_place
from lumbar.keypoints.stacks import channel_names
from lumbar.recipe.detector import DetectorSpec
from tests.support.contract import DetectorContract, fixed_weights

RESNET = {"encoder": "tu-resnet18", "encoder_args": {"channels": [8, 8, 16, 16]}}
CONVNEXT = {"encoder": "convnext_atto", "encoder_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}}
DECODER = {"decoder_channels": [16, 16, 8, 8, 8]}
HEAD = {"neck": 16, "head": 16}
DEEPLAB = {"decoder_channels": 16, "decoder_aspp_dropout": 0.0}


def spec_of(series_type: str, backbone: dict[str, Any] = RESNET, **fields: Any) -> DetectorSpec:
    """A small detector."""
    return DetectorSpec(**{"series_type": series_type, "image_size": 64, **backbone, **fields})


class TestSmallDeepLab(DetectorContract):
    spec = spec_of("sagittal_t2", encoder_args={"channels": [8, 16, 16, 16]}, network_args=DEEPLAB)
    golden = [0.07394, 1.02, -0.44693, -0.26727, -1.05892, 0.24942]


class TestDeepLabOnTransformerStyleEncoder(DetectorContract):
    spec = spec_of("axial_t2", CONVNEXT, encoder="tu-convnext_atto", network_args=DEEPLAB, in_chans=3, num_classes=2)
    golden = [0.04711, 0.18772, 0.01519, 0.12317, 0.05878, 0.09242]


class TestUnetWithAMapForEveryConditionAndLevel(DetectorContract):
    spec = spec_of("sagittal_t1", network="unet", network_args=DECODER, in_chans=1, num_classes=25)
    golden = [-0.43047, 123.67301, -0.03054, 2.86605, -0.03054, 2.47852]


class TestUnetThatIsAskedForSeverities(DetectorContract):
    """The fourth place's axial keypoints, with its auxiliary head."""

    own = {**DECODER, "severities": 2}
    spec = spec_of("axial_t2", network="unet", network_args=own, in_chans=3, num_classes=2)
    golden = [-0.40144, 247.02266, -0.03054, 0.02632, -0.03054, 0.02632]

    def test_severities_are_said_in_training_only(self) -> None:
        network = build_detector(self.spec).train()
        said = network(self.images())
        assert {name: tuple(value.shape) for name, value in said.items()} == {
            "answer": (2, 2, 64, 64),
            "severity": (2, 2, 3),
        }
        assert isinstance(network.eval()(self.images()), torch.Tensor)


UNET_HEAD = {"network": "unet_head", "place": "whole", "network_args": {"channels": [24, 24, 12, 12, 12]}}


class TestUnetHead(DetectorContract):
    """The fourth place's on whole series, on an encoder whose finest map has half the size."""

    spec = spec_of("sagittal_t2", encoder="resnet10t", in_chans=6, **UNET_HEAD)
    golden = [0.48457, 0.22696, 0.47515, 0.47409, 0.47367, 0.50148]


class TestUnetHeadOfFourMaps(DetectorContract):
    """Whose finest map has a quarter of the size; of an image that no map divides."""

    spec = spec_of("sagittal_t1", CONVNEXT, image_size=72, in_chans=3, **UNET_HEAD)
    golden = [0.48735, 0.19728, 0.47558, 0.45896, 0.47558, 0.46745]


class TestUnetHeadWhereChannelsComeLast(DetectorContract):
    SWIN = {
        "encoder": "swinv2_cr_tiny_ns_224",
        "encoder_args": {"img_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    }
    spec = spec_of("sagittal_t2", SWIN, in_chans=2, **UNET_HEAD)
    golden = [0.49281, 0.03499, 0.47225, 0.47897, 0.46991, 0.471]


class TestFrames(DetectorContract):
    spec = spec_of("sagittal_t1", CONVNEXT, network="frames", answer="points", place="whole", in_chans=4)
    golden = [0.5278, 0.28172, 0.78628, 0.61955, 0.86542, 0.82526]

    def test_slices_without_contrast_have_no_say(self) -> None:
        network, stacks = fixed_weights(build_detector(self.spec)).eval(), self.images()
        stacks[:, 0], other = 0, stacks.clone()
        other[:, 0] = 7
        with torch.inference_mode():
            torch.testing.assert_close(network(stacks), network(other))
            assert not torch.allclose(network(stacks), network(self.images()))
            assert network(torch.zeros_like(stacks)).isfinite().all()


class TestFramesOfPointsWithSlices(DetectorContract):
    spec = spec_of("sagittal_t2", network="frames", answer="points", depth=True, in_chans=3)
    golden = [0.55132, 0.49329, 1.0, 0.0, 1.0, 0.99999]


class TestRegressor(DetectorContract):
    spec = spec_of("sagittal_t2", CONVNEXT, network="regressor", answer="points")
    golden = [0.48052, 0.19064, 0.25288, 0.34822, 0.28635, 0.30129]


class TestRegressorOfFeaturesWithoutTheHeadsNorm(DetectorContract):
    spec = spec_of(
        "axial_t2",
        CONVNEXT,
        network="regressor",
        answer="points",
        in_chans=1,
        num_classes=2,
        network_args={"pool": "features"},
    )
    golden = [0.49251, 0.34387, 0.94075, 0.12194, 0.69796, 0.31787]

    def test_the_encoder_has_no_norm_behind_its_last_stage(self) -> None:
        assert not [name for name, _ in build_detector(self.spec).encoder.named_parameters() if name.startswith("head")]


VOLUMES = {
    "network": "convnext3d",
    "place": "whole",
    "in_chans": 9,
    "image_size": 32,
    "network_args": {"widths": [8, 16, 16], "depths": [1, 2, 1]},
}


class TestVolumesOfSlices(DetectorContract):
    spec = DetectorSpec(series_type="sagittal_t1", answer="slices", points="series", num_classes=10, **VOLUMES)
    golden = [-0.00022, 0.32617, -0.16422, 0.23563, -0.28432, -0.61541]


class TestVolumesOfPoints(DetectorContract):
    spec = DetectorSpec(series_type="sagittal_t2", answer="points", depth=True, decode="slice", **VOLUMES)
    golden = [0.49807, 0.07884, 0.45904, 0.52698, 0.48382, 0.64101]


class TestVolumesOfTwoSeries(DetectorContract):
    spec = DetectorSpec(
        series_type="sagittal_t1", beside="sagittal_t2", answer="slices", points="series", num_classes=15, **VOLUMES
    )
    golden = [-0.00176, 0.30051, -0.46792, 0.28474, -0.06042, -0.21409]

    def images(self, batch: int = 2) -> torch.Tensor:
        return torch.cat([super().images(batch), super().images(batch) + 1], 1)


def test_volumes_are_convolved_as_conv3d_does_it_padded_at_the_end():
    torch.manual_seed(0)
    layer, volumes = DepthWise(4), torch.randn(2, 4, 5, 9, 8)
    padded = torch.nn.functional.pad(volumes, (3, 3, 3, 3, 0, 1))
    plain = torch.nn.functional.conv3d(padded, layer.weight, groups=4)
    torch.testing.assert_close(layer(volumes), plain, atol=1e-5, rtol=1e-5)


class TestRegressorOfAWholeMapAndSlices(DetectorContract):
    pooled = {"pool": "flatten"}
    spec = spec_of(
        "sagittal_t1", CONVNEXT, network="regressor", answer="points", depth=True, in_chans=7, network_args=pooled
    )
    golden = [0.50398, 0.02446, 0.49281, 0.46202, 0.47503, 0.51649]


INFLATED = {"network": "regressor", "answer": "points", "depth": True, "place": "whole", "image_size": 32}


class TestRegressorOfVolumes(DetectorContract):
    """Two series as two channels of an inflated backbone, as the seventh place's."""

    spec = DetectorSpec(
        series_type="sagittal_t2",
        beside="sagittal_t1",
        points="series",
        num_classes=15,
        in_chans=9,
        network_args={"volume": True},
        **INFLATED,
        **RESNET,
    )
    golden = [0.51133, 0.45077, 0.00325, 0.01051, 0.98029, 0.98439]

    def images(self, batch: int = 2) -> torch.Tensor:
        return torch.cat([super().images(batch), super().images(batch) + 1], 1)


class TestRegressorOfVolumesWithoutANorm(DetectorContract):
    spec = DetectorSpec(
        series_type="axial_t2",
        points="series",
        num_classes=10,
        in_chans=32,
        network_args={"volume": True, "pool": "features"},
        **INFLATED,
        **CONVNEXT,
    )
    golden = [0.49261, 0.16653, 0.48443, 0.31633, 0.24733, 0.64071]


class TestRegressorOfVolumesByExpectation(DetectorContract):
    spec = DetectorSpec(
        series_type="sagittal_t2",
        in_chans=40,
        network_args={"volume": True, "pool": "expectation"},
        **{**INFLATED, "image_size": 64},
        **CONVNEXT,
    )
    golden = [0.49019, 0.03311, 0.44036, 0.47339, 0.4875, 0.55925]


class TestRegressorOfVolumesThatKnowsWhereThingsAre(DetectorContract):
    """A map of 2 x 2 x 1 cells, flattened."""

    spec = DetectorSpec(
        series_type="sagittal_t2",
        in_chans=8,
        network_args={"volume": True, "pool": "flatten"},
        **{**INFLATED, "depth": False, "image_size": 64},
        **RESNET,
    )
    golden = [0.52828, 0.20872, 0.47105, 0.52938, 0.87317, 0.29647]


#: Convolutions of every padding, norms, pools, squeeze-and-excitation, blocks that permute their axes.
FAMILIES = {
    "resnet18d": {"channels": [8, 8, 16, 16]},
    "seresnet18": {"channels": [8, 8, 16, 16]},
    "densenet121": {"growth_rate": 4, "block_config": (1, 2, 2, 1)},
    "tf_efficientnet_b0": {},
    "regnety_002": {},
    "convnextv2_atto": CONVNEXT["encoder_args"],
    "convnext_tiny_hnf": CONVNEXT["encoder_args"],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_inflated_network_looks_at_rows_columns_and_slices_alike(name: str) -> None:
    torch.manual_seed(0)
    images = timm.create_model(name, in_chans=2, num_classes=0, global_pool="", **FAMILIES[name])
    keys, config = list(images.state_dict()), images.pretrained_cfg
    images.load_state_dict(fixed_weights(images).state_dict())
    shape = inflate(images, name, (1, 2, 64, 32, 96))
    assert (list(images.state_dict()), images.pretrained_cfg) == (keys, config)
    for layer in images.modules():
        if isinstance(layer, nn.Conv3d):  # the same whichever way its kernel is turned
            turns = [layer.weight.permute(0, 1, *axes) for axes in itertools.permutations((2, 3, 4))]
            layer.weight = nn.Parameter(torch.stack(turns).mean(0))
    volumes = torch.randn(1, 2, 64, 32, 96)
    with torch.inference_mode():
        found, turned = (images.eval()(each) for each in (volumes, volumes.permute(0, 1, 4, 2, 3)))
    assert tuple(found.shape) == shape
    scale = float(found.abs().max())
    assert float(found.std()) > 0
    assert torch.allclose(found.permute(0, 1, 4, 2, 3) / scale, turned / scale, atol=1e-4)


def test_an_inflated_network_begins_as_widely_spread_as_its_images_do() -> None:
    torch.manual_seed(0)
    images = timm.create_model("resnet18", num_classes=0, global_pool="")
    before = images.layer3[0].conv1.weight.detach().std()
    inflate(images, "resnet18", (1, 3, 32, 32, 32))
    assert float(images.layer3[0].conv1.weight.detach().std() / before * 3**0.5) == pytest.approx(1, abs=0.01)


def test_a_volume_of_one_picture_is_to_inflated_weights_what_the_picture_was() -> None:
    torch.manual_seed(0)
    layer, picture = nn.Conv2d(2, 4, 3), torch.randn(1, 2, 8, 8)
    weight = inflated_weight(layer.weight, 5)
    said = nn.functional.conv3d(picture[..., None].repeat(1, 1, 1, 1, 5), weight, layer.bias)
    torch.testing.assert_close(said[..., 0], layer(picture), atol=1e-5, rtol=1e-5)


class TestRegressorByExpectation(DetectorContract):
    pooled = {"pool": "expectation"}
    spec = spec_of("sagittal_t1", CONVNEXT, network="regressor", answer="points", depth=True, network_args=pooled)
    golden = [0.48981, 0.1704, 0.28603, 0.48596, 0.67357, 0.34811]


class TestSliceScores(DetectorContract):
    spec = spec_of("sagittal_t1", network="slice_scores", answer="slices", in_chans=6)
    golden = [-0.12515, 0.86471, -0.7774, 2.09897, -1.10969, 0.71348]


class TestSliceScoresByTransformer(DetectorContract):
    """The second place's."""

    own = {"along": "transformer", "features": "gem", "heads": 4}
    spec = spec_of("sagittal_t1", network="slice_scores", answer="slices", in_chans=6, network_args=own)
    golden = [0.01442, 0.64, 0.6369, -0.82322, 0.66557, -0.73858]

    def test_slices_without_contrast_are_not_looked_at(self) -> None:
        network, features = fixed_weights(build_detector(self.spec)).eval(), torch.randn(1, 6, 16)
        there = torch.tensor([[True] * 5 + [False]])
        other = torch.where(there[..., None], features, features + 5)
        with torch.inference_mode():
            assert torch.equal(*(network.along(each, there)[..., :5] for each in (features, other)))
            assert not torch.equal(network.along(other, there), network.along(other, torch.ones_like(there)))
            assert network(torch.zeros(1, 6, 64, 64)).isfinite().all()


class TestLevelScores(DetectorContract):
    """The seventh place's: left and right of every level."""

    spec = spec_of(
        "axial_t2",
        network="level_scores",
        answer="slices",
        place="whole",
        points="series",
        num_classes=10,
        in_chans=6,
        network_args={"hidden": 16, "inner": 24},
    )
    golden = [-0.04354, 0.42136, -0.4397, -0.15732, -0.47826, -0.20767]

    def test_in_training_it_says_the_level_of_every_slice_too(self) -> None:
        said = build_detector(self.spec).train()(self.images(2))
        assert {name: tuple(value.shape) for name, value in said.items()} == {"answer": (2, 10, 6), "levels": (2, 5, 6)}


class TestCenterNetOfMaps(DetectorContract):
    spec = spec_of("sagittal_t2", CONVNEXT, network="centernet", stride=4, network_args=HEAD)
    golden = [0.50371, 0.07654, 0.473, 0.48219, 0.48897, 0.50106]


class TestCenterNetOfBoxes(DetectorContract):
    spec = spec_of(
        "axial_t2", network="centernet", answer="boxes", stride=2, num_classes=2, in_chans=3, network_args=HEAD
    )
    golden = [143.28814, 1213.468, 0.38987, 0.54069, 0.42093, 0.54823]


class TestPointer(DetectorContract):
    spec = spec_of(
        "sagittal_t1", network="pointer", depth=True, in_chans=6, network_args={**DECODER, "pointer_hidden": 16}
    )
    golden = [0.27208, 0.20395, 0.27213, 0.26676, 0.2565, 0.30168]


class TestPointerWithAnEncoderOfItsOwn(DetectorContract):
    own = {"pointer_hidden": 16, "pointer_encoder": "tu-resnet18", "pointer_args": {"channels": [8, 8, 8, 8]}}
    spec = spec_of("sagittal_t1", network="pointer", depth=True, in_chans=3, network_args={**DECODER, **own})
    golden = [0.27116, 0.19962, 0.19428, 0.30192, 0.2199, 0.43188]


class TestPointerOnSomeMapsOfAnEfficientNet(DetectorContract):
    """All that is built is read: `test_every_parameter_learns`."""

    args = {"encoder_depth": 4, "decoder_channels": [8] * 4, "pointer_hidden": 8, "pointer_encoder": "tu-resnet18"}
    spec = spec_of(
        "sagittal_t2",
        {"encoder": "tu-tf_efficientnet_lite0"},
        network="pointer",
        depth=True,
        in_chans=2,
        network_args={**args, "pointer_args": {"channels": [8, 8, 8, 8]}},
    )
    golden = [0.24558, 0.06136, 0.24365, 0.24211, 0.23284, 0.23487]


class TestPointerByTransformer(DetectorContract):
    own = {"pointer": "transformer", "pointer_hidden": 16, "pointer_heads": 2}
    spec = spec_of("sagittal_t1", network="pointer", depth=True, in_chans=4, network_args={**DECODER, **own})
    golden = [0.26173, 0.21183, 0.2223, 0.34005, 0.21687, 0.33552]

    def test_slices_that_are_not_there_are_not_looked_at(self) -> None:
        network = fixed_weights(build_detector(self.spec)).eval()
        stacks, other = self.images(1), torch.randn(1, 4, 64, 64)
        features, there = torch.randn(1, 4, 16), torch.tensor([[True, True, True, False]])
        changed = torch.where(there[..., None], features, features + 5)
        with torch.inference_mode():
            along = [network.along(each, there)[:, :, :3] for each in (features, changed)]
            assert torch.equal(*along)
            assert not torch.equal(network.along(changed, there), network.along(changed, torch.ones_like(there)))
            stacks[:, 3] = 0
            assert not network(stacks)[:, :, 3].any()
            assert network(torch.zeros_like(other)).isfinite().all()


def test_an_expected_place_is_the_middle_of_the_cell_that_is_seen():
    scores = torch.full((1, 1, 2, 2), -100.0)
    scores[0, 0, 1, 0] = 100.0
    assert expected_place(scores, 64, 64)[0, 0].tolist() == pytest.approx([15.5 / 64, 47.5 / 64])


def test_of_25_maps_a_stack_fills_its_own():
    spec = DetectorSpec(series_type="sagittal_t1", num_classes=25)
    left, right = channel_names(spec, "left"), channel_names(spec, "right")
    assert [place for place, name in enumerate(left) if name] == [5, 6, 7, 8, 9]
    assert [place for place, name in enumerate(right) if name] == [10, 11, 12, 13, 14]
    assert left[5] == ("left_neural_foraminal_narrowing", "l1_l2")


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


@pytest.mark.parametrize(
    "case",
    [
        TestSliceScores,
        TestSliceScoresByTransformer,
        TestLevelScores,
        TestCenterNetOfMaps,
        TestRegressor,
        TestPointer,
        TestUnetHead,
        TestFrames,
    ],
)
def test_two_series_beside_each_other_are_one_input(case):
    beside = {
        "place": "whole",
        "points": "series",
        "beside": "sagittal_t2",
        "num_classes": 15,
        "series_type": "sagittal_t1",
    }
    spec = case.spec.model_copy(update=beside)
    stacks = torch.randn(2, 2 * spec.in_chans, 64, 64)
    with torch.inference_mode():
        answer = build_detector(spec).eval()(stacks)
    assert tuple(answer.shape) == (2, *answer_of(spec).shape(spec))


def test_a_slice_stands_between_its_neighbours_series_by_series():
    stacks = torch.arange(1.0, 7).view(1, 6, 1, 1)
    assert with_neighbours(stacks[:, :3]).flatten(1).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0]]
    both = [[0, 1, 2, 0, 4, 5], [1, 2, 3, 4, 5, 6], [2, 3, 0, 5, 6, 0]]
    assert with_neighbours(stacks, 2).flatten(1).tolist() == both
