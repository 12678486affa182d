"""`info` lists what the registries hold, without loading torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import pytest

import train_utils
from lumbar.arguments import ARGUMENTS, ENGINES
from lumbar.compute.engine import ENGINE_WORDS
from lumbar.ensemble.method_names import KNOWN_METHODS
from lumbar.grading.networks import registry as graders
from lumbar.issues import CODES
from lumbar.keypoints.answers.registry import ANSWERS
from lumbar.keypoints.networks import registry as detectors
from lumbar.labels import CONDITION_GROUPS
from lumbar.recipe.detector import Turn
from lumbar.recipe.losses import OF_GRADERS
from lumbar.recipe.strict import Strict
from lumbar.report.info import _choices


def test_info_is_told_as_json_without_torch(root: Path) -> None:
    script = (
        "import sys, train_utils\ncode = train_utils.main(['info', '--json'])\n"
        "heavy = {'torch', 'timm'} & set(sys.modules)\nsys.exit(code or (f'{heavy} loaded' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["issues"] == CODES
    assert found["commands"] == list(ARGUMENTS)
    assert found["detector_networks"] == sorted(detectors.NETWORKS)
    assert found["grader_networks"] == sorted(graders.NETWORKS)
    assert found["detector_answers"].keys() == ANSWERS.keys()
    assert found["detector_answers"]["heatmaps"]["losses"] == ["mse", "bce", "dice", "focal", "severity"]
    decodes = ["maximum", "expectation", "change", "sides", "centroid", "rolling"]
    assert found["detector_answers"]["slices"]["decodes"] == decodes
    assert found["blends"] == list(KNOWN_METHODS)
    assert found["preprocessing"]["middle"] == ["series", "canal"]
    assert found["grader_losses"] == list(OF_GRADERS)
    assert found["detector_words"]["tta"] == list(get_args(Turn))
    assert found["blend_words"]["weights"] == list(CONDITION_GROUPS)
    assert found["training_words"]["schedule"] == found["schedules"]


class _Newer(Strict):
    """Checked data as another version may have it."""

    how: Literal["plain", "odd"] = "odd"
    turns: tuple[Literal["left", "right"], ...] = ()
    number: int = 3


def test_a_new_key_tells_its_words_by_itself() -> None:
    assert _choices(_Newer) == {"how": ("odd", "plain"), "turns": ("left", "right")}


def test_every_engine_that_is_listed_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_utils.main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"engines: {', '.join(ENGINES)}" in text.splitlines()
    assert set(ENGINES) == {"auto", *ENGINE_WORDS}
    for code, meaning in CODES.items():
        assert f"  {code}: {meaning}" in text.splitlines()
