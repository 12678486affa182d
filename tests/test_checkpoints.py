"""Checkpoints as other code saved them: wrapped, nested, numbered, cut short, or something else under that name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_convert import FORAMINAL, SPINAL, blank, in_process, refusal, save

from lumbar.bundle.convert.convert import convert_checkpoints, read_checkpoint
from lumbar.bundle.convert.original import own_keys, plain_keys
from lumbar.bundle.convert.reader import read
from lumbar.issues import InputError

DETECTOR = "sagittal_t2"
assert in_process  # a fixture


@pytest.mark.parametrize("name", [DETECTOR, SPINAL, FORAMINAL, "global_convnext_nano"])
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "module.module.", "net.", "model.",
     "model.net.", "_orig_mod.model.module.", "state.ema.network.0."],
)  # fmt: skip
def test_words_before_every_key_are_taken_off_in_any_number_and_order(name: str, prefix: str) -> None:
    keys = list(own_keys(name))
    assert plain_keys([prefix + key for key in keys]) == {prefix + key: key for key in keys}


def test_words_of_wrapped_parts_are_taken_off_inside_of_keys() -> None:
    keys = list(own_keys(SPINAL))
    stored = [key.replace("model_axi.", "model_axi._orig_mod.").replace(".rnn.", ".rnn.module.") for key in keys]
    assert list(plain_keys([*stored, "n_averaged"]).values()) == keys


def test_a_detector_keeps_the_word_that_is_its_own() -> None:
    assert set(own_keys(DETECTOR)) == set(plain_keys(list(own_keys(DETECTOR))))
    assert all(key.startswith("unet.") for key in plain_keys([f"unet.{key}" for key in own_keys(DETECTOR)]).values())


@pytest.mark.usefixtures("in_process")
def test_what_is_still_wrong_behind_prefixes_is_named_in_the_original_s_words(tmp_path: Path) -> None:
    state = {f"net.module.{key}": value for key, value in blank(SPINAL).items() if key != "classifier.bias"}
    save(tmp_path / "in" / "a.pt", state)
    assert "the nearest is spinal_resnet18 (missing: classifier.bias)" in refusal(tmp_path / "in", tmp_path / "out")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("place", ["state_dict", "model", "ema"])
def test_a_wrapped_network_below_an_entry_becomes_a_member(tmp_path: Path, place: str) -> None:
    wrapped = {f"_orig_mod.module.{key}": value for key, value in blank(SPINAL).items()}
    save(tmp_path / "in" / "spinal_cv3.pt", {"epoch": 3, place: wrapped})
    bundle = convert_checkpoints(tmp_path / "in", tmp_path / "out")
    assert [(member.name, member.fold) for member in bundle.manifest.members] == [("spinal_resnet18_fold2", 2)]
    assert bundle.network("spinal_resnet18_fold2").head.bias.tolist() == [0.25] * 3


# ---- folds ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("name", "word"),
    [("spinal-cv0", "cv0"), ("spinal_cv_999", "cv_999"), ("spinal-fold100", "fold100"), ("s_cv" + "9" * 30, "cv999")],
)
def test_a_name_whose_fold_can_be_none_is_refused(tmp_path: Path, name: str, word: str) -> None:
    save(tmp_path / "in" / f"{name}.pt", blank(SPINAL))
    text = refusal(tmp_path / "in", tmp_path / "out")
    assert f"'{word}" in text
    assert "is no fold: they are counted from" in text
    if name == "spinal-cv0":  # a mapping says what a name cannot, whatever the name
        (tmp_path / "folds.toml").write_text(f'"{name}.pt" = 3\n')
        bundle = convert_checkpoints(tmp_path / "in", tmp_path / "out", folds=tmp_path / "folds.toml")
        assert [member.fold for member in bundle.manifest.members] == [3]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("value", ["true", "-1", "100", "1.0", '"1"', "nan", "{fold = true}", "{fold = -2}", "9" * 30])
def test_a_mapping_whose_fold_is_none_is_refused(tmp_path: Path, value: str) -> None:
    save(tmp_path / "in" / "a.pt", blank(SPINAL))
    (tmp_path / "folds.toml").write_text(f'"a.pt" = {value}\n')
    assert "folds.toml: 'a.pt': " in refusal(tmp_path / "in", tmp_path / "out", folds=tmp_path / "folds.toml")


# ---- weights -------------------------------------------------------------------------------------------------------


def nan_in(state: dict) -> None:
    key = "classifier.weight"
    state[key] = state[key].clone()
    state[key][0, 0] = float("nan")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nan_in, "not finite: head.weight"),
        (lambda s: s.update({"classifier.bias": torch.ones(3, dtype=torch.int64)}), "stored as int64: head.bias"),
        (lambda s: s.update({"classifier.bias": torch.ones(3, dtype=torch.complex64)}), "stored as complex64"),
    ],
)
def test_weights_that_are_no_numbers_are_not_converted(tmp_path: Path, change: Callable, words: str) -> None:
    state = blank(SPINAL)
    change(state)
    path = save(tmp_path / "in" / "spinal_cv1.pt", state)
    text = refusal(tmp_path / "in", tmp_path / "out")
    assert text.startswith(f"{path}: no weights that a network can compute with")
    assert words in text


# ---- something else under that name --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty); copy or download it again"),
        (bytes(1000), "it begins with zeros only"),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "it is a web page"),
        (b'\n  <html lang="en"><head></head></html>', "it is a web page"),
        (b"hello world", "it is no file that torch saved"),
        (b'{"epoch": 3}', "it is no file that torch saved"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 94\n", "run `git lfs pull`"),
    ],
)
def test_what_downloads_leave_behind_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: cannot be read \(") as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert words in str(caught.value)


def test_a_checkpoint_that_is_cut_short_is_told_as_such(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"weight": torch.randn(1000)})
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(
            InputError, match=r"a\.pt: cannot be read \(its end is missing\); copy or download it again"
        ):
            read_checkpoint(path)


def test_tensors_that_share_their_numbers_and_files_of_before_2019_are_read_all_the_same(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "rows": whole,
        "same": whole,
        "part": whole[1:],
        "turned": whole.T,
        "alone": torch.tensor(3),
        "none": torch.empty(0),
    }
    for number, modern in enumerate((True, False)):
        path = tmp_path / f"{number}.pt"
        torch.save({"model": state}, path, _use_new_zipfile_serialization=modern)
        out = tmp_path / f"out{number}"
        out.mkdir()
        assert read(path, out) == {"places": ["model"]}
        found = load_file(out / "0.safetensors")
        assert found.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0)
