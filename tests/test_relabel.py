"""Labels looked at again: the page of a run, in headless Chromium, and what training makes of the table it exports."""

import csv
import io
import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.ensemble.corrected import corrected, read_corrected
from lumbar.ensemble.suspects import read_left_out, without
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SEVERITIES, row_id, row_ids
from lumbar.report import relabel
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import write_study
from lumbar.training.folder import RunFolder
from tests.support.browser import check_quiet, chromium_at, css, every, open_anew
from tests.support.worlds import small_phantoms

ROWS = [
    ("spinal_canal_stenosis", "l3_l4"),
    ("left_neural_foraminal_narrowing", "l4_l5"),
    ("right_subarticular_stenosis", "l5_s1"),
]


class Folder(RunFolder):
    """A run of one phantom, that answers what a trained one would."""

    def check_finished(self) -> None:
        pass

    def recipe(self) -> Any:
        bundled = {"one": None, "other": None}
        return SimpleNamespace(folds=SimpleNamespace(train=(0,)), stage2=SimpleNamespace(bundled=lambda: bundled))

    def keypoints(self, folds: tuple[int, ...]) -> Any:
        return {study: [] for study in self.labelled_keypoints(folds)}

    def labelled_keypoints(self, folds: tuple[int, ...]) -> Any:
        data = open_data(self.root.parent / "data")
        (study,) = data.study_ids
        points = label_keypoints(read_study(data, study), study_rows(data.coordinates)[study])
        return {study: list(points.values())}


@pytest.fixture(scope="module")
def study_and_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    root = tmp_path_factory.mktemp("relabel")
    data = open_data(small_phantoms(root / "data", 1))
    (study,) = data.study_ids
    run = root / "run"
    (run / "predictions").mkdir(parents=True)
    write_study(read_study(data, study), run / "cache" / "studies" / f"{study}.safetensors", "x")
    table = data.labels.loc[[study], list(LABEL_COLUMNS)].rename_axis("study_id").reset_index()
    table.to_csv(run / "labels.csv", index=False)
    for number, name in enumerate(("blend", "one", "other")):
        shares = np.random.default_rng(number).dirichlet([1, 1, 1], 25)
        frame = pd.DataFrame(shares, columns=list(SEVERITIES))
        frame.insert(0, "row_id", row_ids(study))
        frame.drop(index=[2] if name == "other" else []).to_csv(run / "predictions" / f"{name}.csv", index=False)
    names = [row_id(study, condition, level) for condition, level in ROWS]
    pd.DataFrame({"row_id": names, "label": "Severe"}).to_csv(run / "suspect_labels.csv", index=False)
    page = root / "page.html"
    assert relabel.write_page(Folder(run), page) == len(ROWS)
    return study, page


def block(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_each_row_with_its_label_answers_region_and_slices(study_and_page: tuple[int, Path]) -> None:
    study, page = study_and_page
    held = block(page)
    labels = open_data(page.parent / "data").labels.loc[study]
    assert [row["row"] for row in held["rows"]] == [row_id(study, *row) for row in ROWS]
    for row, (condition, level) in zip(held["rows"], ROWS, strict=True):
        assert SEVERITIES[row["label"]].lower() == str(labels[f"{condition}_{level}"]).lower().replace("/", "_")
        names = [one["name"] for one in row["answers"]]
        assert names == (
            ["blend", "one"] if level == "l3_l4" else ["blend", "one", "other"]
        )  # who is silent says nothing
        assert all(abs(sum(one["percent"]) - 100) <= 1 for one in row["answers"])
        assert sum(one["own"] for one in row["slices"]) == 1
        assert all(0 < one["x"] < 1 and 0 < one["y"] < 1 for one in row["slices"])
        assert row["region"] is not None
    assert set(re.findall(r"https?://[^\"'` )]+", page.read_text("utf-8"))) == {"http://www.w3.org/2000/svg"}
    assert str(page.parent) not in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("row_id\nnone\n", "not a row id"),
        ("row_id\n", "lists no label"),
        ("row_id\n7_spinal_canal_stenosis_l1_l2\n", "study 7"),
    ],
)
def test_a_list_that_cannot_be_is_told(rows: str, words: str, study_and_page: tuple[int, Path], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(rows)
    with pytest.raises(InputError, match=words):
        relabel.write_page(Folder(study_and_page[1].parent / "run"), tmp_path / "page.html", tmp_path / "rows.csv")
    assert not (tmp_path / "page.html").exists()


def test_a_run_that_has_not_ended_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_utils.main(["relabel", "--run", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 1
    assert "recipe.json is missing; give a run folder" in capsys.readouterr().err


# ---- what training makes of the table -------------------------------------------------------------------------------
def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["row_id,label,was", *rows]) + "\n")
    return path


def test_changed_labels_take_the_place_of_the_folders(tmp_path: Path) -> None:
    names = [row_id(study, CONDITIONS[0], LEVELS[2]) for study in (11, 12)]
    path = table(
        tmp_path / "t.csv", f"{names[0]},Severe,Moderate", f"{names[1]},Normal/Mild,Severe", "9" + names[0] + ",Severe,"
    )
    codes = {study: np.full((5, 5), start) for study, start in ((11, 1), (12, 0), (13, -1))}
    changed = corrected(codes, read_corrected(path))
    assert changed[11][0, 2] == 2
    assert (changed[11] != codes[11]).sum() == 1
    assert changed[12] is codes[12]  # it had that label
    assert changed[13] is codes[13]
    assert codes[11][0, 2] == 1
    gone = without(codes, read_left_out(path))  # the same table, as a list of what to leave out
    assert gone[11][0, 2] == gone[12][0, 2] == -1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["none,Severe,"], "not a row id"),
        (["1_spinal_canal_stenosis_l1_l2,bad,"], "'bad' of row 1_spinal_canal_stenosis_l1_l2 is no severity"),
        (["1_spinal_canal_stenosis_l1_l2,Severe,"] * 2, "stands there twice"),
    ],
)
def test_a_table_that_cannot_be_is_told(rows: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_corrected(table(tmp_path / "t.csv", *rows))


# ---- in a browser ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium_at(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.mark.slow
def test_keys_decide_the_browser_remembers_and_a_table_goes_out(
    chromium: Any, study_and_page: tuple[int, Path], tmp_path: Path
) -> None:
    study, page = study_and_page
    rows = block(page)["rows"]

    def open_page() -> None:
        open_anew(chromium, page)

    def press(key: str) -> None:
        chromium.switch_to.active_element.send_keys(key)

    def said() -> str:
        return css(chromium, "[role=status]").text

    open_page()
    assert said().startswith("1 of 3: 0 decided, 0 changed. This one: not decided")
    assert len(every(chromium, ".slice svg")) == len(rows[0]["slices"])
    drawn = css(chromium, ".film img")
    assert chromium.execute_script("return arguments[0].naturalWidth", drawn) == 5 * 160
    wanted = (rows[0]["label"] + 1) % 3
    press(str(wanted + 1))
    assert said().startswith("2 of 3: 1 decided, 1 changed")
    press("k")
    assert said().startswith("3 of 3: 2 decided, 1 changed")
    press("s")
    assert said().startswith("3 of 3: 3 decided, 1 changed. This one: skipped")
    open_page()  # what was decided is still there
    assert "3 decided, 1 changed" in said()
    for key in ("\ue012", "\ue012", "\ue012"):  # arrow left
        press(key)
    assert "This one: changed to" in said() or "3 of 3" in said()
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    link = chromium.execute_script(
        "const made = []; const click = HTMLAnchorElement.prototype.click;"
        "HTMLAnchorElement.prototype.click = function () { made.push([this.href, this.download]); click.call(this); };"
        "document.getElementById('export').click(); HTMLAnchorElement.prototype.click = click; return made[0];"
    )
    assert link[1] == "relabelled.csv"
    text = urllib.parse.unquote(link[0].partition(",")[2])
    (out,) = csv.DictReader(io.StringIO(text))
    assert out == {"row_id": rows[0]["row"], "label": SEVERITIES[wanted], "was": SEVERITIES[rows[0]["label"]]}
    (tmp_path / "out.csv").write_text(text)
    place = study, CONDITIONS.index(ROWS[0][0]), LEVELS.index(ROWS[0][1])
    assert read_corrected(tmp_path / "out.csv") == {place: wanted}
    assert read_left_out(tmp_path / "out.csv") == {place}
    check_quiet(chromium)
