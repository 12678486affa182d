"""Blending tables: the command, honest nested scores, the choice, and a fitted blend at work in a bundle."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.bundle.blend import FittedBlend
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.save import save_bundle
from lumbar.ensemble import methods, nested
from lumbar.ensemble.average import blend
from lumbar.ensemble.command import run_blend
from lumbar.ensemble.method_names import METHOD_NAMES
from lumbar.ensemble.store import read_fit
from lumbar.files.write import write_csv
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SEVERITIES
from lumbar.metric import UNLABELLED, Score, score_arrays
from lumbar.prediction import schedule
from lumbar.study.study import open_data
from lumbar.submission import rounded, to_rows
from tests.support.notebook import run_cells
from tests.support.worlds import small_phantoms, tiny_bundle, tiny_weights

#: As `train.csv` writes them, in the order of `SEVERITIES`.
WRITTEN = ("Normal/Mild", "Moderate", "Severe")
TABLES = ("one", "two", "three")


def world(studies: int, seed: int = 0, silent: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, 5, 5) and three overconfident tables (N, 3, 5, 5, 3) that know something of them.

    A tenth of the labels is empty, and a tenth of each table's rows is missing.
    """
    rng = np.random.default_rng(seed)
    codes = rng.choice(3, size=(studies, 5, 5), p=[0.7, 0.2, 0.1])
    truth = np.eye(3)[codes][:, None]
    noise = rng.normal(size=(studies, 3, 5, 5, 3)) * np.array([1.0, 1.5, 2.5])[None, :, None, None, None]
    logits = 2.0 * truth + noise
    members = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    members[rng.random(members.shape[:-1]) < silent] = np.nan
    codes[rng.random(codes.shape) < 0.1] = UNLABELLED
    return members, codes


def write_world(folder: Path, members: np.ndarray, codes: np.ndarray) -> tuple[Path, list[Path]]:
    """The same as files: labels as `train.csv` has them, and one table a member without the rows it lacks."""
    studies = [1000 + number for number in range(len(codes))]
    words = np.array([*WRITTEN, ""], dtype=object)
    rows = pd.DataFrame(words[codes.reshape(len(codes), -1)], columns=list(LABEL_COLUMNS))
    rows.insert(0, "study_id", studies)
    write_csv(rows, folder / "train.csv")
    return folder / "train.csv", write_tables(folder, dict(zip(studies, members, strict=True)))


def write_tables(folder: Path, members: dict[int, np.ndarray], names: tuple[str, ...] = TABLES) -> list[Path]:
    """One CSV a member of (M, 5, 5, 3) by study; rows of NaN are left out."""
    paths = []
    for place, name in enumerate(names):
        found = np.stack([each[place] for each in members.values()])  # (N, 5, 5, 3)
        spoken = np.isfinite(found).all(axis=-1)
        table = to_rows(list(members), np.where(spoken[..., None], found, 1 / 3))
        write_csv(table[spoken.reshape(-1)], folder / f"{name}.csv")
        paths.append(folder / f"{name}.csv")
    return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("tables")
    return write_world(folder, *world(60))


@pytest.fixture(scope="module")
def folds() -> np.ndarray:
    return np.arange(60) % 3


def test_one_method_as_json_has_its_score_terms_error_and_difference(files, capsys):
    labels, tables = files
    arguments = ["blend", "--labels", labels, "--tables", *tables, "--folds", 3, "--method", "temperature", "--json"]
    assert train_utils.main([str(word) for word in arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = told["methods"]
    assert row["method"] == "temperature"
    terms = [row[part] for part in ("spinal", "foraminal", "subarticular", "any_severe_spinal")]
    assert row["total"] == pytest.approx(np.mean(terms))
    assert row["standard_error"] > 0
    low, high = row["interval_95"]
    assert low <= row["difference_to_mean"] <= high
    assert told["studies"] == 60
    assert told["tables"] == list(TABLES)
    assert told["scored_rows"] + told["rows_without_prediction"] == pytest.approx(60 * 25 * 0.9, rel=0.03)


@pytest.mark.slow
def test_all_methods_are_scored_and_told_as_a_table(tmp_path, capsys):
    labels, tables = write_world(tmp_path, *world(24, seed=2))
    arguments = ["blend", "--labels", labels, "--tables", *tables[:2], "--folds", 3, "--method", "all"]
    assert train_utils.main([str(word) for word in arguments]) == 0
    told = capsys.readouterr().out
    for name in (*METHOD_NAMES, "chosen"):
        assert f"\n{name} " in told


def test_a_temperature_gains_on_overconfident_tables(tmp_path):
    members, codes = world(120, seed=1)
    labels, tables = write_world(tmp_path, members**3 / (members**3).sum(axis=-1, keepdims=True), codes)
    row = run_blend(labels, tables, 3, "temperature")["methods"][-1]
    assert row["method"] == "temperature"
    assert row["interval_95"][1] < 0


def test_choosing_needs_a_fold_to_choose_on(files):
    labels, tables = files
    with pytest.raises(InputError, match="at least 3 folds; give --folds 3 or more"):
        run_blend(labels, tables, 2, "all")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": "absent.csv"}, "absent.csv"),
        ({"tables": ["absent.csv"]}, "absent.csv"),
        ({"tables": ["train.csv"]}, "train.csv"),
        ({"folds": 61}, "too few for --folds 61"),
    ],
)
def test_wrong_files_and_folds_are_named_with_exit_code_1(files, capsys, change, sentence):
    labels, tables = files
    folder = labels.parent
    labels = folder / change.get("labels", labels.name)
    named = [folder / name for name in change.get("tables", [path.name for path in tables])]
    arguments = ["blend", "--labels", labels, "--tables", *named, "--folds", change.get("folds", 3), "--method", "mean"]
    assert train_utils.main([str(word) for word in arguments]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_missing_members_never_become_zero_and_silence_gives_the_prior(method):
    members, codes = world(40, seed=3, silent=0.4)
    members[7, :, 2] = np.nan  # nobody graded a condition of this study
    cells = nested.cells_for(members, codes)
    blended = methods.predict(methods.fit(method, cells, codes), cells)
    np.testing.assert_allclose(blended.sum(axis=-1), 1, atol=1e-9)
    assert (blended > 0).all()
    np.testing.assert_allclose(blended[7, 2], cells.prior[2])


def leaks(method: str, members: np.ndarray, codes: np.ndarray, folds: np.ndarray) -> bool:
    """Does another label in the held-out fold, of two, change what the blend says of that fold?"""
    folds = folds % 2
    honest = nested.nested(method, members, codes, folds)
    planted = codes.copy()
    planted[folds == 1] = np.where(codes[folds == 1] == UNLABELLED, UNLABELLED, 2 - codes[folds == 1])
    return not np.array_equal(honest[folds == 1], nested.nested(method, members, planted, folds)[folds == 1])


#: Libraries that build trees take seconds.
ALL = [
    pytest.param(name, marks=pytest.mark.slow if name in ("lightgbm", "xgboost", "stack") else ())
    for name in METHOD_NAMES
]


@pytest.mark.parametrize("method", ALL)
def test_no_method_looks_at_a_label_of_the_fold_that_it_is_scored_on(method, folds):
    members, codes = world(24, seed=4)
    assert not leaks(method, members, codes, folds[:24])


@pytest.mark.parametrize(
    "method",
    [
        "slsqp",
        "temperature",
        "scaling",
        "neighbours",
        "mlp",
        pytest.param("lightgbm", marks=pytest.mark.slow),
        pytest.param("xgboost", marks=pytest.mark.slow),
    ],
)
def test_a_planted_leak_is_caught(method, folds, monkeypatch):
    members, codes = world(24, seed=4)
    monkeypatch.setattr(nested, "training_studies", lambda folds, fold: np.ones(len(folds), dtype=bool))
    assert leaks(method, members, codes, folds[:24])


def test_the_choice_among_methods_does_not_look_either(folds, monkeypatch):
    monkeypatch.setattr(nested, "ENOUGH_STUDIES", 10)
    members, codes = world(60, seed=5)
    planted = codes.copy()
    planted[folds == 1] = np.where(codes[folds == 1] == UNLABELLED, UNLABELLED, 2 - codes[folds == 1])
    honest, picked = nested.chosen(("mean", "temperature", "scaling"), members, codes, folds)
    other, _ = nested.chosen(("mean", "temperature", "scaling"), members, planted, folds)
    np.testing.assert_array_equal(honest[folds == 1], other[folds == 1])
    assert set(picked) <= {"mean", "temperature", "scaling"}
    assert picked != ["mean"] * 3


def comparison(method: str, total: float, high: float) -> nested.Comparison:
    score = Score(total, total, total, total, total)
    return nested.Comparison(method, score, 0.01, total - 0.4, (total - 0.41, high))


def test_few_studies_are_given_the_plain_mean_with_its_reason():
    method, why = nested.choose([], 199)
    assert method == "mean"
    assert "199 labelled studies are fewer than 200" in why


def test_the_lowest_score_is_chosen_if_it_is_surely_better_than_the_mean():
    rows = [comparison("mean", 0.4, 0.0), comparison("mlp", 0.38, 0.001), comparison("scaling", 0.39, -0.001)]
    assert nested.choose(rows, 200)[0] == "scaling"
    assert "-0.0010" in nested.choose(rows, 200)[1]


def test_the_mean_stays_where_nothing_is_surely_better():
    rows = [comparison("mean", 0.4, 0.0), comparison("mlp", 0.38, 0.001)]
    method, why = nested.choose(rows, 1000)
    assert method == "mean"
    assert "no method is surely better" in why


def test_the_nested_score_is_the_official_one_of_all_folds_together(files):
    members, codes = world(60)
    folds = nested.random_folds(60, 3, 0)
    blended = nested.nested("mean", members, codes, folds)
    expected = score_arrays(nested.scored_codes(members, codes), blended).total
    labels, tables = files
    (row,) = run_blend(labels, tables, 3, "mean")["methods"]
    assert row["total"] == pytest.approx(expected, abs=1e-4)  # the prior of the unspoken rows apart: they do not count
    assert row["difference_to_mean"] == 0


#: Beside the files of LightGBM those of XGBoost, and numbers of two methods that answer together.
FITTED_TOO = ("xgboost", "stack")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", variations={1: {"without_t1": True}})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def unlabelled(phantoms: Path, plain: Bundle) -> dict[int, np.ndarray]:
    """What the tiny graders say of the phantoms."""
    return {result.study_id: result.members for result in schedule.predict(open_data(phantoms), plain)}


def blended_bundle(
    method: str, unlabelled: dict[int, np.ndarray], folder: Path
) -> tuple[Path, pd.DataFrame, np.ndarray]:
    """Fit a blend with the command on made-up labels; the tables also hold the tiny graders' rows of phantoms.

    Gives a bundle folder with that blend, the phantoms' rows of the command's blend.csv by row id, and the plain mean
    (5, 5, 3) of the first phantom.
    """
    graders = ("spinal", "foraminal", "subarticular", "global")
    members, codes = world(40, seed=6)
    rows = np.concatenate([members, members[:, :1]], axis=1)
    labels, _ = write_world(folder, members, codes)
    own = {1000 + number: row for number, row in enumerate(rows)}
    tables = write_tables(folder, own | unlabelled, graders)
    out = folder / "blend"
    arguments = ["blend", "--labels", labels, "--tables", *tables, "--folds", 2, "--method", method, "--out", out]
    assert train_utils.main([str(word) for word in arguments]) == 0

    fitted = FittedBlend(read_fit(out), {name: [name] for name in graders})
    weights = folder / "weights"
    save_bundle(weights, tiny_weights(), prior=fitted.blender.prior, blend=fitted, description="with a blend")
    table = pd.read_csv(out / "blend.csv").set_index("row_id")
    wanted = table[[int(row.split("_")[0]) in unlabelled for row in table.index]]
    return weights, wanted.sort_index(), blend(next(iter(unlabelled.values())), fitted.blender.prior)[0]


def check_rows(submission: Path, table: pd.DataFrame, plain_mean: np.ndarray) -> None:
    rows = pd.read_csv(submission).set_index("row_id").sort_index()
    assert list(rows.index) == list(table.index)
    np.testing.assert_allclose(rows.to_numpy(), rounded(table).to_numpy(), rtol=0, atol=1e-6)
    first = str(table.index[0]).split("_")[0]
    same = [f"{first}_{column}" for column in LABEL_COLUMNS]
    assert not np.allclose(rows.loc[same].to_numpy().reshape(5, 5, 3), plain_mean, atol=1e-3)


@pytest.mark.parametrize(
    "method",
    ["lightgbm", *(pytest.param(name, marks=pytest.mark.slow) for name in FITTED_TOO)],
)
def test_a_bundle_with_a_fitted_blend_gives_what_blend_gives_on_its_members_tables(
    method: str, phantoms: Path, unlabelled: dict[int, np.ndarray], tmp_path: Path
) -> None:
    folder, table, plain_mean = blended_bundle(method, unlabelled, tmp_path)
    arguments = ["predict", "--data", phantoms, "--weights", folder, "--out", tmp_path / "results"]
    assert train_utils.main([str(word) for word in arguments]) == 0
    check_rows(tmp_path / "results" / "submission.csv", table, plain_mean)
    if method == "stack":
        assert run_cells(tmp_path, phantoms, folder).error is None  # and the notebook gives it too
        check_rows(tmp_path / "submission.csv", table, plain_mean)
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".txt", ".md"}
    assert load_bundle(folder).manifest.blend.method == method


def test_a_planted_wrong_label_is_listed_with_its_loss_and_reason(tmp_path: Path) -> None:
    members, codes = world(60, seed=7, silent=0.0)
    members[11, :, 0, 3] = [0.97, 0.02, 0.01]
    codes[11, 0, 3] = SEVERITIES.index("severe")
    labels, tables = write_world(tmp_path, members, codes)
    run_blend(labels, tables, 3, "mean", out=tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "suspect_labels.csv").set_index("row_id")
    row = found.loc[f"1011_{CONDITIONS[0]}_{LEVELS[3]}"]
    assert row["label"] == "severe"
    assert row["loss"] == pytest.approx(-np.log(0.01), abs=0.01)
    assert "none of 3 member(s)" in row["reason"]
    assert found["loss"].is_monotonic_decreasing
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 10_000


@pytest.mark.parametrize("damage", ["{", '{"method": "mean"}', '{"method": "rm", "files": [], "tables": []}'])
def test_a_damaged_fit_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "fit.json").write_text(damage, encoding="utf-8")
    with pytest.raises(InputError, match=r"fit\.json: (not JSON|cannot be read) .* fit the blend again"):
        read_fit(tmp_path)


FOLDS = {
    "other number": (lambda n: [i % 4 for i in range(n)], 5, "fold_id has 4 folds, --folds says 5; give --folds 4 or"),
    "gaps": (lambda n: ["", *[i % 3 for i in range(n - 1)]], 3, "fold_id is empty for 1 of 30 labelled studies"),
    "gaps, and nobody said how many": (lambda n: [0, *[""] * (n - 1)], None, "fold_id is empty for 29 of 30"),
    "one fold": (lambda n: [7] * n, None, "fold_id has 1 folds, at least 2 are needed"),
}


def with_folds(labels: Path, folds: list[object]) -> None:
    table = pd.read_csv(labels)
    table["fold_id"] = pd.Series(folds, dtype=object)
    table.to_csv(labels, index=False)


@pytest.mark.parametrize("name", FOLDS)
def test_folds_that_do_not_fit_are_refused_since_others_would_leak(tmp_path: Path, name: str) -> None:
    make, count, words = FOLDS[name]
    labels, tables = write_world(tmp_path, *world(30, seed=1))
    with_folds(labels, make(30))
    with pytest.raises(InputError, match=words):
        run_blend(labels, tables, count, "mean")


@pytest.mark.parametrize("folds", [[f"{i % 4}.0" for i in range(30)], ["abcd"[i % 4] for i in range(30)]])
def test_folds_of_the_labels_are_taken_where_nobody_says_how_many(tmp_path: Path, folds: list[object]) -> None:
    labels, tables = write_world(tmp_path, *world(30, seed=1))
    assert any("5 at random" in note for note in run_blend(labels, tables, None, "mean")["notes"])
    with_folds(labels, folds)
    result = run_blend(labels, tables, None, "mean")
    assert result["folds"] == 4
    assert "folds: the 4 of the column fold_id in train.csv" in result["notes"]


def test_a_table_without_a_labelled_study_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, tables = write_world(tmp_path, *world(30, seed=1))
    text = tables[0].read_text()
    others = "\n".join(f"99{line}" for line in text.splitlines()[1:])
    for content in (text.partition("\n")[0] + "\n", text.partition("\n")[0] + "\n" + others + "\n"):
        tables[0].write_text(content)
        words = ["blend", "--labels", labels, "--tables", *tables, "--method", "mean"]
        assert train_utils.main([*map(str, words)]) == 1
        told = capsys.readouterr().err
        assert f"{tables[0]}: predicts no labelled study of {labels}; leave it out" in told
        assert told.count("\n") == 1


@pytest.mark.parametrize("way", ["itself", "another path", "a link", "a copy"])
def test_the_same_table_twice_is_refused(tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    labels, tables = write_world(tmp_path, *world(30, seed=1))
    again = tables[1]
    if way == "another path":
        again = tmp_path / ".." / tmp_path.name / again.name
    elif way != "itself":
        again = tmp_path / "again.csv"
        again.symlink_to(tables[1]) if way == "a link" else again.write_bytes(tables[1].read_bytes())
    words = ["blend", "--labels", labels, "--tables", *tables, again, "--method", "mean"]
    assert train_utils.main([*map(str, words)]) == 1
    told = capsys.readouterr().err
    assert told.endswith(f": --tables names {again} and {tables[1]}, which are the same table; name it once\n")
    assert told.count("\n") == 1


def test_the_largest_seed_works_for_every_method_that_takes_one(tmp_path: Path) -> None:
    labels, tables = write_world(tmp_path, *world(30, seed=1))
    for method in ("mlp", "lightgbm", "xgboost"):
        assert run_blend(labels, tables, 2, method, seed=2**32 - 1)["methods"]
