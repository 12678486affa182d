"""Recipes: what they expand to, and what they refuse."""

import json
import re
import tomllib
from pathlib import Path

import pytest

import train_utils
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from lumbar.recipe.recipe import check_recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NINTH, DEMO = RECIPES / "ninth_place.toml", RECIPES / "demo.toml"


def test_the_ninth_place_recipe_holds_the_published_numbers() -> None:
    recipe = load_recipe(NINTH)
    t2, t1, axial = (recipe.stage1.members[name] for name in ("sagittal_t2", "sagittal_t1", "axial_t2"))
    assert [m.training.epochs for m in (t2, t1, axial)] == [30, 20, 10]
    assert [(m.spec.in_chans, m.spec.num_classes) for m in (t2, t1, axial)] == [(5, 5), (3, 5), (3, 2)]
    for member in (t2, t1, axial):
        assert (member.spec.network, member.spec.encoder) == ("deeplabv3plus", "resnet34")
        assert (member.spec.image_size, member.spec.sigma_px) == (512, 10)
        assert (member.training.learning_rate, member.training.batch_size) == (1e-3, 16)
        assert member.training.schedule == "cosine"
        assert member.training.heatmap_weight == 1
        assert member.training.weight_decay == 0.01
        assert (member.training.augment.rotate_deg, member.training.augment.shear_deg) == (15, 15)
        assert member.training.augment.sharpen_or_blur_p == member.training.augment.channel_shuffle_p == 0.5
    assert t1.spec.offset_mm == 16.8
    assert axial.spec.max_plane_distance_mm == 5
    assert (recipe.folds.method, recipe.folds.count, recipe.folds.seed) == ("kfold", 5, 42)
    assert recipe.stage2.keypoints == "out_of_fold"


def test_the_ninth_place_recipe_trains_split_and_global_on_three_backbones() -> None:
    members = load_recipe(NINTH).stage2.members
    assert len(members) == 12
    assert {m.spec.task for m in members.values()} == {"spinal", "foraminal", "subarticular", "global"}
    sizes = {m.spec.backbone: (m.spec.image_size, m.training.learning_rate) for m in members.values()}
    assert sizes == {
        "resnet18.a1_in1k": (128, 1e-3),
        "swin_tiny_patch4_window7_224.ms_in1k": (224, 3e-5),
        "convnext_nano.in12k_ft_in1k": (224, 3e-5),
    }
    for member in members.values():
        spec, augment = member.spec, member.training.augment
        assert (spec.roi_mm, spec.slices, spec.rnn_hidden, spec.rnn_layers) == (50, 5, 512, 2)
        assert spec.t1_offsets_mm == (14.9, 15.7, 16.7, 17.8, 18.9)
        assert (augment.rotate_deg, augment.shear_deg) == (15, 15)
        assert (augment.sharpen_or_blur_p, augment.channel_shuffle_p) == (0.5, 0.5)
        assert augment.mirror_p == augment.zoom == augment.noise == 0
        assert spec.mirror_right
        assert (member.training.batch_size, member.training.weight_decay) == (16, 0.01)
        assert member.training.any_severe_weight == 0
    assert {name: members[f"spinal_{name}"].training.epochs for name in ("resnet18", "swin_tiny", "convnext_nano")} == {
        "resnet18": 5,
        "swin_tiny": 4,
        "convnext_nano": 4,
    }
    assert (
        members["global_swin_tiny"].training.schedule == members["global_convnext_nano"].training.schedule == "cosine"
    )
    resnet = members["spinal_resnet18"].training
    assert (resnet.schedule, resnet.step_epochs, resnet.step_factor) == ("step", 2, 0.1)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_but_the_exact_one_counts_t1_windows_from_the_canal(path: Path) -> None:
    rules = {member.spec.preprocessing.middle for member in load_recipe(path).members().values()}
    assert rules == {"series" if path.stem == "ninth_place_exact" else "canal"}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_survives_storing(path: Path) -> None:
    recipe = load_recipe(path)
    stored = json.loads(json.dumps(recipe.model_dump(mode="json")))
    assert check_recipe(stored, "stored") == recipe


def test_a_stage_override_reaches_every_member_even_those_with_their_own_value() -> None:
    recipe = load_recipe(NINTH, ["stage1.epochs=1", "stage2.members.resnet18.batch_size=3"])
    assert {m.training.epochs for m in recipe.stage1.members.values()} == {1}
    assert recipe.stage2.members["global_resnet18"].training.batch_size == 3
    assert recipe.stage2.members["global_swin_tiny"].training.batch_size == 16


def test_overrides_are_typed() -> None:
    recipe = load_recipe(DEMO, ["folds.train=[0, 1]", "stage2.keypoints=out_of_fold", "stage1.augment.zoom=0.5"])
    assert recipe.folds.train == (0, 1)
    assert recipe.stage2.keypoints == "out_of_fold"
    assert recipe.stage1.members["axial_t2"].training.augment.zoom == 0.5
    assert recipe.stage1.members["axial_t2"].training.augment.noise == 0.15  # its neighbours stay


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stage2.epocs=1", "'epochs'"),
        ("stage3.epochs=1", "'stage2'"),
        ("stage2.members.smal.epochs=1", "'small'"),
        ("stage1.augment.rotate_degs=3", "'rotate_deg'"),
        ("stage2.epochs=many", "epochs"),
        ("stage2.batch_size=0", "--set stage2.batch_size=0: stage2.batch_size is 0; allowed: 1 or more"),
        ("stage1.augment=3", "is a table"),
        ("stage1.members=3", "name a key"),
        ("stage2", "key=value"),
        ("stage2.keypoint=labels", "'keypoints'"),
        ("stage1.keypoints=labels", "unknown key 'keypoints'"),
        ("folds.train=[7]", "0 to 5"),
    ],
)
def test_a_wrong_override_is_refused_with_the_way_out(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe(DEMO, [override])


#: Overrides of the demo recipe, and the whole sentence.
BLAMED = {
    "a bound": (
        ["seed=1", "stage2.batch_size=0"],
        "--set stage2.batch_size=0: stage2.batch_size is 0; allowed: 1 or more",
    ),
    "a kind": (["folds.count=many"], "--set folds.count=many: folds.count is 'many'; allowed: a whole number"),
    "words": (
        ["stage1.preprocessing.values=raw"],
        "--set stage1.preprocessing.values=raw: stage1.preprocessing.values is 'raw'; allowed: 'modality' or 'stored'",
    ),
    "two kinds": (
        ["stage2.pretrained=5"],
        "--set stage2.pretrained=5: stage2.pretrained is 5; allowed: true or false, or a text",
    ),
    "entries of a list or a word": (
        ["stage2.slice_shift=[-0.5,1.5]"],
        "--set stage2.slice_shift=[-0.5,1.5]: 2 faults\n(1) stage2.slice_shift.0 is -0.5; allowed: 0 or more\n"
        "(2) stage2.slice_shift.1 is 1.5; allowed: 1 or less",
    ),
    "no list and no word": (
        ["stage2.slice_shift=far"],
        "--set stage2.slice_shift=far: stage2.slice_shift is 'far'; allowed: 'own', or a list",
    ),
    "two settings": (
        ["loop.workers=x", "seed=3", "loop.tensorboard=maybe"],
        "--set loop.workers=x, loop.tensorboard=maybe: 2 faults\n(1) loop.workers is 'x'; allowed: a whole number\n"
        "(2) loop.tensorboard is 'maybe'; allowed: true or false",
    ),
    "a rule between settings": (
        ["folds.train=[7]"],
        "--set folds.train=[7]: folds: train must name different folds from 0 to 5, not [7]",
    ),
    "an entry": (
        ["stage2.members.small.tasks=5"],
        '--set stage2.members.small.tasks=5: stage2.members.small: tasks is 5; write a list of names, as ["spinal"]',
    ),
    "nothing in it": (
        ["stage2.members.small.tasks=[]"],
        "--set stage2.members.small.tasks=[]: stage2.members.small.tasks is an empty list; name what it should hold, "
        "or leave it out",
    ),
}


@pytest.mark.parametrize("name", BLAMED)
@pytest.mark.parametrize("command", ["train", "show-batches"])
def test_what_an_override_does_wrong_is_said_in_its_name(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, sentence = BLAMED[name]
    words = [command, "--recipe", str(DEMO), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train_utils.main([*words, *(word for each in overrides for word in ("--set", each))]) == 1
    assert capsys.readouterr().err == f"train_utils.py {command}: {sentence}\n"


def test_a_recipe_that_is_wrong_without_overrides_is_named_itself(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("seed = -1\n" + _minimal(), encoding="utf-8")
    with pytest.raises(InputError, match=r"r\.toml: seed is -1; allowed: 0 or more"):
        load_recipe(tmp_path / "r.toml", ["stage2.epochs=1"])


def test_of_forty_faults_each_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.toml"
    members = [f"[stage1.members.m{at}]\nseries_type='sagittal_t2'\nepochs=-{at}\n" for at in range(1, 41)]
    path.write_text("".join(members) + "[stage2.members.b]\ntask='global'\n", encoding="utf-8")
    words = ["train", "--recipe", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train_utils.main(words) == 1
    told = capsys.readouterr().err
    lines = [f"({at}) stage1.members.m{at}.epochs is -{at}; allowed: 0 or more" for at in range(1, 41)]
    assert told.splitlines() == [f"train_utils.py train: {path}: 40 faults", *lines]


@pytest.mark.parametrize("line", ["tasks = []", "backbone_args = { channels = [] }"])
def test_a_list_without_anything_in_it_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(_minimal() + f"\n{line}\n", encoding="utf-8")
    where = line.partition(" =")[0]
    with pytest.raises(InputError, match=rf"r\.toml: stage2\.members\.b\.{where}.* is an empty list; name what"):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "stage1"),
        ("[stage1]\n[stage2]\n", "no members"),
        ("x = [", "not valid TOML"),
        ("seeed = 1\n", "'seed'"),
        ("[stage1.members.a]\nseries_type='sagittal_t2'\nencodr='x'\n[stage2.members.b]\ntask='global'", "'encoder'"),
        ("[stage1.members]\na = 3\n[stage2.members.b]\ntask='global'", r"write a table \[stage1.members.a\]"),
        (
            "[stage1.members.a]\nseries_type='sagittal_t2'\n[stage2]\nkeypoint='labels'\n[stage2.members.b]\ntask='global'",
            "did you mean 'keypoints'",
        ),
        (
            "[stage1.members.a]\nseries_type='sagittal_t2'\n[stage2.members.b]\ntask='global'\nkeypoints='labels'",
            r"write it below \[stage2\]",
        ),
        ("[stage1.members.a]\nseries_type='axial_t2'\n[stage2.members.b]\ntask='global'", "sagittal_t2"),
        ("[stage1.members.a]\nseries_type='sagittal_t2'\n[stage2.members.a]\ntask='global'", "both stages"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_nearest_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.toml"
    body = text if "stage" in text or text in ("", "x = [") else text + _minimal()
    path.write_text(body, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"stage1": 3}, {"stage1": {"members": [1]}}, {"stage2": {"members": {"a": 1}}}])
def test_a_damaged_stored_recipe_is_one_sentence(values: dict) -> None:
    with pytest.raises(InputError, match=r"^stored: \(1\) .* \(2\) "):
        check_recipe(values, "stored")


def test_a_missing_recipe_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")


def _minimal() -> str:
    return "[stage1.members.a]\nseries_type='sagittal_t2'\n[stage2.members.b]\ntask='global'\n"


def test_the_minimal_recipe_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(_minimal(), encoding="utf-8")
    assert load_recipe(path).name == "small"
    assert tomllib.loads(_minimal())


def test_a_part_of_another_system_is_a_recipe_over_the_same_rooms() -> None:
    recipe, demo = load_recipe(RECIPES / "parts" / "maps.toml"), load_recipe(DEMO)
    assert {member.spec.network for member in recipe.stage1.members.values()} == {"unet"}
    shared = recipe.stage2.members
    assert {key: demo.stage2.members[key] for key in shared} == shared


def test_one_detector_has_a_map_for_every_condition_and_level() -> None:
    members = load_recipe(RECIPES / "parts" / "maps.toml").stage1.members.values()
    assert {(member.spec.num_classes, member.spec.in_chans) for member in members} == {(25, 1)}


@pytest.mark.parametrize("name", ["first_place", "small/first_place"])
def test_the_first_place_small_and_large_has_the_same_parts(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    parts = {
        (spec.series_type, spec.network, spec.answer, spec.placed)
        for spec in (member.spec for member in recipe.stage1.members.values())
    }
    sagittal = {("convnext3d", "slices", "whole"), ("convnext3d", "points", "whole"), ("regressor", "points", "found")}
    kinds = ("sagittal_t2", "sagittal_t1")
    assert parts == {
        ("axial_t2", "regressor", "points", "plane"),
        *((kind, *each) for kind in kinds for each in sagittal),
    }
    graders = recipe.stage2.members.values()
    assert {member.spec.network for member in graders} == {"slice_bags"}
    assert {member.spec.conditions for member in graders} == {(CONDITIONS[0],), (CONDITIONS[1],), (CONDITIONS[3],)}
    assert all("annotated_slice" in member.training.loss and member.training.slice_shift for member in graders)


#: Settings that timm or torch refuse, and how the sentence names the member, the network and the reason.
REFUSED = {
    "an image size": (
        ["stage2.backbone=vit_tiny_patch16_224", "stage2.backbone_args={img_size=33}"],
        "spinal_small: .* backbone 'vit_tiny_patch16_224' .*it takes images of 33 pixels, not of 80",
    ),
    "an argument": (
        ["stage2.backbone=resnet18", "stage2.backbone_args={colour=1}"],
        "spinal_small: .* backbone 'resnet18': it takes no argument 'colour'",
    ),
    "arguments that do not fit": (
        ["stage2.backbone=resnet18", "stage2.backbone_args={channels=[1]}"],
        r"spinal_small: .* backbone 'resnet18' .*its settings \(channels = \[1\], image_size = 80\) do not fit",
    ),
    "a kind": (
        ["stage2.backbone=resnet18", "stage2.backbone_args={block_args=3}"],
        r"spinal_small: .* backbone 'resnet18': its settings \(block_args = 3\) do not fit",
    ),
    "a name": (["stage2.backbone=resnet17"], "backbone 'resnet17': there is no network of that name"),
    "a detector's size": (
        ["stage1.image_size=50"],
        "sagittal_t2: .* encoder 'tu-resnet18' .*it takes images of 16, 16 x 2, … pixels, not of 50",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_a_library_refuses_are_told_without_its_jargon(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, words = REFUSED[name]
    command = ["train", "--recipe", str(DEMO), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train_utils.main([*command, *(word for each in overrides for word in ("--set", each))]) == 1
    told = capsys.readouterr().err
    assert re.search(words, told), told
    assert not re.search(r"__init__|\(\) |object|attribute|mapping|tensor", told)
    assert not (tmp_path / "run").exists()
