"""What severities rest on is checked data: told by the bundle, unknown where it is not, and said in words."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lumbar.bundle.bundle import load_bundle
from lumbar.labels import CONDITIONS
from lumbar.recipe.card import Card
from lumbar.recipe.evidence import Evidence, PatientTest, complete, rests_on
from lumbar.recipe.recipe import load_recipe

TEST: dict[str, Any] = {"patients": 41, "graded_by": "two readers", "figures": {"kappa": 0.5, "area": 0.9}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"learnt_from": "cadavers"}, "learnt_from"),
        ({"learnt_from": "patients"}, "say how many .patients. and who graded them"),
        ({"learnt_from": "phantoms", "patients": 3}, "goes with neither patients nor graded_by"),
        ({"graded_by": "me"}, "goes with neither"),
        ({"tested": [{**TEST, "patients": 0}]}, "patients"),
        ({"tested": [{**TEST, "graded_by": ""}]}, "graded_by"),
        ({"tested": [{**TEST, "figures": {}}]}, "figures"),
        ({"tested": [{**TEST, "figures": {"kappa": float("nan")}}]}, "finite"),
        ({"tested": [{**TEST, "intervals": {"loss": (0.1, 0.2)}}]}, "names 'loss', which is none of figures"),
        ({"tested": [{**TEST, "intervals": {"kappa": (0.6, 0.7)}}]}, "kappa is 0.5, not from 0.6 to 0.7"),
        ({"taught_by": "phantoms"}, "unknown key"),
    ],
)
def test_evidence_that_says_too_little_or_contradicts_itself_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Evidence.model_validate(fields)


def test_a_condition_that_no_reader_has_is_refused() -> None:
    with pytest.raises(ValidationError):
        Card.model_validate({"evidence": {"scoliosis": {}}})


def test_a_card_without_evidence_is_written_as_it_always_was_and_rests_on_nothing_known() -> None:
    assert "evidence" not in Card().model_dump()
    assert not any(one.on_patients for one in complete(Card().evidence).values())
    known = rests_on({})
    assert known == "spinal, foraminal, subarticular: what it learnt from is not told, no test on patients is told"


def test_an_interval_is_said_behind_its_figure_and_is_not_written_where_there_is_none() -> None:
    one = PatientTest(**TEST, intervals={"area": (0.81234, 0.97)})
    assert one.says().endswith(": kappa 0.5, area 0.9 (0.812 to 0.97)")
    assert "intervals" not in PatientTest(**TEST).model_dump()


def test_words_name_conditions_of_equal_evidence_together_and_sides_that_differ_apart() -> None:
    plain = Evidence(learnt_from="phantoms")
    taught = Evidence(learnt_from="patients", patients=1975, graded_by="radiologists", tested=(TEST,))
    told = complete(dict.fromkeys(CONDITIONS, plain) | {"spinal_canal_stenosis": taught})
    assert rests_on(told) == (
        "spinal: learnt from patients (1975, graded by radiologists), tested on 41 patients, graded by two readers: "
        "kappa 0.5, area 0.9; foraminal, subarticular: learnt from phantoms alone, never tested on patients"
    )
    assert rests_on(told, short=True) == (
        "spinal: learnt from patients, tested on 41 patients, graded by two readers: kappa 0.5; foraminal, "
        "subarticular: learnt from phantoms alone, never tested on patients"
    )
    told["left_subarticular_stenosis"] = taught
    assert "Right Subarticular Stenosis: learnt from phantoms" in rests_on(told)


def test_points_that_were_checked_are_told_where_there_is_room_and_test_no_severity() -> None:
    one = Evidence(learnt_from="phantoms", points="2.6 mm off on 13 slices")
    assert one.says() == "learnt from phantoms alone, never tested on patients, its points 2.6 mm off on 13 slices"
    assert one.says(short=True) == "learnt from phantoms alone, never tested on patients"
    assert not one.on_patients
    assert "points" not in Evidence(learnt_from="phantoms").model_dump()


def test_the_shipped_card_does_not_call_the_tested_canal_meaningless(root: Path) -> None:
    card = (root / "weights" / "README.md").read_text(encoding="utf-8")
    assert load_bundle(root / "weights").identity[:12] in card
    sentences = [one for one in re.split(r"[.;] ", card) if "nothing" in one and "mean" in one]
    assert len(sentences) == 2
    assert all("foramina and recesses" in one for one in sentences)
    assert all(one in card for one in load_recipe(root / "recipes" / "shipped.toml").card.limits)


def test_the_shipped_bundle_says_that_its_canal_alone_was_tested_on_patients(root: Path) -> None:
    bundle = load_bundle(root / "weights")
    told = bundle.manifest.card.evidence
    assert set(told) == set(CONDITIONS)
    assert {condition for condition in CONDITIONS if told[condition].on_patients} == {"spinal_canal_stenosis"}
    learnt = {condition: one.learnt_from for condition, one in told.items()}
    assert learnt == dict.fromkeys(CONDITIONS, "phantoms") | {"spinal_canal_stenosis": "phantoms and patients"}
    assert "vision models, no radiologist" in bundle.describe()
    short = rests_on(told, short=True)
    assert (
        "41 patients (205 discs on mid-sagittal T2 images), graded by two blind readings of vision models, no " in short
    )
    assert told == load_recipe(root / "recipes" / "shipped.toml").card.evidence
