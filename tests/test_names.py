"""Names of files and folders as they come: no UTF-8, line ends, escape sequences, zeros before numbers."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import train_utils
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.files.write import write_json, write_text
from lumbar.issues import LONGEST, InputError, Issue, cut, few, printable
from lumbar.study.study import open_data, read_study
from tests.support.worlds import small_phantoms, tiny_bundle
from tests.test_blend import world as tables_of
from tests.test_blend import write_world

pytestmark = pytest.mark.usefixtures("networks_kept")

#: A latin-1 umlaut from an old archive, a line end, a terminal's escape sequence, mark-up.
ODD = os.fsdecode(b"R\xfccken\n\x1b[31m<b>")
SHOWN = "R\\xfccken\\n\\x1b[31m<b>"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data", 1)
    tiny_bundle(root / "weights")
    return root


def rename(folder: Path) -> None:
    """Give every second file of every series an odd name, and spoil one of them."""
    for series in folder.iterdir():
        files = sorted(series.iterdir())
        for number, file in enumerate(files[::2]):
            file.rename(series / f"{ODD}{number}.dcm")
        (series / f"{ODD}0.dcm").write_bytes(b"nothing")


def assert_plain(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert "\udcfc" not in text
    return text


def test_a_run_goes_through_whatever_files_and_folders_are_called(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, weights = (tmp_path / f"{word}{ODD}" for word in ("data", "out", "weights"))
    shutil.copytree(world / "data", data)
    shutil.copytree(world / "weights", weights)
    study = next((data / "train_images").iterdir())
    rename(study)
    words = ["predict", "--data", data, "--weights", weights, "--out", out, "--device", "cpu", "--on-error", "prior"]
    assert train_utils.main([*map(str, words), "--html"]) == 0
    said = capsys.readouterr()
    assert f"out{SHOWN}/submission.csv" in said.out
    assert "\x1b" not in said.out + said.err
    report = json.loads(assert_plain(out / "run_report.json"))
    details = [issue["detail"] for issue in report["issues"]["list"]]
    assert any(f"{SHOWN}0.dcm" in detail for detail in details)
    assert not any(str(tmp_path) in detail for detail in details)
    assert report["bundle"]["name"] == f"weights{SHOWN}"
    assert '"name":"R\\\\xfccken\\\\n\\\\x1b[31m\\u003cb>' in assert_plain(out / "report.html")
    assert_plain(out / "keypoints.csv")
    assert len(pd.read_csv(out / "submission.csv")) == 25


def test_commands_take_odd_paths_and_show_them_plainly(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / ODD
    shutil.copytree(world / "weights", weights)
    manifest = json.loads((weights / "manifest.json").read_text())
    write_json(manifest | {"description": "new\x1b[2J\nline \udce4"}, weights / "manifest.json")
    assert train_utils.main(["verify", "--weights", str(weights)]) == 0
    assert train_utils.main(["card", "--weights", str(weights)]) == 0
    assert train_utils.main(["verify", "--weights", str(tmp_path / f"none{ODD}")]) == 1
    said = capsys.readouterr()
    assert f"in {tmp_path}/{SHOWN}: new\\x1b[2J\\nline \\xe4" in said.out
    assert f"none{SHOWN}/manifest.json: cannot be read" in said.err
    assert not {"\x1b", "\udce4"} & {*said.out, *said.err}


def test_tables_with_odd_names_are_blended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, tables = write_world(tmp_path, *tables_of(30, seed=1))
    renamed = [table.rename(table.with_name(f"{ODD}{table.name}")) for table in tables]
    words = ["blend", "--labels", labels, "--tables", *renamed, "--folds", "3", "--method", "mean", "--json"]
    assert train_utils.main([*map(str, words), "--out", str(tmp_path / f"out{ODD}")]) == 0
    said = capsys.readouterr()
    assert all(name.startswith(SHOWN) for name in json.loads(said.out)["tables"])
    assert f"written to {tmp_path}/out{SHOWN}: mean" in said.err
    assert (tmp_path / f"out{ODD}" / "blend.csv").is_file()


def test_what_utf_8_cannot_hold_is_escaped_when_written(tmp_path: Path) -> None:
    write_json({"name": "a\udce4"}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "a\udce4"}
    write_text("a\udce4", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"a\\udce4"


def test_no_text_from_a_file_fills_a_sentence() -> None:
    book = "x\n" * 1_000_000
    for text in (Issue("series_ignored", 1, None, f"reason {book} remedy").detail, str(InputError(f"{book}; do"))):
        assert len(text) <= LONGEST
        assert text.isprintable()
    assert str(InputError(f"{book}; give another")).endswith("; give another")
    assert cut("abcdef", 4) == "abc…"
    assert cut("abcd", 4) == "abcd"
    assert few(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert printable(ODD) == SHOWN


@pytest.fixture
def zeros(world: Path, tmp_path: Path) -> Path:
    """The sound study under ids and folders with zeros before their numbers."""
    shutil.copytree(world / "data", tmp_path / "data")
    data = tmp_path / "data"
    table = pd.read_csv(data / "train_series_descriptions.csv", dtype=str)
    study = next((data / "train_images").iterdir())
    for number, series in enumerate(table["series_id"], 1):
        (study / series).rename(study / f"{number:04}")
    study.rename(study.with_name("00017"))
    rows = [f"17,{number},{words}" for number, words in enumerate(table["series_description"], 1)]
    (data / "train_series_descriptions.csv").write_text("study_id,series_id,series_description\n" + "\n".join(rows))
    for name in ("train.csv", "train_label_coordinates.csv"):
        (data / name).unlink()
    return data


def test_folders_with_zeros_before_their_numbers_are_found(world: Path, zeros: Path) -> None:
    plain, data = open_data(world / "data"), open_data(zeros)
    assert data.unlisted == ()
    study, sound = read_study(data, 17), read_study(plain, plain.study_ids[0])
    assert [len(group) for group in study.series.values()] == [len(group) for group in sound.series.values()]
    assert [issue.code for issue in study.issues] == [issue.code for issue in sound.issues]
    table = zeros / "train_series_descriptions.csv"
    table.write_text(table.read_text().replace("\n17,", "\n000017,00"))
    assert [len(group) for group in read_study(open_data(zeros), 17).series.values()] == [1, 1, 1]


def test_a_prediction_of_folders_with_zeros_is_that_of_plain_ones(world: Path, zeros: Path, tmp_path: Path) -> None:
    for data, out in ((world / "data", tmp_path / "plain"), (zeros, tmp_path / "zeros")):
        words = ["predict", "--data", data, "--weights", world / "weights", "--out", out, "--device", "cpu"]
        assert train_utils.main([*map(str, words)]) == 0
    one, other = (pd.read_csv(tmp_path / name / "submission.csv") for name in ("plain", "zeros"))
    assert other["row_id"].str.startswith("17_").all()
    pd.testing.assert_frame_equal(one.drop(columns="row_id"), other.drop(columns="row_id"))


def test_two_folders_of_one_number_are_told(zeros: Path) -> None:
    shutil.copytree(zeros / "train_images" / "00017", zeros / "train_images" / "17")
    issues = read_study(open_data(zeros), 17).issues
    assert any("2 folders bear the number 17; one of them was read" in issue.detail for issue in issues)


BROKEN = {
    "train.csv": ("study_id\n1\n", "study_id,a\n\n1", "x" * 99, "\0"),
    "train_label_coordinates.csv": ("study_id,x\n1,2\n",),
    "train_sources.csv": ("a,b\n", "study_id,source\nx,y\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_that_prediction_does_not_need_is_told_and_left_out(
    world: Path, zeros: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for content in BROKEN[name]:
        (zeros / name).write_text(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            open_data(zeros)
        data = open_data(zeros, strict=False)
        assert data.labels is None
        assert data.study_ids == (17,)
        assert name in caplog.text
        assert "left out" in caplog.text


def test_predict_and_its_report_do_without_broken_labels(world: Path, zeros: Path, tmp_path: Path) -> None:
    (zeros / "train.csv").write_text("broken")
    words = ["predict", "--data", zeros, "--weights", world / "weights", "--out", tmp_path / "out", "--device", "cpu"]
    assert train_utils.main([*map(str, words), "--html"]) == 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_bundle_is_the_same_under_any_name(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "weights", tmp_path / ODD)
    one: Bundle = load_bundle(world / "weights")
    assert load_bundle(tmp_path / ODD).identity == one.identity
