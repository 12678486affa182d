"""Pretrained weights come from a hub: fetched, refused, and told ever after by the run that begins with them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

import train_utils
from lumbar.issues import InputError
from lumbar.recipe.recipe import load_recipe
from tests.conftest import ROOT
from tests.support.hub import Hub, hub_of, published
from tests.support.tiny_recipe import toml
from tests.support.worlds import small_phantoms
from tests.test_kaggle_rehearsal import needs_namespaces

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
@pytest.mark.parametrize(("status", "asked"), [(404, BACKBONES), (501, BACKBONES[:1])])
def test_training_for_which_the_hub_lacks_something_does_not_begin(
    status: int,
    asked: tuple[str, ...],
    hub: Hub,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence says what is missing, why, and what to do. Of a hub that fails nobody asks for more."""
    data = small_phantoms(tmp_path / "data", studies=4)
    words = ["train", "--recipe", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")]
    for name in asked:
        hub.statuses[f"timm/{name}"] = status
    hub.take_place(tmp_path / "cache", monkeypatch)
    assert train_utils.main(words) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    for said in (*BACKBONES, f"the hub answers {status}", "--pretrained", "fetch-weights", "--set pretrained=false"):
        assert said in sentence
    assert "resnet18.imagenet" not in sentence  # which was fetched before
    assert not (tmp_path / "run").exists()


def test_a_run_says_first_and_its_bundle_ever_after_what_it_began_with(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a smaller encoder of smp's own than the hub's."""
    (folder := tmp_path / "folder").mkdir()
    for name in ("mobilenet_v2.imagenet", *BACKBONES):
        save_file(published(name), folder / f"{name}.safetensors")
    data, run = small_phantoms(tmp_path / "data", studies=4), tmp_path / "run"
    words = ["train", "--recipe", str(recipe), "--data", str(data), "--out", str(run)]
    small = [
        "stage1.epochs=1",
        "stage1.image_size=64",
        "stage1.members.t2.encoder=mobilenet_v2",
        "stage2.epochs=1",
        "stage2.image_size=32",
    ]
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
    assert said.index("t2 from mobilenet_v2.imagenet") < said.index("grader2 from random weights")
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(tmp_path / "weights")]) == 0
    manifest = json.loads((tmp_path / "weights" / "manifest.json").read_text())
    began = {member["name"]: member["began"] for member in manifest["members"]}
    assert began == {
        "t2": "mobilenet_v2.imagenet",
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
