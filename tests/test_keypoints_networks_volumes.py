"""Detectors of volumes: layers that look along the slices, too, and inflated backbones."""

import itertools

import pytest
import timm
import torch
from torch import nn

from lumbar.keypoints.networks.convnext3d import DepthWise
from lumbar.keypoints.networks.inflated import inflate, inflated_weight
from lumbar.recipe.detector import DetectorSpec
from tests.support.contract import DetectorContract, fixed_weights
from tests.support.small_detectors import CONVNEXT, INFLATED, RESNET, VOLUMES


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
