"""Six lumbar vertebrae and transitional ones: what phantoms show, and that a doubtful numbering is told."""

import json
import runpy
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

import train_utils
from lumbar.keypoints.answers.heatmaps import gaussian_heatmaps
from lumbar.keypoints.numbering import rivals
from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.paint_spine import paint_spine
from lumbar.phantom.study import StudyPlan, plan, render, table_rows
from lumbar.phantom.tissue import MARROW, NUCLEUS
from lumbar.phantom.vertebrae import FIRST, Vertebrae
from tests.conftest import ROOT
from tests.support.mirror import mirror_study
from tests.support.worlds import small_phantoms

KINDS: tuple[Vertebrae, ...] = ("usual", "six_lumbar", "sacralised", "lumbarised")
#: Chosen of a few: the T2 detector's maps speak for a sixth disc in the first study, for two chains in the second.
SEED = 6
ODD: tuple[Vertebrae, Vertebrae] = ("six_lumbar", "lumbarised")
S1, L5 = FIRST + 4, FIRST + 3  # vertebrae; the plane above S1 is L5/S1


@cache
def study_of(kind: Vertebrae) -> StudyPlan:
    return plan(SEED, 0, 1, PhantomOptions(vertebrae=kind))


def tissue(kind: Vertebrae, vertebra: int, share: float, u: float, v: float) -> set[int]:
    """Labels painted on the left and right at a share of a vertebra's height; u and v in mm of a mean person."""
    person = study_of(kind).person
    spine = person.spine
    points = []
    for across in (u * spine.scale, -u * spine.scale):
        upper, lower = (spine.point(plane, across, v * spine.scale) for plane in (vertebra, vertebra + 1))
        points.append(upper + share * (lower - upper))
    return {int(label) for label in paint_spine(person, np.array(points, np.float32))}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_shows_what_it_is_called_after(kind: Vertebrae) -> None:
    above = FIRST - 2  # the vertebra above the one above the labelled L1/L2
    assert (tissue(kind, above, 0.36, 28, 14.4) == {MARROW + above}) == (kind == "six_lumbar")  # transverse processes
    assert (tissue(kind, L5, 0.8, 34, 3) == {MARROW + L5}) == (kind == "sacralised")  # part of the ala
    assert (tissue(kind, S1, 0.6, 34, 3) == {MARROW + S1}) == (kind != "lumbarised")
    nuclei = {"sacralised": FIRST + 3, "lumbarised": FIRST + 5}  # the lowest disc that has one
    for plane in range(FIRST, FIRST + 7):
        assert (tissue(kind, plane, 0.0, 0, -15) == {NUCLEUS + plane}) == (plane <= nuclei.get(kind, FIRST + 4))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_count_from_the_sacrum(kind: Vertebrae) -> None:
    study = study_of(kind)
    rows = {(row["condition"], row["level"]): row for row in table_rows(study).coordinates}
    for place, level in enumerate(("L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1")):
        row = rows["Spinal Canal Stenosis", level]
        series = study.series[study.series_ids.index(row["series_id"])]
        plane = series.planes[series.instances.index(row["instance_number"])]
        at = plane.position + plane.spacing * (row["x"] * plane.row + row["y"] * plane.column)
        away = np.abs(np.einsum("pi,pi->p", at - study.person.spine.origin, study.person.spine.down))
        assert away.argmin() == S1 - 4 + place  # S1 is part of the sacrum but where it is lumbarised: see above


def test_the_usual_spine_is_drawn_as_it_always_was() -> None:
    """Pixels of a study that ships, up to the last digit of sums, which is the machine's."""
    options = runpy.run_path(str(ROOT / "benchmarks" / "sample_data.py"))["STUDIES"][0]
    study = plan(11, 0, 100_001, options)
    shipped = pd.read_csv(ROOT / "sample_data" / "train_label_coordinates.csv")
    drawn = pd.DataFrame(table_rows(study).coordinates)
    pd.testing.assert_frame_equal(drawn, shipped[shipped.study_id == 100_001], check_dtype=False)
    t2 = replace(study.series[0], planes=study.series[0].planes[:2], instances=study.series[0].instances[:2])
    folder = ROOT / "sample_data" / "train_images" / "100001" / str(study.series_ids[0])
    for number, pixels in zip(t2.instances, render(replace(study, series=(t2,)), 11, 0)[0], strict=True):
        stored = pydicom.dcmread(folder / f"{number}.dcm").pixel_array
        assert np.abs(pixels.astype(int) - stored.astype(int)).max() <= 1


def doubts(data: Path, out: Path) -> dict[int, list[dict[str, object]]]:
    """What `predict` with the shipped bundle tells of doubtful numberings, by study."""
    words = ["predict", "--data", data, "--weights", ROOT / "weights", "--out", out, "--device", "cpu"]
    assert train_utils.main([str(word) for word in words]) == 0
    report = json.loads((out / "run_report.json").read_text())
    told: dict[int, list[dict[str, object]]] = {entry["study_id"]: [] for entry in report["studies"]}
    for issue in report["issues"]["list"]:
        if issue["code"] == "levels_ambiguous":
            told[issue["study"]].append(issue)
    return told


def test_a_doubtful_numbering_is_told_once_a_series_and_in_a_mirror_too(tmp_path: Path) -> None:
    kinds = {place: {"vertebrae": kind, "without_t1": True} for place, kind in enumerate(ODD)}
    odd = small_phantoms(tmp_path / "odd", 2, SEED, kinds)
    twin = tmp_path / "twin"
    twin.mkdir()
    shutil.copy(odd / "train_series_descriptions.csv", twin)
    for study in (odd / "train_images").iterdir():
        mirror_study(study, twin / "train_images" / study.name)
    told = doubts(odd, tmp_path / "odd_results")
    details = [str(issue["detail"]) for issues in told.values() for issue in issues]
    assert [len(issues) for issues in told.values()] == [1, 1], details
    assert "a sixth disc above L1/L2" in details[0]
    assert "most levels at two discs each" in details[1]
    assert all(each.endswith("check the numbering by eye") for each in details)
    assert doubts(twin, tmp_path / "twin_results") == told


def test_rivals_are_neighbouring_discs_and_a_sixth_one() -> None:
    places = np.array([[50, 24], [48, 38], [46, 52], [48, 66], [54, 78]])
    above, far = np.array([[52, 10]]), np.array([[90, 52]])

    def to_mm(pixels: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(len(pixels)), pixels[:, 0] * 2.0, -pixels[:, 1] * 2.0], axis=-1)

    plain = gaussian_heatmaps(places, 96, 2.0)
    assert rivals(plain, places, to_mm).doubt() is None
    assert rivals(plain + gaussian_heatmaps(far, 96, 2.0), places, to_mm).doubt() is None  # beside the spine
    lower = np.concatenate([plain[1:], np.zeros_like(plain[:1])])
    assert "two discs" in str(rivals(plain + 0.7 * lower, places, to_mm).doubt())
    sixth = np.concatenate([gaussian_heatmaps(above, 96, 2.0), np.zeros_like(plain[1:])])
    assert "sixth disc above" in str(rivals(plain + 0.7 * sixth, places, to_mm).doubt())
    assert rivals(plain + 0.5 * sixth, places, to_mm).doubt() is None
