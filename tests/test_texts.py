"""Texts that users give: tables of odd make, ids of any length, JSON and TOML that parsers stumble over."""

import codecs
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.ensemble.store import read_fit
from lumbar.files.read import read_json, read_table, read_texts
from lumbar.issues import InputError
from lumbar.kaggle.inputs import find_inputs
from lumbar.labels import LARGEST_ID
from lumbar.metric import read_labels, read_predictions
from lumbar.recipe.card import read_measured
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data
from lumbar.study.tables import read_coordinates
from lumbar.training.folder import RunFolder
from tests.conftest import ROOT

DEEP = 100_000
ROWS = "id,name,value\n1,a b,0.5\n2,,1e-3\n"


def table(path: Path, content: str | bytes) -> pd.DataFrame:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, ["id", "name", "value"], text=["name"])


SAME = {
    "plain": ROWS,
    "a byte order mark": codecs.BOM_UTF8 + ROWS.encode(),
    "UTF-16": ROWS.encode("utf-16"),
    "UTF-16, the other way": codecs.BOM_UTF16_BE + ROWS.encode("utf-16-be"),
    "Windows' line ends": ROWS.replace("\n", "\r\n"),
    "an old Mac's line ends": ROWS.replace("\n", "\r"),
    "no line end": ROWS.rstrip(),
    "empty lines": "\n\n" + ROWS.replace("\n", "\n\n") + "\n  \n",
    "rows of separators": ROWS + ",,\n,,,,\n",
    "separators at the end of rows": "id,name,value\n1,a b,0.5,\n2,,1e-3,,,\n",
    "separators at the end of all": ROWS.replace("\n", ",\n"),
    "spaces": " id , name,value \n 1 , a b ,0.5\n2, ,  1e-3\n",
    "quotes": '"id","name","value"\n"1","a b","0.5"\n2,"",1e-3\n',
}


@pytest.mark.parametrize("name", SAME)
def test_tables_of_odd_make_are_read_right(tmp_path: Path, name: str) -> None:
    pd.testing.assert_frame_equal(table(tmp_path / "t.csv", SAME[name]), table(tmp_path / "s.csv", ROWS))


REFUSED = {
    "semicolons": (ROWS.replace(",", ";"), "separated by semicolons; save it as CSV with commas"),
    "semicolons and decimal commas": ("id;name;value\n1;a;0,5\n", "separated by semicolons"),
    "tabs": (ROWS.replace(",", "\t"), "separated by tabs"),
    "a column twice": ("id,name,id,value\n1,a,2,3\n", r"column\(s\) id more than once"),
    "a column twice but for spaces": ("id, id ,name,value\n1,1,a,3\n", "more than once"),
    "too many fields": (ROWS + "3,b,c,0.5\n", "line 4 has 4 fields, the header 3; quote texts that hold commas"),
    "too few fields": (ROWS + "3,b\n", "line 4 has 2 fields, the header 3"),
    "a quote that stays open": (ROWS + '3,"b,0.5\n4,c,1\n', "row that begins in line 4.*check its quotes"),
    "text behind a quote": (ROWS + '3,"b" c,0.5\n', "check its quotes"),
    "nothing": ("", "it is empty"),
    "empty lines alone": ("\n\n", "it is empty"),
    "Latin letters": (ROWS.replace("a b", "ä").encode("latin-1"), "byte 17 is no UTF-8.*save it as UTF-8"),
    "zeros": (b"id,name\0,value\n", "is zero"),
    "a workbook": (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xff\xfe", "cannot be read as text"),
    "other columns": ("a,b\n1,2\n", r"lacks the column\(s\) id, name, value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_read_wrong_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        table(tmp_path / "t.csv", content)
    assert str(caught.value).startswith(str(tmp_path / "t.csv"))
    assert len(str(caught.value)) < 330


def test_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    assert table(tmp_path / "t.csv", "id,name,value\n").empty
    assert list(read_texts(tmp_path / "t.csv")) == ["id", "name", "value"]


NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


def a_run(path: Path) -> object:
    return RunFolder(path.parent).recipe()


def a_data_folder(path: Path) -> object:
    (path.parent / "test_images").mkdir(exist_ok=True)
    return open_data(path.parent)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "recipe": ("r.toml", load_recipe),
    "manifest": ("manifest.json", lambda path: load_bundle(path.parent)),
    "fit": ("fit.json", lambda path: read_fit(path.parent)),
    "run": ("recipe.json", a_run),
    "figures": ("figures.json", read_measured),
    "labels": ("train.csv", read_labels),
    "predictions": ("p.csv", read_predictions),
    "keypoints": ("k.csv", read_coordinates),
    "series": ("test_series_descriptions.csv", a_data_folder),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    for kind, make in NO_FILES.items():
        folder = tmp_path / kind
        folder.mkdir()
        make(folder / name)
        with pytest.raises(InputError) as caught:
            read(folder / name)
        assert name.removeprefix("test") in str(caught.value)


@pytest.mark.parametrize("reader", ["manifest", "fit", "run", "figures"])
@pytest.mark.parametrize("content", ['{"version": 1, "a": 0, "version": 1}', '{"a": [{"version": {}, "version": 2}]}'])
def test_a_key_that_stands_twice_is_named(tmp_path: Path, reader: str, content: str) -> None:
    name, read = READERS[reader]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name}: not JSON \(the key 'version' stands in one object 2 times\); "):
        read(tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe\xff", b"\0" * 99, b"[" * DEEP, b'{"a":' * DEEP, b"a = " + b"[" * DEEP, b"1" * 9999, b"[[]]",
        b"null", b'{"members": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}", b"name = \"x\"\n" + b"a = " + b"1" * 9999,
        b"\xe4", b"x" * 400_000, b"NaN",
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)  # fmt: skip
def test_no_parser_ends_in_a_traceback(tmp_path: Path, reader: str, content: bytes) -> None:
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 330
    assert "\n" not in str(caught.value)


def test_json_has_no_word_for_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, NaN]}')
    with pytest.raises(InputError, match=r"not JSON \(NaN is no number in JSON\); give it"):
        read_json(tmp_path / "a.json", "give it")
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'{"a": 1}')
    assert read_json(tmp_path / "a.json", "give it") == {"a": 1}


def test_a_folder_with_an_odd_manifest_is_no_bundle(tmp_path: Path) -> None:
    """Kaggle: other data sets have a manifest.json, too."""
    for number, content in enumerate((b"[" * DEEP, b"\xff", b"[]", b"")):
        folder = tmp_path / "kaggle" / "input" / str(number)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="found no studies"):
        find_inputs(kaggle=tmp_path / "kaggle", here=tmp_path, environment={})


def recipe_with(tmp_path: Path, *settings: str, old: str = "", new: str = "") -> object:
    text = (ROOT / "recipes" / "demo.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "r.toml").write_bytes(codecs.BOM_UTF8 + text.replace(old, new, 1).encode())
    return load_recipe(tmp_path / "r.toml", settings)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert recipe_with(tmp_path)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("name.x=1", "name is '.*' in the recipe, no table; set name itself|name.*valid string"),
        ("seed.x=1", "seed"),
        ("stage2.members.small.epochs.x=1", "epochs"),
        ("stage2.members.small.tasks=5", "tasks is 5; write a list of names"),
        ("stage2.members.small.tasks=[[1]]", "tasks is .*; write a list of names"),
        ("stage2=1", "set one of"),
        ("stage2.members=1", "name a key"),
        ("seed=" + "[" * DEEP, "nested too deeply"),
        ("stage2.network_args=" + "{a=" * 90 + "1" + "}" * 90, "nested deeper than 64"),
        ("name=" + "x" * 3 + "\n[", "name"),
        ("x" * 99_999 + "=1", "unknown key 'xxx"),
        ("seed=-1", "seed is -1; allowed: 0 or more"),
        ("stage2.epochs=1000000000", "epochs is 1000000000; allowed: 100000 or less"),
        ("stage2.batch_size=1" + "0" * 400, "batch_size"),
        ("stage2.learning_rate=nan", "learning_rate"),
        ("loop.workers=100000", "workers"),
        ("folds.count=1000000000", "count"),
    ],
    ids=lambda value: value[:40],
)
def test_settings_of_a_wrong_kind_or_size_are_one_sentence(tmp_path: Path, setting: str, words: str) -> None:
    if "name=xxx" in setting:
        assert recipe_with(tmp_path, setting).name.startswith("xxx")  # type: ignore[attr-defined]
        return
    with pytest.raises(InputError, match=words) as caught:
        recipe_with(tmp_path, setting)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 330


@pytest.mark.parametrize("line", ["[folds]\n", "[stage1]\n", "[stage2]\n"])
def test_values_where_tables_belong_are_one_sentence(tmp_path: Path, line: str) -> None:
    name = line.strip("[]\n")
    (tmp_path / "r.toml").write_text(f"{name} = 5\n")
    for settings in ((), (f"{name}.{'count' if name == 'folds' else 'epochs'}=2",)):
        with pytest.raises(InputError, match=r"no table; set|has no members|valid dictionary"):
            load_recipe(tmp_path / "r.toml", settings)


@pytest.mark.parametrize("name", ["a/b", "../x", "a b", "", "ü", "x" * 300])
def test_a_members_name_that_no_file_can_have_is_told_before_training(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"member name .* may hold letters, digits"):
        recipe_with(tmp_path, old="[stage1.members.axial_t2]", new=f'[stage1.members."{name}"]')


def test_a_mapping_of_checkpoints_that_is_no_toml_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pt").mkdir()
    (tmp_path / "pt" / "a.pt").write_bytes(b"")
    for content in (b"[" * DEEP, b"a = " + b"[" * DEEP, b"\xff"):
        (tmp_path / "folds.toml").write_bytes(content)
        words = [
            "convert",
            "--checkpoints",
            tmp_path / "pt",
            "--out",
            tmp_path / "out",
            "--folds",
            tmp_path / "folds.toml",
        ]
        assert train_utils.main([*map(str, words)]) == 1
        told = capsys.readouterr().err
        assert "folds.toml" in told.splitlines()[-1]
        assert "Traceback" not in told


HEADER = "study_id,series_id,series_description\n"
IDS = {
    str(LARGEST_ID): "",
    "0001": "",
    "7.0": "",
    str(LARGEST_ID + 1): "is larger than ids can be",
    "4" * 25: "is larger than ids can be",
    "4" * 5000: "is larger than ids can be",
    "4.04E+09": "is not a whole number",
    "-5": "is not a whole number",
    "٣": "is not a whole number",
}


@pytest.mark.parametrize("text", IDS, ids=lambda text: text[:30])
def test_ids_of_any_length_are_read_or_told_for_what_they_are(tmp_path: Path, text: str) -> None:
    (tmp_path / "test_images").mkdir()
    path = tmp_path / "test_series_descriptions.csv"
    path.write_text(f"{HEADER}{text},3,Axial T2\n", encoding="utf-8")
    if IDS[text]:
        with pytest.raises(InputError, match=IDS[text]) as caught:
            open_data(tmp_path)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 330
    else:
        assert open_data(tmp_path).study_ids == (int(float(text)) if "." in text else int(text),)
    path.write_text(f"{HEADER}3,{text},Axial T2\n", encoding="utf-8")
    data = open_data(tmp_path)
    assert [issue.detail for issue in data.issues if IDS[text] and IDS[text] in issue.detail] or not IDS[text]
    assert len(data.series) == (not IDS[text])


@pytest.mark.parametrize("break_", ["\r", "\n", "\r\n"])
def test_a_line_end_within_quotes_ends_no_row(tmp_path: Path, break_: str) -> None:
    found = table(tmp_path / "a.csv", f'id,name,value,"no{break_}te"\n1,"a{break_}b",0.5,\n2,,1e-3,"{break_}x"\n')
    assert found["id"].tolist() == [1, 2]
    assert found["value"].tolist() == [0.5, 1e-3]
    assert found["name"][0] == f"a{break_}b"
    assert pd.isna(found["name"][1])
    assert found.columns[3] == f"no{break_}te"


def test_a_manifest_with_a_key_twice_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text('{"version": 1, "members": [], "members": [{}]}', encoding="utf-8")
    assert train_utils.main(["verify", "--weights", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert f"verify: {tmp_path / 'manifest.json'}: not JSON (the key 'members' stands in one object 2 times); " in told
    assert told.count("\n") == 1
