"""The original's checkpoints become a bundle: recognised by their keys, or refused in one sentence."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from safetensors.torch import load_file, save_file

from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.convert.child import ReadingChild
from lumbar.bundle.convert.convert import convert_checkpoints, read_checkpoint
from lumbar.bundle.convert.original import EXACT, own_keys, plain_keys, recognise
from lumbar.bundle.convert.reader import state_dicts
from lumbar.ensemble.average import blend
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, row_ids
from lumbar.prediction.predictor import Predictor

SPINAL, FORAMINAL = "spinal_resnet18", "foraminal_resnet18"


def blank(name: str, value: float = 0.25) -> dict[str, torch.Tensor]:
    """A state dict of the original with one number everywhere; takes no room in a file."""
    return {key: torch.tensor(value).expand(shape) for key, (_, shape) in own_keys(name).items()}


def save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Files are read in this process: starting another one would take most of the tests' time."""

    def read(self: ReadingChild, path: Path, scratch: Path) -> dict[str, Path]:
        found = dict(state_dicts(torch.load(path, weights_only=True)))
        files = {place: scratch / f"{number}.safetensors" for number, place in enumerate(found)}
        for place, state in found.items():
            save_file({key: value.contiguous() for key, value in state.items()}, files[place])
        return files

    monkeypatch.setattr(ReadingChild, "state_files", read)


def refusal(folder: Path, out: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        convert_checkpoints(folder, out, **options)
    assert not out.exists() or not any(out.iterdir())
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- recognition ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="needs the recorded keys in ../shared/parity")
def test_all_fifteen_networks_are_recognised_from_the_recorded_keys():
    models = json.loads((SHARED / "parity" / "models.json").read_text())["models"]
    names = {"coord_sagt2": "sagittal_t2", "coord_sagt1": "sagittal_t1", "coord_axi": "axial_t2"}
    for recorded_name, model in models.items():
        keys = model["keys"] | model.get("swin_extra_buffers_timm_0.9.2", {})
        plain = plain_keys([f"module.{key}" for key in keys])
        shapes = {key: tuple(keys[stored.removeprefix("module.")]) for stored, key in plain.items()}
        name = names.get(recorded_name, recorded_name.replace("_patch4_window7_224", ""))
        assert recognise(shapes, recorded_name, "x.pt") == name


def test_the_task_of_twins_is_taken_from_words_beside_the_keys():
    shapes = {key: shape for key, (_, shape) in own_keys(FORAMINAL).items()}
    assert recognise(shapes, "runs/SubarticularROIModel", "x.pt") == "subarticular_resnet18"
    with pytest.raises(InputError, match="fit foraminal_resnet18 and subarticular_resnet18 alike; say which in a TOML"):
        recognise(shapes, "rsna-2024-hardy-voice-1244", "x.pt")
    with pytest.raises(InputError, match="alike"):
        recognise(shapes, "foraminal_and_subarticular", "x.pt")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("classifier.bias"), "the nearest is spinal_resnet18 (missing: classifier.bias)"),
        (lambda s: s.update(extra=torch.zeros(1)), "(unexpected: extra)"),
        (lambda s: s.update({"classifier.bias": torch.zeros(15)}), "(of another shape: classifier.bias)"),
        (lambda s: [s.pop(key) for key in list(s)[:9]], "model_sagt2.model.conv1.weight, "),
        (lambda s: [s.pop(key) for key in list(s)[:9]], " and 4 more)"),
    ],
)
def test_keys_that_do_not_match_exactly_are_named(tmp_path, change, words):
    state = blank(SPINAL)
    change(state)
    save(tmp_path / "in" / "spinal_fold0.pt", state)
    assert words in refusal(tmp_path / "in", tmp_path / "out")


# ---- files as training saved them ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_checkpoints_are_found_in_folders_with_folds_and_best_epochs(tmp_path):
    for fold in (1, 2):
        save(tmp_path / "in" / "giddy-monkey" / f"giddy-monkey-cv{fold}.pt", blank(SPINAL, 0.5))
        save(tmp_path / "in" / "giddy-monkey" / f"giddy-monkey-cv{fold}_best.pt", blank(SPINAL))
    save(tmp_path / "in" / "hardy-voice" / "hardy-voice-cv1_best.pt", blank(FORAMINAL))
    config = {"model": {"type": "ForaminalROIModel", "args": {}}}
    (tmp_path / "in" / "hardy-voice" / "config.json").write_text(json.dumps(config))
    save(tmp_path / "in" / "meadow" / "subarticular_fold3.pt", blank("subarticular_resnet18"))
    bundle = convert_checkpoints(tmp_path / "in", tmp_path / "out")
    assert [(member.name, member.fold) for member in bundle.manifest.members] == [
        ("spinal_resnet18_fold0", 0),
        ("spinal_resnet18_fold1", 1),
        ("foraminal_resnet18_fold0", 0),
        ("subarticular_resnet18_fold3", 3),
    ]
    assert all(member.spec.preprocessing == EXACT for member in bundle.manifest.members)
    assert bundle.manifest.blend.method == "mean_logits"
    assert bundle.network("spinal_resnet18_fold0").head.bias.tolist() == [0.25] * 3  # of the best epoch
    assert np.allclose(bundle.manifest.prior, 1 / 3)
    assert "uniform prior" in bundle.manifest.description


@pytest.mark.usefixtures("in_process")
def test_the_prior_is_weighted_by_the_labels_given(tmp_path):
    save(tmp_path / "in" / "spinal.pt", blank(SPINAL))
    rows = [f"{study}," + ",".join(["Normal/Mild"] * 24 + ["Severe"]) for study in (1, 2)]
    (tmp_path / "train.csv").write_text("\n".join([",".join(["study_id", *LABEL_COLUMNS]), *rows]) + "\n")
    bundle = convert_checkpoints(tmp_path / "in", tmp_path / "out", labels=tmp_path / "train.csv")
    prior = np.asarray(bundle.manifest.prior)
    assert prior[0, 0].argmax() == 0
    assert prior[4, 4].argmax() == 2
    assert "weighted by train.csv" in bundle.manifest.description


@pytest.mark.usefixtures("in_process")
def test_a_state_dict_inside_of_other_entries_is_found(tmp_path):
    content = {
        "epoch": 3,
        "best": 0.41,
        "model_state_dict": {f"module.{key}": value for key, value in blank(SPINAL).items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "scaler": {"scale": torch.tensor(2.0)},
    }
    state = read_checkpoint(save(tmp_path / "a.pt", content))
    assert set(state) == set(own_keys(SPINAL))


@pytest.mark.usefixtures("in_process")
def test_of_several_networks_in_a_file_one_must_be_named(tmp_path):
    save(tmp_path / "in" / "a_cv1.pt", {"model": blank(SPINAL, 0.5), "ema": blank(SPINAL)})
    assert "holds several state dicts (model, ema); name one as `entry`" in refusal(tmp_path / "in", tmp_path / "out")
    (tmp_path / "folds.toml").write_text('"a_cv1.pt" = {entry = "ema"}\n')
    bundle = convert_checkpoints(tmp_path / "in", tmp_path / "out", folds=tmp_path / "folds.toml")
    assert bundle.network("spinal_resnet18_fold0").head.bias.tolist() == [0.25] * 3
    (tmp_path / "folds.toml").write_text('"a_cv1.pt" = {entry = "emma"}\n')
    with pytest.raises(InputError, match="has no entry 'emma'; it has 'model', 'ema'"):
        convert_checkpoints(tmp_path / "in", tmp_path / "out2", folds=tmp_path / "folds.toml")


@pytest.mark.usefixtures("in_process")
def test_constant_buffers_of_older_timm_are_dropped(tmp_path):
    state = blank("foraminal_swin_tiny")
    for layer, heads in ((0, 64), (1, 16)):
        state[f"model.model.layers.{layer}.blocks.1.attn_mask"] = torch.zeros(heads, 49, 49)
        state[f"model.model.layers.{layer}.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    read = read_checkpoint(save(tmp_path / "foraminal.pt", state))
    assert set(read) == set(own_keys("foraminal_swin_tiny"))


@pytest.mark.usefixtures("in_process")
def test_a_toml_file_names_what_the_files_do_not_say(tmp_path):
    save(tmp_path / "in" / "one.pt", blank(FORAMINAL))
    save(tmp_path / "in" / "two.pt", blank(SPINAL))
    (tmp_path / "folds.toml").write_text('"two.pt" = 4\n["one.pt"]\nmember = "subarticular_resnet18"\nfold = 2\n')
    bundle = convert_checkpoints(tmp_path / "in", tmp_path / "out", folds=tmp_path / "folds.toml")
    assert {member.name for member in bundle.manifest.members} == {
        "subarticular_resnet18_fold2",
        "spinal_resnet18_fold4",
    }


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("folds = [", "not valid TOML"),
        ('"other.pt" = 1', "'other.pt' names 0 of the files"),
        ('"a.pt" = {fold = 1, colour = 2}', "unknown key 'colour'"),
        ('"a.pt" = {member = "spinal_resnet19"}', "no member 'spinal_resnet19'; known: sagittal_t2"),
        ('"a.pt" = {member = "global_resnet18"}', "the mapping says global_resnet18, its keys say spinal_resnet18"),
    ],
)
def test_toml_files_that_say_something_else_are_refused(tmp_path, text, words):
    save(tmp_path / "in" / "a.pt", blank(SPINAL))
    (tmp_path / "folds.toml").write_text(text)
    assert words in refusal(tmp_path / "in", tmp_path / "out", folds=tmp_path / "folds.toml")


@pytest.mark.usefixtures("in_process")
def test_two_files_of_one_network_and_fold_are_refused(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.pt", blank(SPINAL))
    assert "a.pt and b.pt are both spinal_resnet18; give each its fold" in refusal(tmp_path / "in", tmp_path / "out")


def test_folders_without_checkpoints_are_refused(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in").mkdir()
    assert "holds no .pt file" in refusal(tmp_path / "in", tmp_path / "out")


# ---- hostile and damaged files -------------------------------------------------------------------------------------


class Payload:
    """Unpickled without care this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_one_child_reads_all_files_runs_no_code_of_a_bad_one_and_goes_on_behind_it(tmp_path, monkeypatch):
    """Behind one that takes too long, too, where a process can be copied."""
    begun = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: begun.append(args) or popen(*args, **options))
    good = [save(tmp_path / f"{number}.pt", {"weight": torch.full((3,), float(number))}) for number in range(2)]
    bad = save(tmp_path / "bad.pt", {"weight": torch.zeros(1), "extra": Payload(tmp_path / "ran")})
    with ReadingChild() as reading:
        for number, path in ((0, good[0]), (None, bad), (1, good[1])):
            if number is None:
                words = r"bad\.pt: holds more than tensors, or is no checkpoint \(.*\); give a file"
                with pytest.raises(InputError, match=words):
                    reading.state_files(path, tmp_path)
                assert not (tmp_path / "ran").exists()
            else:
                (file,) = reading.state_files(path, tmp_path).values()
                assert load_file(file)["weight"].tolist() == [number] * 3
        if hasattr(os, "fork"):
            reading.seconds = -1
            with pytest.raises(InputError, match=r"0\.pt: could not be read within -1 s; give a file"):
                reading.state_files(good[0], tmp_path)
            reading.seconds = 60
            assert len(reading.state_files(good[1], tmp_path)) == 1
    assert len(begun) == 1


@pytest.mark.slow
def test_a_child_that_ends_is_told_and_another_takes_its_place(tmp_path):
    path = save(tmp_path / "a.pt", {"weight": torch.zeros(3)})
    with ReadingChild() as reading:
        reading.state_files(path, tmp_path)
        reading._process.kill()
        with pytest.raises(InputError, match=r"a\.pt: reading ended with -9; give a file"):
            reading.state_files(path, tmp_path)
        assert len(reading.state_files(path, tmp_path)) == 1


@pytest.mark.slow
def test_a_checkpoint_that_swells_in_memory_is_stopped(tmp_path):
    path = save(tmp_path / "a.pt", {"weight": torch.zeros(1).expand(1 << 33)})
    with pytest.raises(InputError, match=r"a\.pt: (cannot be read|needs more memory)"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04broken"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: (cannot be read|holds more than tensors)"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = save(tmp_path / "a.pt", {"weight": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match=r"a\.pt: cannot be read"):
        read_checkpoint(path)


@pytest.mark.usefixtures("in_process")
def test_a_file_without_a_state_dict_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no state dict"):
        read_checkpoint(save(tmp_path / "a.pt", {"epoch": 3}))


# ---- round trip ----------------------------------------------------------------------------------------------------


RESNETS = [f"{task}_resnet18" for task in ("spinal", "foraminal", "subarticular", "global")]
BACKBONES = ("resnet18", "swin_tiny", "convnext_nano")
TABLES = {"split_resnet18": RESNETS[:3], "global_resnet18": RESNETS[3:]}
EVERY = [name.replace("resnet18", backbone) for backbone in BACKBONES for name in RESNETS]
large = pytest.mark.skipif("LUMBAR_SLOW" not in os.environ, reason="converts 1.8 GB; set LUMBAR_SLOW=1 to run it")


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="needs the recorded results in ../shared/parity")
@pytest.mark.skipif(not (SHARED / "real" / "cc0_study").is_dir(), reason="needs the real study in ../shared/real")
@pytest.mark.parametrize(
    "tables", [TABLES, pytest.param(TABLES | {"ensemble_6": EVERY}, marks=large)], ids=["resnet18", "all"]
)
def test_converted_checkpoints_predict_the_original_tables(tmp_path, monkeypatch, tables):
    import test_parity_ninth as parity

    graders = sorted({name for names in tables.values() for name in names})
    for name in ("sagittal_t2", *graders):
        keys = {own: key for key, (own, _) in own_keys(name).items()}
        state = {keys[own]: value for own, value in parity.network(name).state_dict().items()}
        save(tmp_path / "in" / f"{name}_fold0.pt", state)
    convert_checkpoints(tmp_path / "in", tmp_path / "out")
    bundle = load_bundle(tmp_path / "out")
    monkeypatch.setattr("lumbar.keypoints.detect.detect", lambda *_: (list(parity.points().values()), []))
    result = Predictor(bundle)(parity.study())
    order = [member.name.removesuffix("_fold0") for member in bundle.manifest.members if member.spec.stage == "grading"]
    assert sorted(order) == sorted(graders)
    for table, tasks in tables.items():
        members = result.members[[order.index(name) for name in tasks]]
        probabilities, spoken = blend(members, bundle.manifest.prior, "mean_logits")
        assert spoken.all()
        recorded = parity.recorded("outputs/outputs.json")[table]
        expected = dict(zip(recorded["row_ids"], recorded["prob"], strict=True))
        table_order = np.array([expected[row] for row in row_ids(1001)]).reshape(len(CONDITIONS), 5, 3)
        assert probabilities == pytest.approx(table_order, abs=1e-4)
