"""Weights and numbers that no network can compute with: refused in one sentence, wherever they come in."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.manifest import MANIFEST
from lumbar.bundle.network import MAX_BYTES, blueprint, build_network, check_size, example
from lumbar.bundle.save import Weights, save_bundle
from lumbar.issues import InputError
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.augment import Augment
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.training.loop import checkpoint
from lumbar.training.pretrained.parts import fill
from lumbar.training.pretrained.sources import Sources
from tests.support.worlds import detector_spec, grader_spec, tiny_bundle
from train_utils import main

PRIOR = np.full((5, 5, 3), 1 / 3)
NORM = "encoders.0.backbone.bn1"
Change = Callable[[dict], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(original: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.folder, tmp_path / "bundle"))


def rewrite(folder: Path, member: str, change: Change) -> None:
    """Change a member's weights and make the hash agree, as whoever does it on purpose would."""
    file = folder / f"{member}.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    respell(folder, member, lambda entry: entry.update(sha256=hashlib.sha256(file.read_bytes()).hexdigest()))


def respell(folder: Path, member: str, change: Change) -> None:
    """Change a member's entry in the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(next(entry for entry in manifest["members"] if entry["name"] == member))
    (folder / MANIFEST).write_text(json.dumps(manifest))


def one_sentence(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def put(key: str, value: float) -> Change:
    def change(state: dict) -> None:
        state[key] = state[key].float()
        state[key].view(-1)[0] = value

    return change


def cast(key: str, dtype: torch.dtype) -> Change:
    return lambda state: state.update({key: state[key].to(dtype)})


UNSOUND = [
    pytest.param(put("head.weight", float("nan")), "not finite: head.weight", id="nan"),
    pytest.param(put(f"{NORM}.running_mean", float("-inf")), f"not finite: {NORM}.running_mean", id="inf"),
    pytest.param(put("head.bias", 1e38), "beyond 1e+18: head.bias", id="huge"),
    pytest.param(put(f"{NORM}.running_var", -1.0), f"a negative variance: {NORM}.running_var", id="negative variance"),
    pytest.param(put(f"{NORM}.num_batches_tracked", float("nan")), "not finite", id="nan counter"),
    pytest.param(cast("head.weight", torch.int8), "stored as int8: head.weight", id="integer"),
    pytest.param(cast("head.weight", torch.bool), "stored as bool: head.weight", id="bool"),
    pytest.param(cast("head.weight", torch.complex64), "stored as complex64: head.weight", id="complex"),
    pytest.param(cast("head.weight", torch.float8_e4m3fn), "stored as float8_e4m3fn: head.weight", id="float8"),
    pytest.param(cast(f"{NORM}.num_batches_tracked", torch.bool), "stored as bool", id="counter"),
    pytest.param(
        lambda state: state.update({"head.weight": torch.full_like(state["head.weight"], 1e300, dtype=torch.float64)}),
        "beyond 1e+18: head.weight",
        id="float64",
    ),
    pytest.param(
        lambda state: state.update({key: torch.zeros_like(value) for key, value in state.items()}),
        "every weight is zero",
        id="zeros",
    ),
]


@pytest.mark.parametrize(("change", "words"), UNSOUND)
def test_weights_that_are_no_numbers_do_not_load(folder: Path, change: Change, words: str) -> None:
    rewrite(folder, "spinal", change)
    with pytest.raises(InputError, match=r"spinal\.safetensors: ") as caught:
        load_bundle(folder).network("spinal")
    assert words in one_sentence(caught)
    with pytest.raises(InputError) as again:
        load_bundle(folder).state("spinal", build_network(grader_spec("spinal")).state_dict())
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize(("change", "words"), UNSOUND)
def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, change: Change, words: str) -> None:
    state = build_network(grader_spec("spinal")).state_dict()
    change(state)
    with pytest.raises(InputError, match=r"a\.safetensors: ") as caught:
        save_bundle(tmp_path / "b", [Weights("a", grader_spec("spinal"), state)], prior=PRIOR)
    assert words in one_sentence(caught)
    with pytest.raises(InputError) as named:
        save_bundle(tmp_path / "c", [Weights("a", grader_spec("spinal"), state, source="run/best.pt")], prior=PRIOR)
    assert str(named.value).startswith("run/best.pt: ")


@pytest.mark.parametrize("member", ["spinal", "foramen"])
def test_verify_and_predict_refuse_them(folder: Path, tmp_path: Path, member: str, capsys) -> None:
    rewrite(folder, member, lambda state: put(next(iter(state)), float("nan"))(state))
    assert main(["verify", "--weights", str(folder)]) == 1
    assert f"{member}.safetensors: no weights that a network can compute with" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"{member}.safetensors: no weights"):
        Predictor(load_bundle(folder))


def test_a_fold_that_takes_turns_in_a_network_is_looked_at_before_the_first_study(
    original: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [
        Weights(one.name, one.spec, original.network(one.name).state_dict()) for one in original.manifest.members
    ]
    twin = members[-1]
    save_bundle(tmp_path / "b", [*members, Weights("twin", twin.spec, twin.state)], prior=PRIOR)
    assert Predictor(load_bundle(tmp_path / "b"), room=0).networks.swaps
    rewrite(tmp_path / "b", "twin", put("head.bias", float("nan")))
    with pytest.raises(InputError, match=r"twin\.safetensors: no weights"):
        Predictor(load_bundle(tmp_path / "b"), room=0)


def test_weights_whose_sums_overflow_are_told_by_asking_the_network(folder: Path, capsys) -> None:
    def grow(state: dict) -> None:
        for key, value in state.items():
            if "running_var" in key:
                state[key] = torch.zeros_like(value)  # no norm makes it small again
            elif value.ndim > 1:
                state[key] = value.float() * 1e16

    rewrite(folder, "spinal", grow)
    assert main(["verify", "--weights", str(folder)]) == 1
    assert "spinal.safetensors: the network's answer to noise is no number" in capsys.readouterr().err


def test_every_floating_point_type_that_holds_the_numbers_loads(folder: Path) -> None:
    expected = load_bundle(folder).network("spinal").state_dict()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        rewrite(folder, "spinal", lambda state, d=dtype: [cast(k, d)(state) for k, v in expected.items() if v.ndim > 1])
        found = load_bundle(folder).network("spinal").state_dict()
        assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
        assert torch.allclose(found["head.weight"], expected["head.weight"], rtol=0.01)


def test_counters_are_saved_as_the_network_counts(tmp_path: Path) -> None:
    state = build_network(grader_spec("spinal")).state_dict()
    state[f"{NORM}.num_batches_tracked"] = torch.tensor(7.0)
    save_bundle(tmp_path / "b", [Weights("a", grader_spec("spinal"), state)], prior=PRIOR)
    stored = load_file(tmp_path / "b" / "a.safetensors")[f"{NORM}.num_batches_tracked"]
    assert (stored.dtype, int(stored)) == (torch.int64, 7)


def test_weights_of_a_run_and_pretrained_ones_are_looked_at_too(tmp_path: Path) -> None:
    network = build_network(grader_spec("spinal"))
    backbone = network.encoders[0].backbone
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    state["layer1.0.conv1.weight"][0] = float("inf")
    save_file(state, tmp_path / "pretrained.safetensors")
    with pytest.raises(
        InputError, match=r"pretrained weights of resnet18.a1_in1k: .* \(not finite: layer1\.0\.conv1\.weight\)"
    ):
        fill(backbone, Sources().of(str(tmp_path / "pretrained.safetensors")))
    network.head.bias.data[0] = float("nan")
    checkpoint.write_weights(network, tmp_path / "best.safetensors", "print", 1)
    with pytest.raises(InputError, match=r"best\.safetensors: .* \(not finite: head\.bias\)"):
        checkpoint.read_weights(build_network(grader_spec("spinal")), tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (bytes(4096), "it begins with zeros only"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
    ],
)
def test_what_stands_in_the_place_of_a_file_of_weights_is_named(folder: Path, content: bytes, words: str) -> None:
    (folder / "spinal.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"spinal\.safetensors: cannot be read") as caught:
        load_bundle(folder)
    assert words in one_sentence(caught)


# ---- numbers of the manifest ---------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("member", "key", "value"),
    [
        *(("canal", "sigma_px", value) for value in (NAN, INF, 0.001, 1e9)),
        *(("spinal", "roi_mm", value) for value in (NAN, INF, 0.001, 1e9)),
        *(("foramen", "offset_mm", value) for value in (NAN, INF, -1.0, 1e9)),
        *(("recess", "max_plane_distance_mm", value) for value in (NAN, INF, -1.0, 1e9)),
        *(("foraminal", "t1_offsets_mm", [value, 15, 16, 17, 18]) for value in (NAN, INF, -5.0, 1e9)),
        *(("spinal", "view_dropout", value) for value in (NAN, 1.0)),
        ("spinal", "rnn_hidden", 10**9),
        ("spinal", "rnn_layers", 10**6),
        ("spinal", "t1_offsets_mm", [15.0] * 10_000),
        ("spinal", "backbone_args", {"channels": [10**9] * 4}),
        ("spinal", "backbone_args", {"channels": [8] * 10_000}),
        ("spinal", "backbone_args", {"drop_rate": NAN}),
        ("canal", "encoder_args", {"channels": [[[[[8]]]]]}),
        ("canal", "network_args", {"decoder_channels": 10**12}),
        ("canal", "network_args", {"x" * 3: "y" * 10_000}),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_their_name(
    folder: Path, member: str, key: str, value: object
) -> None:
    respell(folder, member, lambda entry: entry["spec"].update({key: value}))
    words = rf"manifest\.json: (members\.\d\.spec\.{key}|not JSON \((NaN|Infinity) is no number)"
    with pytest.raises(InputError, match=words) as caught:
        load_bundle(folder)
    one_sentence(caught)


@pytest.mark.parametrize("value", [NAN, INF])
def test_numbers_of_a_recipe_are_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        DetectorSpec(series_type="sagittal_t2", sigma_px=value)
    with pytest.raises(ValidationError, match="finite number"):
        Augment(gamma=value)


@pytest.mark.parametrize(
    ("member", "fields", "words"),
    [
        ("spinal", {"slices": 256, "image_size": 2048}, "slices = 256 and image_size = 2048 together"),
        ("canal", {"in_chans": 64, "image_size": 1024}, "in_chans = 64 and image_size = 1024 together"),
        ("canal", {"num_classes": 25, "image_size": 1024}, "num_classes = 25 and image_size = 1024 together"),
    ],
)
def test_sizes_that_are_possible_alone_are_bounded_together(
    folder: Path, member: str, fields: dict, words: str
) -> None:
    respell(folder, member, lambda entry: entry["spec"].update(fields))
    with pytest.raises(InputError, match=words):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("fold", -1), ("fold", 10**30), ("fold", True), ("rank", 0), ("rank", 10**9), ("scores", {"loss": NAN}),
     ("name", "x" * 1000), ("file", "x" * 5000)],
)  # fmt: skip
def test_numbers_of_a_member_are_bounded_too(folder: Path, key: str, value: object) -> None:
    respell(folder, "spinal", lambda entry: entry.update({key: value}))
    words = rf"manifest\.json: (members\.\d\.{key}\b|not JSON \(NaN is no number)"
    with pytest.raises(InputError, match=words) as caught:
        load_bundle(folder)
    one_sentence(caught)


@pytest.mark.parametrize(
    "row", [[NAN, 0.5, 0.5], [INF, 0.0, 0.0], [1.5, -0.25, -0.25], [0.5, 0.5, 0.0], [0.9, 0.9, 0.9]]
)
def test_rows_of_the_prior_are_distributions(folder: Path, row: list[float]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["prior"][2][3] = row
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: (prior|not JSON \((NaN|Infinity))"):
        load_bundle(folder)


def test_a_network_beyond_all_memory_is_refused_before_it_takes_any(tmp_path: Path) -> None:
    spec = GraderSpec(task="global", rnn_hidden=2**15, rnn_layers=16)
    with pytest.raises(InputError, match=r"a: the network would need \d+ GB of memory, more than the 4 GB"):
        check_size(blueprint(spec, "a"), "a")
    with pytest.raises(InputError, match=r"a\.safetensors: the network would need"):
        save_bundle(tmp_path / "b", [Weights("a", spec, {})], prior=PRIOR)
    check_size(blueprint(GraderSpec(task="global", backbone="convnext_nano"), "a"), "a")
    assert MAX_BYTES == 2**32


def test_a_backbone_that_reckons_while_it_is_built_makes_a_bundle_like_any_other(tmp_path: Path) -> None:
    spec = GraderSpec(task="foraminal", backbone="regnety_002", image_size=64, slices=2, rnn_hidden=8)
    torch.manual_seed(0)
    network = build_network(spec).eval()
    bundle = save_bundle(tmp_path / "b", [Weights("a", spec, network.state_dict())], prior=PRIOR, precision="float32")
    views = example(spec)
    with torch.inference_mode():
        torch.testing.assert_close(bundle.network("a", "cpu")(*views), network(*views), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("member", "fields", "words"),
    [
        (
            "canal",
            {"image_size": 50},
            r"canal\.safetensors: the network on encoder .* does not take its own inputs \(it takes images of 16",
        ),
        (
            "canal",
            {"network_args": {"decoder_channels": 16, "encoder_depth": 9}},
            r"canal\.safetensors: .* cannot be built",
        ),
    ],
)
def test_a_fault_of_the_bundle_is_told_when_it_loads_and_no_study_is_blamed(
    folder: Path, member: str, fields: dict, words: str
) -> None:
    respell(folder, member, lambda entry: entry["spec"].update(fields))
    with pytest.raises(InputError, match=words) as caught:
        Predictor(load_bundle(folder))
    assert "study" not in one_sentence(caught)


def test_heatmaps_without_meaning_are_told_when_the_bundle_is_made(original: Bundle, tmp_path: Path) -> None:
    spec: DetectorSpec = detector_spec("sagittal_t2", 5, 7)
    members = [
        Weights("canal", spec, build_network(spec).state_dict()),
        Weights("spinal", grader_spec("spinal"), original.network("spinal").state_dict()),
    ]
    words = "a detector for sagittal_t2 with num_classes = 7 has no meaning"
    with pytest.raises(InputError, match=f"b: no bundle can be made: canal: {words}"):
        save_bundle(tmp_path / "b", members, prior=PRIOR)
