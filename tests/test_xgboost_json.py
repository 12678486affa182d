"""A damaged XGBoost model is refused in words: XGBoost itself would follow wrong numbers, or end the process."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train_utils
from lumbar.bundle.blend import FittedBlend
from lumbar.bundle.manifest import MANIFEST
from lumbar.bundle.save import save_bundle
from lumbar.ensemble import boosting, trees
from lumbar.ensemble.cells import Cells
from lumbar.ensemble.store import Blender
from lumbar.files.write import sha256
from lumbar.issues import InputError
from lumbar.metric import prior_of_codes
from tests.support.worlds import tiny_weights
from tests.test_blend import world

xgboost = pytest.importorskip("xgboost")
FEATURES = 7


@pytest.fixture(scope="module")
def model() -> bytes:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, FEATURES))
    truth = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 1)
    parts = [(rows[part], truth[part], np.zeros((150, 3))) for part in (slice(150), slice(150, 300))]
    whole = xgboost.Booster({"nthread": 1})
    whole.load_model(bytearray(boosting._train_xgboost(xgboost, parts[0], parts[1], 0)))
    return bytes(whole[:4].save_raw("json"))


def added(model: bytes) -> np.ndarray:
    return trees.added("xgboost", model, np.random.default_rng(1).normal(size=(20, FEATURES)))


def test_a_sound_model_gives_what_xgboost_gives(model: bytes) -> None:
    whole = xgboost.Booster({"nthread": 1})
    whole.load_model(bytearray(model))
    rows = np.random.default_rng(1).normal(size=(20, FEATURES))
    data = xgboost.DMatrix(rows, base_margin=np.zeros((20, 3)))
    np.testing.assert_array_equal(added(model), whole.predict(data, output_margin=True))
    assert np.ptp(added(model)[0]) > 0


#: The first place of a pattern, and what stands there instead.
DAMAGE: dict[str, Callable[[str], str]] = (
    {
        name: (lambda text, old=old, new=new: re.sub(old, new, text, count=1))  # type: ignore[misc]
        for name, (old, new) in {
            "a child that is none": (r'"left_children":\[\d+', '"left_children":[999999999'),
            "a path that goes round": (r'"left_children":\[\d+', '"left_children":[0'),
            "a child beyond all": (r'"right_children":\[\d+', '"right_children":[-99'),
            "one child twice": (r'"right_children":\[\d+', '"right_children":[1'),
            "a feature that is none": (r'"split_indices":\[\d+', '"split_indices":[99999999'),
            "splits by category": (r'"split_type":\[0', '"split_type":[1'),
            "too few thresholds": (r'"split_conditions":\[[^,]+,', '"split_conditions":['),
            "a word for a number": (r'"split_conditions":\[[^,]+', '"split_conditions":["x"'),
            "a huge number": (r'"split_conditions":\[[^,]+', '"split_conditions":[1e999'),
            "more nodes than there are": (r'"num_nodes":"\d+"', '"num_nodes":"2000000000"'),
            "more trees than there are": (r'"num_trees":"\d+"', '"num_trees":"2000000000"'),
            "more features than there are": (r'"num_feature":"7"', '"num_feature":"2000000000"'),
            "more classes": (r'"num_class":"3"', '"num_class":"2000000000"'),
            "a parallel forest": (r'"num_parallel_tree":"1"', '"num_parallel_tree":"2000000000"'),
            "another round": (r'"tree_info":\[0', '"tree_info":[7'),
            "rounds elsewhere": (r'"iteration_indptr":\[0', '"iteration_indptr":[4000000000'),
            "another booster": (r'"name":"gbtree"', '"name":"dart"'),
            "a key twice": (r'"version"', '"learner":{},"version"'),
            "a key that is none": (r'"version"', '"weights":[],"version"'),
            "nesting": (r'"attributes":\{\}', '"attributes":' + "[" * 99999),
            "no table": (r".*", "[]"),
        }.items()
    }
    | {"half of it": lambda text: text[: len(text) // 2], "nothing": lambda text: ""}
)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_refused(model: bytes, name: str) -> None:
    damaged = DAMAGE[name](model.decode())
    assert damaged != model.decode()
    with pytest.raises((ValueError, InputError), match="XGBoost"):
        added(damaged.encode())


def test_whatever_is_changed_ends_in_words_or_an_answer(model: bytes) -> None:
    dealer = random.Random(0)
    words = (b"-1", b"999999999", b"1e39", b"true", b"null", b'"x"', b"[]", b"99999999999999999999")
    places = [found.span() for found in re.finditer(rb"-?[\d.]+(E-?\d+)?|\"[^\"]*\"|\[\]", model)]
    refused = 0
    for _ in range(120):
        begin, end = dealer.choice(places)
        try:
            assert added(model[:begin] + dealer.choice(words) + model[end:]).shape == (20, 3)
        except (ValueError, InputError):
            refused += 1
    assert refused > 60


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of tiny networks with a blend that XGBoost fitted on made-up tables of its graders."""
    names = ("spinal", "foraminal", "subarticular", "global")
    members, codes = world(24, seed=6, silent=0.0)
    cells = Cells(np.concatenate([members, members[:, :1]], axis=1), prior_of_codes(codes, 0.5))
    blender = Blender(boosting.fit(cells, codes, 0, "xgboost"), names, cells.prior)
    folder = tmp_path_factory.mktemp("weights") / "bundle"
    fitted = FittedBlend(blender, {name: [name] for name in names})
    save_bundle(folder, tiny_weights(), prior=cells.prior, blend=fitted)
    return folder


@pytest.mark.parametrize(
    "name", ["half of it", "a path that goes round", "a feature that is none", "nesting", "no table"]
)
def test_a_bundle_with_a_damaged_model_is_one_sentence(
    weights: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in weights.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest: dict[str, Any] = json.loads((tmp_path / MANIFEST).read_text())
    entry = next(iter(manifest["blend"]["files"].values()))
    (tmp_path / entry["file"]).write_text(DAMAGE[name]((tmp_path / entry["file"]).read_text()))
    entry["sha256"] = sha256(tmp_path / entry["file"])
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert train_utils.main(["verify", "--weights", str(weights)]) == 0
    assert train_utils.main(["verify", "--weights", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"train_utils.py verify: {tmp_path}: the fitted blend (xgboost) does not work: ")
    assert told.count("\n") == 1
