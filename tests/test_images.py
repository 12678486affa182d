"""Boxes cut from images, standardised stacks, and the original's statistics of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study import standardise
from tests.conftest import shared_path
from tests.support.tiny_dicom import read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on damaged files


def test_a_box_inside_is_cut_and_one_outside_repeats_the_border() -> None:
    picture = np.arange(30, dtype=np.float32).reshape(5, 6)
    assert standardise.crop(picture, (1, 2, 4, 5))[0].tolist() == picture[2:5, 1:4].tolist()  # type: ignore[union-attr]
    assert standardise.crop(picture, (0, 0, 6, 5))[1] is False
    cut, padded = standardise.crop(picture, (-2, -1, 2, 2))
    assert padded
    assert cut is not None
    assert cut.tolist() == np.pad(picture, ((1, 0), (2, 0)), mode="edge")[:3, :4].tolist()
    outside, padded = standardise.crop(picture, (10, 1, 12, 3))
    assert padded
    assert outside is not None
    assert outside.tolist() == [[11, 11], [17, 17]]
    assert standardise.crop(picture, (-1, 0, 3, 3), "zeros") == (None, True)
    with pytest.raises(ValueError, match="empty box"):
        standardise.crop(picture, (3, 1, 3, 4))


def test_standardising_is_over_the_whole_stack() -> None:
    stack = np.random.default_rng(0).normal(900, 40, (3, 8, 8)).astype(np.float32)
    stack[1] += 500
    result = standardise.standardise(stack)
    assert result.mean() == pytest.approx(0, abs=1e-5)
    assert result.std() == pytest.approx(1, abs=1e-5)
    assert result[1].mean() > 1
    assert np.array_equal(standardise.standardise(np.full((2, 3, 3), 5, np.float32)), np.full((2, 3, 3), 5))


def test_stage_one_stacks_have_the_originals_statistics(cc0_study: Path) -> None:
    recorded = json.loads((shared_path("parity") / "preprocessing.json").read_text())["stage1"]
    original = Preprocessing(values="stored", orientation="stored")
    for key in ("sagt2", "axi_l1_l2"):
        entry = recorded[key]
        series, _ = read(cc0_study / "test_images" / "1001" / str(entry["series"]))
        by_name = {item.path.name: item for item in series.slices}
        chosen = [by_name[name] for name in entry["selected_files"]]
        raw = np.stack([standardise.resize(standardise.slice_values(item, original)[0], 512) for item in chosen])
        assert raw.mean(dtype=float) == pytest.approx(entry["raw"]["mean"], rel=1e-6)
        assert raw.std(dtype=float) == pytest.approx(entry["raw"]["std"], rel=1e-6)
        normalised = standardise.standardise(raw)
        assert normalised.min() == pytest.approx(entry["normalised"]["min"], abs=1e-4)
        assert normalised.max() == pytest.approx(entry["normalised"]["max"], abs=1e-4)


def test_regions_of_the_real_study_are_those_of_the_original(cc0_study: Path) -> None:
    recorded = json.loads((shared_path("parity") / "preprocessing.json").read_text())["roi"]
    crops = np.load(shared_path("parity") / "crops" / "sagt2_128.npy")
    original = Preprocessing(values="stored", orientation="stored")
    series, _ = read(cc0_study / "test_images" / "1001" / "6")
    by_name = {item.path.name: item for item in series.slices}
    for number, level in enumerate(("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")):
        entry = recorded[f"sagt2|{level}|128"]
        box = tuple(entry["box"][name] for name in ("x1", "y1", "x2", "y2"))
        stack = []
        for name in entry["read_files"]:
            cut, _ = standardise.crop(standardise.slice_values(by_name[name], original)[0], box)  # type: ignore[arg-type]
            assert cut is not None
            stack.append(standardise.resize(cut, 128))
        assert np.allclose(standardise.standardise(np.stack(stack)), crops[number], atol=1e-4)
