"""What a recipe may ask of training: old spellings mean the same, and what does not go together is told all at once."""

from pathlib import Path

import pytest

from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS
from lumbar.recipe.losses import of_grader
from lumbar.recipe.recipe import Recipe, check_recipe, load_recipe
from lumbar.recipe.settings import Training
from lumbar.training.checks.recipe import recipe_faults
from tests.support.tiny_recipe import DETECTORS, beginning, detector_stage, grader_stage

SPLIT = {"first": {"task": "spinal"}, "second": {"task": "foraminal"}}


def _recipe(folder: Path, stage1: str = "", stage2: str = "", **common: object) -> Recipe:
    """Of a detector `t2` and two graders, `first` and `second`, with lines added to the detector and to `second`."""
    path = folder / "small.toml"
    detector = detector_stage({"t2": DETECTORS["t2"]}, **common)
    path.write_text(f"{beginning(3)}{detector}{stage1}\n{grader_stage(SPLIT)}{stage2}\n", encoding="utf-8")
    return load_recipe(path)


def test_what_a_recipe_says_nothing_of_is_not_stored(tmp_path: Path) -> None:
    """Fingerprints and runs of before stay the same."""
    stored = _recipe(tmp_path).model_dump(mode="json")
    training = stored["stage2"]["members"]["first"]["training"]
    new = {"loss", "class_weights", "begins_with", "frozen", "bundled", "folds", "floor", "optimizer", "best_by"}
    assert not new & set(training)
    assert not {"mix", "reverse_p", "holes", "distort"} & set(training["augment"])
    assert "keypoint_trust_mm" not in stored["stage2"]
    kept = _recipe(tmp_path, stage2='frozen = ["encoders"]\nfolds = [1]').model_dump(mode="json")
    assert check_recipe(kept, "stored").stage2.members["second"].training.folds == (1,)


def test_old_spellings_of_losses_mean_the_same() -> None:
    old = Training(any_severe_weight=0.5, auxiliary_weight=0.3)
    new = Training(loss={"severity": 1.0, "any_severe": 0.5, "slices": 0.3})
    assert of_grader(old) == of_grader(new)
    assert of_grader(Training()) == {"severity": 1.0}


UNEVEN = """
[stage2.members.third]
views = ["sagittal_t2", "axial_middle"]
conditions = ["spinal_canal_stenosis"]
regions = { axial_middle = { slices = 5 } }
augment = { mix = "cutmix", mix_on = "features" }
"""
#: Lines of the detector and of the second grader, and words of the sentence that refuses them.
REFUSED = {
    "a strange loss": ("", "loss = { hinge = 1.0 }", r"second: loss names 'hinge'.* known: severity"),
    "another answer's loss": ("loss = { l1 = 1.0 }", "", r"t2: loss names 'l1', and answer 'heatmaps'"),
    "no severity": ("", "loss = { slices = 1.0 }", "leaves out the severities"),
    "both spellings": ("", "loss = { severity = 1.0 }\nauxiliary_weight = 0.3", "say the same"),
    "a floor of no slope": ("", "floor = 0.1\nschedule = 'step'", "has no end"),
    "fresh of nothing": ("", "fresh = ['head']", "name that as begins_with"),
    "nothing learnt": ("", "epochs = 0", "name that as begins_with and leave fresh out"),
    "nothing learnt anew": ("", "epochs = 0\nbegins_with = 'first'\nfresh = ['head']", "leave fresh out"),
    "a later member": ("", "begins_with = 'third'", "is no member that stands before it; known there: t2, first"),
    "itself": ("", "begins_with = 'second'", "is no member that stands before it"),
    "soft shares of nothing": ("", "soft_mix = 0.5", "name the table as soft_labels"),
    "soft keypoints": ("soft_labels = 'x.csv'", "", r"t2: soft_labels are severities"),
    "shifted stacks": ("slice_shift = [1.0]", "", "graders' regions"),
    "shares beyond one": ("", "slice_shift = [0.5, 0.6]", "sum to 1.1, not 1"),
    "a score of keypoints": ("best_by = 'score'", "", "take 'error_mm'"),
    "an error of severities": ("", "best_by = 'error_mm'", "take 'score'"),
    "mixed points": ("answer = 'points'\naugment = { mix = 'mixup' }", "", "mse, bce or dice of plain heatmaps"),
    "boxes in maps": ("augment = { mix = 'cutmix' }", "", "mixup of images only"),
    "mixed studies": ("", "any_severe_weight = 1.0\naugment = { mix = 'mixup' }", "'any_severe'; leave it out"),
    "a level of slices mixed": (
        "",
        "network = 'attention'\nloss = { severity = 1.0, slice_scores = 1.0 }\n"
        "augment = { mix = 'cutmix', mix_on = 'features' }",
        "told apart for the loss 'slice_scores'; mix images",
    ),
    "weights of no slices": ("", "slice_class_weights = [1, 2, 4]", "hold for the loss slice_scores only"),
    "weights of strangers": ("", "condition_weights = { left_subarticular_stenosis = 2.0 }", "it does not answer"),
    "weights of keypoints": ("far_errors = 2.0", "", "condition_weights, far_errors are of severities"),
    "far errors of nothing": ("", "loss = { any_severe = 1.0 }\nbundled = false\nfar_errors = 2.0", "far_errors hold"),
    "runs of uneven views": ("", UNEVEN, "which have 3 and 5; mix images"),
    "sizes of no holes": ("augment = { holes = 3 }", "", "t2: augment.holes and hole_size need a probability"),
    "a mix of nothing": (
        "",
        "augment = { mix_on = 'features' }",
        "augment.mix_on, mix_p, mix_alpha, mixup_p say how",
    ),
    "percentiles of no use": ("", "region = { percentiles = [5, 95] }", r"second: region.percentiles holds for inten"),
    "a span of no levels": (
        "",
        "region = { span = 'spine' }",
        "second: region.span holds for box = .levels. or",
    ),
    "a span of one view": (
        "",
        "[stage2.members.third]\nviews = ['axial_left']\nconditions = ['left_subarticular_stenosis']\n"
        "regions = { axial_left = { span = 'spine' } }",
        "third: regions.axial_left.span holds for",
    ),
    "a fold too many": ("", "folds = [0, 3]", "folds names 3, which folds.train leaves out"),
    "a fold twice": ("", "folds = [1, 1]", "names a fold twice"),
    "a fold without keypoints": ("folds = [0, 1]", "", r"no detector of sagittal_t2 \(middle\) trains fold 2"),
    "nothing kept": ("bundled = false", "", "stage1: every member has bundled = false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case: str, tmp_path: Path) -> None:
    stage1, stage2, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        _recipe(tmp_path, stage1, stage2)


def test_every_set_of_keypoints_is_found_in_every_fold(tmp_path: Path) -> None:
    """What another set's detector finds in a fold is no help."""
    twin = '[stage1.members.other]\nseries_type = "sagittal_t2"\nimage_size = 64\n%s\n'
    named = '[stage1.sets]\na = ["t2"]\nb = ["other"]\n'
    assert _recipe(tmp_path, twin % "" + named)
    assert _recipe(tmp_path, twin % "folds = [0, 1]")
    with pytest.raises(InputError, match=r"no detector of sagittal_t2 \(middle\) trains fold 2"):
        _recipe(tmp_path, twin % "folds = [0, 1]" + named)


def test_all_of_it_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        _recipe(tmp_path, "best_by = 'score'", "folds = [0, 7]\nbegins_with = 'nobody'")
    told = str(error.value)
    assert "(1) t2: best_by" in told
    assert "(2) second: folds names 7" in told
    assert "(3) second: begins_with = 'nobody'" in told


def test_what_is_wrong_with_specs_does_not_hide_what_is_wrong_with_their_training(tmp_path: Path) -> None:
    detector = "stride = 3\ntarget = 'disc'\nanswer = 'slices'\nbest_by = 'score'"
    grader = "region = { rotate = 'canal', box = 'whole', half = true }\nloss = { hinge = 1.0 }\nbest_by = 'error_mm'\n"
    with pytest.raises(InputError) as error:
        _recipe(tmp_path, detector, grader + "[blend]\non = 'logits'\ninner.a.weights.spinal.b = 0\n")
    told = str(error.value)
    for words in (
        "stride = 3 is for heatmaps", "target = 'disc'", "t2: best_by", "cannot be rotated", "has neither half",
        "names 'hinge'", "second: best_by = 'error_mm'", "gives no member a weight",
    ):  # fmt: skip
        assert words in told, (words, told)


def test_a_member_begins_with_one_that_trains_its_folds(tmp_path: Path) -> None:
    third = "folds = [0]\n[stage2.members.third]\ntask = 'foraminal'\nbegins_with = 'second'\n"
    assert _recipe(tmp_path, stage2=third + "folds = [0]").folds_of("third") == (0,)
    with pytest.raises(InputError, match=r"third: begins with 'second', which does not train fold 1"):
        _recipe(tmp_path, stage2=third + "folds = [0, 1]")


def test_members_are_trained_fold_by_fold_in_order(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, stage2="folds = [2, 0]")
    assert recipe.to_train() == [
        *[("t2", 0), ("first", 0), ("second", 0)],
        *[("t2", 1), ("first", 1)],
        *[("t2", 2), ("first", 2), ("second", 2)],
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("frozen = ['encoder']", r"second: frozen names 'encoder', and the network has no such parameter"),
        ("frozen = ['encoder', 'tail']", r"frozen names 'encoder', 'tail', and the network has no such parameter"),
        ("frozen = ['encoders', 'head']", "the whole network"),
        ("begins_with = 't2'", "no weight of 't2' fits it"),
        ("begins_with = 'first'\nepochs = 0", "all weights from 'first', and not all of its parts are there"),
        ("begins_with = 'first'\nfresh = ['tail']", "fresh names 'tail'"),
        ("soft_labels = 'nowhere.csv'", "nowhere.csv"),
        ("loss = { severity = 1.0, any_severe = 1.0 }", "asks about the canal, and it does not answer that"),
        ("loss = { severity = 1.0, slices = 1.0 }", "which gru does not give; it gives severity in training"),
        ("loss = { severity = 1.0, slice_scores = 1.0 }", "names 'slice_scores', which gru does not give"),
        ("loss = { severity = 1.0, level = 1.0 }\nnetwork = 'mil'", "it gives severity, slices in training"),
        ("network_args = { foo = 1 }", "the recipe: gru takes no network_args 'foo'; known: bidirectional, dropout"),
        ("network = 'mil'\nnetwork_args = { foo = 1 }", "mil takes no network_args 'foo'; known: none"),
        (
            "network = 'attention'\nnetwork_args = { hidden = 0, dropout = 'a' }",
            "(1) network_args hidden = 0 cannot be used; give a whole number, 1 or more. (2) network_args dropout "
            "= 'a' cannot be used; give a number from 0 to less than 1",
        ),
        ("network = 'attention'\nnetwork_args = { hidden = 1.5 }", "hidden = 1.5 cannot be used"),
        ("network = 'attention'\nlevels = 'all'\nnetwork_args = { hidden = 7 }", "give an even whole number"),
        ("loss = { severity = 1.0, level = 1.0, views = 1.0 }", "loss names 'level', 'views', which gru does not give"),
    ],
)
def test_what_only_networks_and_data_tell_is_told_before_anything_is_trained(
    lines: str, words: str, tmp_path: Path
) -> None:
    row = ",".join(["7", *["Moderate"] * 25])
    (tmp_path / "train.csv").write_text(f"study_id,{','.join(LABEL_COLUMNS)}\n{row}\n", encoding="utf-8")
    (fault,) = recipe_faults(_recipe(tmp_path, stage2=lines), tmp_path)
    assert words.split(".*")[0].replace("\\", "") in fault


def test_all_that_one_network_is_asked_wrongly_is_told_at_once(tmp_path: Path) -> None:
    lines = "frozen = ['tail']\nbegins_with = 'first'\nfresh = ['neck']\n"
    lines += "loss = { any_severe = 1.0, severity = 1.0, level = 1.0 }"
    faults = recipe_faults(_recipe(tmp_path, stage2=lines), tmp_path)
    words = ("frozen names 'tail'", "fresh names 'neck'", "names 'any_severe'", "names 'level'")
    assert len(faults) == len(words)
    for fault, word in zip(faults, words, strict=True):
        assert word in fault


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "network = 'slice_scores'\nanswer = 'slices'\nplace = 'whole'\nnetwork_args = { layers = 1.5, hidden = 0 }",
            ("layers = 1.5 cannot be used", "hidden = 0 cannot be used"),
        ),
        (
            "network = 'pointer'\ndepth = true\nnetwork_args = { pointer_args = 3, pointer_hidden = true }",
            ("pointer_args = 3 cannot be used; give a table", "pointer_hidden = True cannot be used"),
        ),
        (
            "network = 'pointer'\ndepth = true\nnetwork_args = { pointer_args = { depth = 3 } }",
            ("those of a pointer_encoder; name one, or leave them out",),
        ),
        ("network = 'centernet'\nstride = 4\nnetwork_args = { dropout = 0.1 }", ("give a list of numbers from 0",)),
        ("image_size = 50", ("correct its settings",)),
    ],
)
def test_arguments_of_a_detector_that_make_no_sense_are_told(
    lines: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    (fault,) = recipe_faults(_recipe(tmp_path, lines, network_args={}), tmp_path)
    assert "bundle" not in fault
    for word in words:
        assert word in fault
