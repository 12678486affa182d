"""Bundles, charts, blends, runs and studies are written over their own kind only; what is refused stays as it was."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train_utils
from lumbar.bundle.card import CARD
from lumbar.bundle.manifest import MANIFEST
from lumbar.files.write import writing_into
from lumbar.issues import InputError
from lumbar.kaggle.inputs import WHEELS
from lumbar.labels import LABEL_COLUMNS, SEVERITIES, SEVERITY_LABELS, row_ids
from tests.conftest import ROOT
from tests.support.worlds import small_phantoms, tiny_bundle
from tests.test_exchange import tree
from tests.test_output import refused, write

pytestmark = pytest.mark.usefixtures("networks_kept")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of two studies and a bundle."""
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data")
    tiny_bundle(root / "weights")
    return root


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(world, tmp_path / "w")


# -- bundles and cards -------------------------------------------------------------------------------------------------


def _convert(root: Path) -> list[str]:
    return ["convert", "--checkpoints", str(root / "in"), "--out", str(root / "weights")]


@pytest.mark.parametrize("bad", [b"", b"no checkpoint", None])
def test_a_failed_conversion_leaves_the_bundle_that_was_there(
    bad: bytes | None, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "in").mkdir()
    if bad is None:
        torch.save({"weight": torch.zeros(3)}, copied / "in/spinal_fold0.pt")
    else:
        (copied / "in/spinal_fold0.pt").write_bytes(bad)
    before = tree(copied)
    refused(_convert(copied), capsys, "spinal_fold0.pt: ")
    assert tree(copied) == before
    assert sorted(path.name for path in copied.iterdir()) == ["data", "in", "weights"]


#: Folders with a manifest.json, and what of each the sentence names.
NOT_A_BUNDLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a web page's": (lambda w: write(w / MANIFEST, '{"name": "an app"}'), "canal.safetensors"),
    "a list": (lambda w: write(w / MANIFEST, "[1]"), "canal.safetensors"),
    "another model beside": (lambda w: write(w / "llama.safetensors"), "llama.safetensors"),
    "notes beside": (lambda w: write(w / "blend.docx"), "blend.docx"),
    "a member exchanged": (lambda w: write(w / "canal.safetensors"), "canal.safetensors"),
    "a card of one's own": (lambda w: write(w / CARD), CARD),
    "a checkpoint beside": (lambda w: write(w / "below/a.pt"), "below"),
}


@pytest.mark.parametrize("what", NOT_A_BUNDLE)
def test_what_is_no_bundle_and_nothing_else_is_never_replaced(
    what: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = NOT_A_BUNDLE[what]
    spoil(copied / "weights")
    torch.save({"weight": torch.zeros(3)}, _made(copied / "in") / "spinal_fold0.pt")
    before = tree(copied)
    refused(_convert(copied), capsys, "which this command did not write there", named)
    refused([*_convert(copied)[:2], str(copied / "weights"), *_convert(copied)[3:]], capsys)
    assert tree(copied) == before


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_card_is_written_again_and_a_readme_of_ones_own_stays(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["card", "--weights", str(copied / "weights")]
    (copied / "figures.json").write_text('[{"title": "t", "command": "", "columns": ["a"], "rows": [["b"]]}]')
    assert train_utils.main(command) == 0
    assert train_utils.main([*command, "--measured", str(copied / "figures.json")]) == 0
    assert train_utils.main(command) == 0
    tiny_bundle(copied / "weights", seed=1)  # goes with its card
    assert not (copied / "weights" / CARD).exists()
    write(copied / "weights" / CARD, "my notes of a year")
    before = tree(copied)
    refused([*command, "--measured", str(copied / "figures.json")], capsys, f"{CARD}: is there already")
    assert tree(copied) == before


# -- charts, blends, runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Labels and a prediction table of 12 studies."""
    rows, labels = ["row_id," + ",".join(SEVERITIES)], ["study_id," + ",".join(LABEL_COLUMNS)]
    for study in range(1, 13):
        labels.append(f"{study}," + ",".join(list(SEVERITY_LABELS)[(study + place) % 3] for place in range(25)))
        shares = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]
        rows += [f"{name},{','.join(map(str, shares[(study + i) % 3]))}" for i, name in enumerate(row_ids(study))]
    (tmp_path / "train.csv").write_text("\n".join(labels) + "\n")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.slow
def test_charts_replace_charts_and_no_picture_of_somebody_else(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tables / "plots"
    given = ["--labels", str(tables / "train.csv"), "--predictions", str(tables / "table.csv"), "--plots", str(out)]
    for _ in range(2):
        assert train_utils.main(["score", *given]) == 0
    (out / "roc.png").write_bytes(b"\x89PNG my own")
    before = tree(tables)
    refused(["score", *given], capsys, "roc.png: is there already")
    assert tree(tables) == before


@pytest.mark.parametrize(
    "name",
    [
        "blend.csv",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("suspect_labels.csv", "fit.json", "thesis.docx")),
    ],
)
def test_a_fitted_blend_replaces_one_and_nothing_else(
    name: str, tables: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--labels", str(tables / "train.csv"), "--tables", str(tables / "table.csv"), "--folds", "2"]
    command = ["blend", *given, "--method", "mean", "--out", str(tables / "blend")]
    for _ in range(2):
        assert train_utils.main(command) == 0
    write(tables / "blend" / name, "row_id,label\nreviewed by hand\n")
    before = tree(tables)
    monkeypatch.setattr("lumbar.ensemble.nested.nested", lambda *_, **__: pytest.fail("computed for nothing"))
    refused(command, capsys, "which this command did not write there", name)
    assert tree(tables) == before


@pytest.mark.parametrize("name", ["thesis.docx", "labels.csv", "recipe.json", "metrics.jsonl"])
def test_training_goes_into_a_new_folder_or_a_run(name: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(copied / "run" / name, '{"flour": 500}')
    write(copied / "run" / "cache" / "kept")
    before = tree(copied)
    given = ["--recipe", str(ROOT / "recipes/shipped.toml"), "--data", str(copied / "data")]
    refused(["train", *given, "--out", str(copied / "run")], capsys, f"run holds {name} and no recipe.json")
    refused(["train", *given, "--out", str(copied / "weights")], capsys, "and no recipe.json of a run")
    assert tree(copied) == before


# -- studies -----------------------------------------------------------------------------------------------------------


#: What phantom has to leave alone, and what of it the sentence names.
DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "labels": (lambda d: write(d / "train.csv", "study_id\n1\n"), "train.csv"),
    "series": (lambda d: write(d / "train_series_descriptions.csv"), "train_series_descriptions.csv"),
    "coordinates": (lambda d: write(d / "train_label_coordinates.csv"), "train_label_coordinates.csv"),
    "images": (lambda d: write(d / "train_images/7/1/1.dcm"), "train_images"),
    "the other split": (lambda d: write(d / "test_series_descriptions.csv"), "test_series_descriptions.csv"),
}
PHANTOM = ["phantom", "--studies", "1", "--seed", "3", "--out"]


@pytest.mark.parametrize("what", DATA)
def test_phantoms_are_not_written_over_data(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, named = DATA[what]
    spoil(tmp_path / "data")
    before = tree(tmp_path)
    refused([*PHANTOM, str(tmp_path / "data")], capsys, f"data holds {named}, which this command did not write")
    assert tree(tmp_path) == before


def test_phantoms_replace_the_same_phantoms_and_more_may_join_them(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_phantoms(tmp_path / "data", 1)
    first = tree(tmp_path / "data")
    slices = sorted((tmp_path / "data").rglob("*.dcm"))
    slices[0].unlink()
    slices[1].write_bytes(slices[1].read_bytes()[:900])  # the end of a kill
    small_phantoms(tmp_path / "data", 1)
    assert tree(tmp_path / "data") == first
    table = tmp_path / "data/train_label_coordinates.csv"
    head, *lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([head, *sorted(lines, reverse=True)]))  # in another order it says the same
    small_phantoms(tmp_path / "data", 2)
    assert tree(tmp_path / "data") == tree(world / "data")
    for command in (["--studies", "1", "--seed", "5"], ["--studies", "2", "--seed", "6"]):
        refused(["phantom", *command, "--out", str(tmp_path / "data")], capsys, "data holds train")
    table = tmp_path / "data/train.csv"
    table.write_text(table.read_text().replace("Moderate", "Severe").replace("Normal/Mild", "Moderate"))
    before = tree(tmp_path)
    refused(["phantom", "--studies", "2", "--seed", "5", "--out", str(tmp_path / "data")], capsys, "holds train.csv")
    assert tree(tmp_path) == before


#: What a user does to the tables of two phantoms.
CUT: dict[str, dict[str, Callable[[list[str]], list[str]]]] = {
    "one table": {"train.csv": lambda lines: lines[:2]},
    "a point": {"train_label_coordinates.csv": lambda lines: lines[:-1]},
    "a line twice": {"train_series_descriptions.csv": lambda lines: [*lines, lines[-1]]},
    "all tables to one study": {
        name: lambda lines: [line for line in lines if line.split(",")[0] in ("study_id", lines[1].split(",")[0])]
        for name in ("train.csv", "train_label_coordinates.csv", "train_series_descriptions.csv")
    },
}


@pytest.mark.parametrize("what", CUT)
def test_tables_of_phantoms_that_somebody_cut_down_stay(
    what: str, copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, change in CUT[what].items():
        table = copied / "data" / name
        table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")
    before = tree(copied)
    monkeypatch.setattr("lumbar.phantom.study.write_study", lambda *_: pytest.fail("rendered for nothing"))
    for studies in (2, 3):
        with pytest.raises(InputError, match=rf"data holds .*{min(CUT[what])}.* or which somebody changed since"):
            small_phantoms(copied / "data", studies)
    assert tree(copied) == before


#: What a user does to a slice that keeps its UIDs.
EDITED: dict[str, Callable[[bytes], bytes]] = {
    "the last pixel": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a name": lambda data: data.replace(b"Phantom^", b"Somebody", 1),
    "something at the end": lambda data: data + b"\0\0",
}


@pytest.mark.parametrize("what", EDITED)
def test_slices_of_phantoms_that_somebody_edited_stay(what: str, tmp_path: Path) -> None:
    small_phantoms(tmp_path / "data", 1)
    edited = sorted((tmp_path / "data").rglob("*.dcm"))[4]
    edited.write_bytes(EDITED[what](edited.read_bytes()))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"holds {edited.parent.name}/{edited.name}, .*somebody changed since; move"):
        small_phantoms(tmp_path / "data", 2)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", ["0", "-2"])
def test_no_studies_at_all_are_refused(number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = train_utils.main(["phantom", "--studies", number, "--seed", "3", "--out", str(tmp_path / "data")])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code in (1, 2)
    assert number in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


# -- packs -------------------------------------------------------------------------------------------------------------


def test_a_pipe_named_as_a_wheel_is_not_waited_for(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels").mkdir()
    pipe = tmp_path / "wheels" / f"{WHEELS[0].replace('-', '_')}-1.0-py3-none-any.whl"
    os.mkfifo(pipe)
    command = ["kaggle", "--weights", str(world / "weights"), "--owner", "me", "--out", str(tmp_path / "out")]
    refused([*command, "--wheels", str(pipe.parent)], capsys, f"{pipe.name}: is no wheel, or a damaged one")


def test_of_a_folder_that_cannot_be_copied_the_first_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in "abc":
        (tmp_path / "from" / name).symlink_to("nowhere")
    with pytest.raises(InputError) as told, writing_into(tmp_path / "to"):
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    assert str(told.value) == (
        f"{tmp_path / 'to'}: cannot be written to (No such file or directory); make room there or give another folder"
    )
