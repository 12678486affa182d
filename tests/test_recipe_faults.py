"""All that is wrong with a recipe is told at once, a line each: no fault hides another, whatever comes together."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

import train_utils
from lumbar.issues import InputError
from lumbar.recipe.recipe import FaultyRecipeError, load_recipe

CANAL, FORAMEN, RECESS = (
    "spinal_canal_stenosis",
    "left_neural_foraminal_narrowing",
    "left_subarticular_stenosis",
)
SOUND: dict[str, Any] = {
    "seed": 1,
    "loop": {"workers": 0},
    "folds": {"count": 3, "train": [0, 1, 2]},
    "stage1": {
        "encoder": "tu-resnet18",
        "encoder_args": {"channels": [8, 8, 8, 8]},
        "image_size": 64,
        "members": {
            "early": {
                "series_type": "sagittal_t1",
                "place": "middle",
                "points": "series",
                "num_classes": 10,
                "network_args": {"decoder_channels": 8},
            },
            "t2": {"series_type": "sagittal_t2", "network_args": {"decoder_channels": 8}},
            "t1": {"series_type": "sagittal_t1", "network_args": {"decoder_channels": 8}},
            "axial": {"series_type": "axial_t2", "num_classes": 2, "network_args": {"decoder_channels": 8}},
        },
    },
    "stage2": {
        "backbone_args": {"channels": [8, 8, 8, 8]},
        "image_size": 32,
        "rnn_hidden": 8,
        "rnn_layers": 1,
        "members": {
            "canal": {"task": "spinal"},
            "sides": {"views": ["sagittal_t1_left", "axial_left"], "conditions": [FORAMEN, RECESS]},
            "whole": {"task": "global"},
            "sized": {"views": ["sagittal_t2"], "conditions": [CANAL]},
            "even": {"tasks": ["spinal"]},
        },
    },
}
_ONE, _TWO = "stage1.members.", "stage2.members."
#: Faults, none of which is about the key of another: keys and what is set there, and words of the sentence.
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a strange key of the loop": ({"loop.worker": 2}, "loop: unknown key 'worker'; did you mean 'workers'?"),
    "a strange key of a detector": (
        {_ONE + "t2.encodr": "x"},
        "stage1.members.t2: unknown key 'encodr'; did you mean 'encoder'?",
    ),
    "another of the same": ({_ONE + "t2.colour": 3}, "stage1.members.t2: unknown key 'colour'; known: "),
    "a strange key of a grader": ({_TWO + "canal.epocs": 3}, "unknown key 'epocs'; did you mean 'epochs'?"),
    "a strange key of a stage": ({"stage2.keypoint": "labels"}, "stage2: unknown key 'keypoint'; did you mean"),
    "a key of the stage in a member": ({_TWO + "whole.keypoints": "labels"}, "write it below [stage2]"),
    "a strange key of a table": (
        {_TWO + "whole.augment.rotate": 3},
        "stage2.members.whole.augment: unknown key 'rotate'; did you mean 'rotate_deg'?",
    ),
    "a kind": ({_ONE + "t1.in_chans": "five"}, "stage1.members.t1.in_chans is 'five'; allowed: a whole number"),
    "a bound": ({_TWO + "canal.batch_size": 0}, "stage2.members.canal.batch_size is 0; allowed: 1 or more"),
    "a bound of all": ({"seed": -1}, "seed is -1; allowed: 0 or more"),
    "a word": ({_ONE + "t2.optimizer": "sgd"}, "stage1.members.t2.optimizer is 'sgd'; allowed: 'adamw' or"),
    "a word that must be there": (
        {_ONE + "axial.series_type": "axial_t1"},
        "stage1.members.axial.series_type is 'axial_t1'; allowed: 'sagittal_t1'",
    ),
    "no table": ({_TWO + "odd": 3}, "stage2.members.odd is 3; write a table [stage2.members.odd]"),
    "tasks": ({_TWO + "even.tasks": "spinal"}, "stage2.members.even: tasks is 'spinal'; write a list of names"),
    "an empty list": ({_TWO + "canal.tta": []}, "stage2.members.canal.tta is an empty list; name what it should"),
    "folds: a bound": ({"folds.seed": -1}, "folds.seed is -1; allowed: 0 or more"),
    "folds: a word": ({"folds.method": "random"}, "folds.method is 'random'; allowed: 'kfold' or"),
    "folds: a rule": ({"folds.train": [0, 1, 2, 2]}, "folds: train must name different folds from 0 to 2"),
    "region: a size": ({_TWO + "sides.region.size": [8, 64]}, "sides.region.size.0 is 8; allowed: 16 or more"),
    "region: a rule": (
        {_TWO + "sides.region.percentiles": [99, 1], _TWO + "sides.region.intensity": "percentile"},
        "region: percentiles = [99.0, 1.0] must rise; give the lower one first",
    ),
    "region: half of what": ({_TWO + "sides.region.half": True}, 'it needs around = "level"'),
    "region: a view's": (
        {_TWO + "sides.regions.axial_left.rotate": "canal"},
        'the region of axial_left: rotate = "canal" turns sagittal images',
    ),
    "preprocessing: a word": (
        {_TWO + "whole.preprocessing.values": "raw"},
        "whole.preprocessing.values is 'raw'; allowed: 'modality' or 'stored'",
    ),
    "preprocessing: a rule": (
        {_TWO + "whole.preprocessing.middle": "canal", _TWO + "whole.preprocessing.order": "file"},
        'preprocessing: middle = "canal" goes by positions; it needs order = "position"',
    ),
    "a strange loss": (
        {_TWO + "canal.loss": {"severity": 1.0, "hinge": 1.0}},
        "canal: loss names 'hinge', and a grader has no such output; known: severity",
    ),
    "another answer's loss": ({_ONE + "t1.loss": {"l1": 1.0}}, "t1: loss names 'l1', and answer 'heatmaps'"),
    "a rate without an end": (
        {_ONE + "t2.floor": 0.1, _ONE + "t2.schedule": "constant"},
        "t2: floor is where a falling rate ends, and schedule = 'constant' has no end; leave it out",
    ),
    "nobody to begin with": (
        {_TWO + "whole.begins_with": "nobody"},
        "whole: begins_with = 'nobody' is no member that stands before it",
    ),
    "shares of nothing": ({_TWO + "sides.soft_mix": 0.5}, "sides: soft_mix mixes labels with a table's; name the"),
    "a turn": ({_ONE + "axial.tta": ["columns"]}, 'axial: tta "columns" would exchange left and right'),
    "found by nobody": (
        {_ONE + "early.place": "found"},
        'early: place = "found" looks around slices found before, and no detector of sagittal_t1 stands before it',
    ),
    "a size that nobody tells": (
        {_TWO + "sized.region.box": "own"},
        'sized: box = "own" is as large as the point of sagittal_t2, and no detector of sagittal_t2 tells sizes',
    ),
    "a strange set": ({"stage1.sets": {"a": ["t2", "t3"]}}, "sets.a names 't3', which is no detector here"),
    "a blend of a stranger": (
        {"blend": {"method": "weighted", "weights": {"spinal": {"nobody": 1.0}}}},
        "blend.weights.spinal names 'nobody', which is no member of stage2",
    ),
}


def _toml(values: Any) -> str:
    if isinstance(values, dict):
        return "{ " + ", ".join(f'"{key}" = {_toml(value)}' for key, value in values.items()) + " }"
    return "[" + ", ".join(map(_toml, values)) + "]" if isinstance(values, list) else json.dumps(values)


def _written(folder: Path, names: Any, also: dict[str, Any] | None = None) -> Path:
    """A recipe with these faults."""
    values = copy.deepcopy(SOUND)
    for name in names:
        for place, value in FAULTS[name][0].items():
            _set(values, place, value)
    for place, value in (also or {}).items():
        _set(values, place, value)
    path = folder / "small.toml"
    path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in values.items()), encoding="utf-8")
    return path


def _set(values: dict[str, Any], place: str, value: Any) -> None:
    *tables, key = place.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[key] = copy.deepcopy(value)


def _told(folder: Path, names: Any) -> list[str]:
    with pytest.raises(FaultyRecipeError) as caught:
        load_recipe(_written(folder, names))
    return caught.value.faults


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is told of each fault alone."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: _told(folder, [name]) for name in FAULTS}


def test_without_faults_it_is_a_recipe(tmp_path: Path) -> None:
    assert len(load_recipe(_written(tmp_path, [])).members()) == 9


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alone_is_one_sentence_with_the_remedy(name: str, alone: dict[str, list[str]]) -> None:
    (fault,) = alone[name]
    assert FAULTS[name][1] in fault


@pytest.mark.parametrize("seed", range(40))
def test_faults_that_come_together_are_all_told(seed: int, tmp_path: Path, alone: dict[str, list[str]]) -> None:
    drawn = random.Random(seed)
    names = drawn.sample(list(FAULTS), drawn.randint(2, 5))
    assert sorted(_told(tmp_path, names)) == sorted(fault for name in names for fault in alone[name])


def test_all_of_them_at_once(tmp_path: Path, alone: dict[str, list[str]]) -> None:
    assert sorted(_told(tmp_path, FAULTS)) == sorted(fault for each in alone.values() for fault in each)


TOGETHER = (
    "a strange key of the loop", "a strange key of a detector", "another of the same", "region: a size",
    "region: a rule", "region: half of what", "folds: a bound", "folds: a rule", "preprocessing: a rule",
    "a strange loss", "a kind", "found by nobody",
)  # fmt: skip


def test_the_command_tells_each_in_a_line_networks_included(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    also = {_TWO + "whole.frozen": ["tail"], _TWO + "canal.backbone": "resnet17"}
    path = _written(tmp_path, TOGETHER, also)
    command = ["train", "--recipe", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train_utils.main(command) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"train_utils.py train: {path}: {len(TOGETHER) + len(also)} faults"
    assert [line.partition(" ")[0] for line in lines] == [f"({number})" for number in range(1, len(lines) + 1)]
    words = [FAULTS[name][1] for name in TOGETHER]
    words += ["whole: frozen names 'tail', and the network has no such parameter", "there is no network of that name"]
    for word in words:
        assert sum(word in line for line in lines) == 1, word
    assert not (tmp_path / "run").exists()


def test_wrong_overrides_are_all_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(_written(tmp_path, []), ["stage2.epocs=1", "seed=2", "loops.workers=1"])
    told = str(caught.value)
    assert "(1) stage2.epocs=1: unknown key 'epocs'; did you mean 'epochs'?" in told
    assert "(2) loops.workers=1: unknown key 'loops'; did you mean 'loop'?" in told


def test_what_lacks_the_most_needed_hides_nobody_else(tmp_path: Path) -> None:
    """A detector of no series type cannot be asked, nor what needs it; the others can."""
    path = _written(tmp_path, ["a strange loss", "a bound"], {_ONE + "t2": {"answer": "boxes"}})
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    told = str(caught.value)
    assert "stage1.members.t2.series_type is missing" in told
    assert "'hinge'" in told
    assert "batch_size is 0" in told
    assert "(4)" not in told


def test_a_stage_without_members_hides_nothing(tmp_path: Path) -> None:
    path = _written(tmp_path, ["a strange loss", "a strange key of the loop"], {"stage1": {"image_size": 64}})
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    told = str(caught.value)
    for words in ("[stage1] has no members; add a table", "'hinge'", "unknown key 'worker'"):
        assert words in told
    assert "(4)" not in told


def test_a_sentence_that_quotes_a_value_nobody_wrote_waits(tmp_path: Path) -> None:
    """With num_classes mistyped, what the default does not fit is not told."""
    place = {_ONE + "t1.place": "whole", _ONE + "t1.points": "series"}
    with pytest.raises(InputError, match="num_classes = 5 has no meaning"):
        load_recipe(_written(tmp_path, [], place))
    with pytest.raises(InputError, match="unknown key 'num_clases'") as caught:
        load_recipe(_written(tmp_path, [], place | {_ONE + "t1.num_clases": 10}))
    assert "no meaning" not in str(caught.value)
