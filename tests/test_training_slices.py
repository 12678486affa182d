"""Losses of slices: which carry an annotation is followed through every change of a sample."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lumbar.grading.regions import cut_regions
from lumbar.grading.tasks import task_of
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.labels import mirrored as other_side
from lumbar.metric import label_codes
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.losses import OF_GRADERS, GraderLoss
from lumbar.recipe.settings import Training
from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import read_arrays, read_header, write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays, tells_annotations
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.loop import mix, shared_losses
from lumbar.training.loop.grader_losses import Truth, loss_of
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.run import train
from tests.support.grader_kinds import KINDS
from tests.support.worlds import grader_spec, small_phantoms

#: Kinds of which few slices, or none near a label, are seen.
WITHOUT = ("neighbours at the border", "all slices of a series for each side")
ASKS = {"severity": 1.0, "slice_scores": 0.5, "annotated_slice": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("slices") / "data", studies=1))


def _samples(
    data: DataFolder, folder: Path, spec: GraderSpec, augment: Augment, *, shift: int = 0, shown: bool = False
) -> RegionSamples:
    """Samples of a study; with `shown` a slice is white where it carries an annotation, else black."""
    assert data.coordinates is not None
    assert data.labels is not None
    study = read_study(data, data.study_ids[0])
    labelled = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    wide = margin_spec(spec, 1.5, shift)
    arrays = region_arrays(study, labelled, wide, labelled)
    if shown:
        for view in [name.removesuffix("/annotated") for name in arrays if name.endswith("/annotated")]:
            channels, marked = (
                spec.region_of(view.partition(".")[0]).channels,
                arrays[f"{view}/annotated"].any(-1),
            )  # (5, T)
            marked = marked if len(arrays[view]) > 1 else marked.any(0, keepdims=True)  # whole series: once for all
            arrays[view][:] = 255 * np.repeat(marked, channels, axis=1)[..., None, None]
            arrays[f"{view}/range"][:] = 0, 1
    write_arrays(folder / f"{study.study_id}.safetensors", arrays)
    known, codes = label_codes(data.labels)
    labels = {int(one): code for one, code in zip(known, codes, strict=True)}
    shares = dict.fromkeys(("sagittal_t1", "sagittal_t2", "axial_t2"), (0.2, 0.4, 0.4)) if shift else None
    return RegionSamples(folder, [study.study_id], labels, spec, Training(loss=ASKS, augment=augment), None, shares)


def test_slices_are_those_of_the_table(data: DataFolder) -> None:
    assert data.coordinates is not None
    study, spec = read_study(data, data.study_ids[0]), grader_spec("global")
    rows = study_rows(data.coordinates)[study.study_id]
    labelled = label_keypoints(study, rows)
    arrays, regions = region_arrays(study, labelled, spec, labelled), cut_regions(study, labelled, spec)
    seen = 0
    for row in rows.itertuples():
        for (view, level), cut in regions.cuts.items():
            expected = [
                level == row.level and (cut.series_id, item.instance) == (row.series_id, row.instance_number)
                for item in cut.slices
                if item is not None
            ]
            found = arrays[f"{view}/annotated"][LEVELS.index(level), :, CONDITIONS.index(row.condition)]
            assert level != row.level or found.tolist() == expected
            seen += sum(expected)
    assert seen >= 15
    assert not region_arrays(study, labelled, spec)["sagittal_t2/annotated"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_annotations_follow_their_slices(data: DataFolder, tmp_path: Path, kind: str) -> None:
    """White slices are the marked ones, wherever they come to stand; the other side's may be white, too."""
    spec = KINDS[kind]
    regions = [spec.region_of(view) for view in task_of(spec).views]
    shift = 0 if any(region.around in ("level", "series") or region.slices == 1 for region in regions) else 2
    augment = Augment(mirror_p=0.5, reverse_p=0.5, flip_columns_p=0.3, channel_shuffle_p=0.5, repeat_p=0.1)
    samples = _samples(data, tmp_path, spec, augment, shift=shift, shown=True)
    marked = 0
    for place, row in enumerate(samples.rows.tolist()):
        got = samples.sample(place, np.random.default_rng(place))
        L = [slice(None)] if row[1] < 0 else [None]  # an axis of levels, where there is none
        every: dict[int, np.ndarray] = {}
        for group, places in enumerate(samples.groups):
            name = "" if group == 0 else f".{group}"
            views, order = got[f"views{name}"][*L], got[f"order{name}"][*L]  # (L, V, T, H, W), (L, V, T)
            for slot, view in enumerate(places):
                channels = samples.spec.region_of(samples.task.samples[0].views[view]).channels
                frames = np.take_along_axis(views[:, slot, :, 0, 0], order[:, slot], axis=1)
                every[view] = frames[:, channels // 2 :: channels] > 0.5
        white = np.concatenate([every[view] for view in sorted(every)], axis=1)  # (L, T)
        own = got["marked"][*L].astype(bool)
        both_sides = got["annotated"][*L].any(-1) | own
        if spec.levels == "study":  # which are seen once for all levels
            own, both_sides = (each.any(0, keepdims=True) for each in (own, both_sides))
        assert not (both_sides & ~white).any()
        names = samples.task.samples[0].views
        if not any(name.startswith("axial") and name != "axial_middle" for name in names):
            assert (own == white).all()  # an axial slice may be the other side's
        marked += int(white.sum())
    assert marked or kind in WITHOUT


def test_a_mirrored_sample_asks_the_other_sides_conditions(data: DataFolder, tmp_path: Path) -> None:
    spec = grader_spec("global")
    plain = _samples(data, tmp_path / "a", spec, Augment(channel_shuffle_p=0.0))
    turned = _samples(data, tmp_path / "b", spec, Augment(channel_shuffle_p=0.0, mirror_p=1.0))
    columns = [CONDITIONS.index(other_side(name)) for name in CONDITIONS]
    for place in range(len(plain.rows)):
        own, other = (each.sample(place, np.random.default_rng(0)) for each in (plain, turned))
        assert sorted(own["annotated"].sum(0)) == sorted(other["annotated"].sum(0))
        assert own["annotated"].sum(0).tolist() == other["annotated"].sum(0)[columns].tolist()


def test_files_of_before_are_made_again_where_slices_are_asked(data: DataFolder, tmp_path: Path) -> None:
    _samples(data, tmp_path, grader_spec("spinal"), Augment())
    path = tmp_path / f"{data.study_ids[0]}.safetensors"
    assert tells_annotations(path)
    arrays, _ = read_arrays(path)
    write_arrays(path, {name: value for name, value in arrays.items() if not name.endswith("/annotated")})
    assert not tells_annotations(path)
    plain = RegionSamples(
        tmp_path, data.study_ids, {data.study_ids[0]: np.zeros((5, 5), int)}, grader_spec("spinal"), Training()
    )
    assert "annotated" not in plain.sample(0, None)  # who does not ask reads them as before


def _truth(**changes: object) -> Truth:
    torch.manual_seed(0)
    annotated = torch.zeros(3, 1, 5, 2)
    annotated[0, 0, 1], annotated[1, 0, 4, 1] = 1, 1  # the third sample has no annotated slice
    marked = annotated.any(-1)
    labels = torch.tensor([[[0, 2]], [[1, 1]], [[2, 2]]])
    return replace(Truth(Training(loss=ASKS), labels, None, None, annotated, marked, (3, 2)), **changes)


def test_slices_with_an_annotation_alone_are_asked_for_the_labels() -> None:
    truth, logits = _truth(), torch.randn(3, 1, 5, 2, 3, requires_grad=True)
    total, weight = loss_of("slice_scores", logits, truth)
    rows = torch.stack([logits[0, 0, 1, 0], logits[0, 0, 1, 1], logits[1, 0, 4, 1]])
    expected, known = shared_losses.severity_loss(rows, torch.tensor([0, 2, 1]))
    assert float(weight) == float(known) == 1 + 4 + 2
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    total.backward()
    assert logits.grad is not None
    assert int((logits.grad != 0).any(-1).sum()) == 3
    own = Training(loss=ASKS, slice_class_weights=(0.1, 2.0, 4.0))
    assert float(loss_of("slice_scores", logits, _truth(training=own))[1]) == pytest.approx(0.1 + 4 + 2)


def test_slices_are_asked_where_their_views_annotation_is() -> None:
    truth, scores = _truth(), torch.randn(3, 1, 5)
    total, weight = loss_of("annotated_slice", scores, truth)
    first, second = scores[0, 0, :3].log_softmax(-1)[1], scores[1, 0, 3:].log_softmax(-1)[1]
    assert float(weight) == 2  # of the other views nobody knows which
    assert float(total) == pytest.approx(-float(first + second), rel=1e-6)
    twice = _truth(marked=torch.tensor([[[1, 1, 1, 0, 0]], [[0] * 5], [[0] * 5]]))
    assert float(loss_of("annotated_slice", scores, twice)[0]) == pytest.approx(0, abs=1e-6)  # any of them will do


@pytest.mark.parametrize("word", ["slice_scores", "annotated_slice", "slices", "level"])
def test_mixed_samples_are_asked_for_both_in_their_parts(word: str) -> None:
    said = {
        "slices": torch.randn(3, 1, 5, 2, 3),
        "slice_scores": torch.randn(3, 1, 5, 2, 3),
        "annotated_slice": torch.randn(3, 1, 5),
        "level": torch.randn(3, 1, 5),
    }[word]
    own, level = _truth(), torch.tensor([[0], [3], [4]])
    own = replace(own, level=level)
    turned = {name: getattr(own, name).roll(1, 0) for name in ("labels", "level", "annotated", "marked")}
    other = replace(own, **turned)
    alone = [loss_of(word, said, one) for one in (own, other)]
    for share in (1.0, 0.25, 0.0):
        both = replace(own, partner=other, share=torch.full((3,), share))
        for part, first, second in zip(loss_of(word, said, both), *alone, strict=True):
            assert float(part) == pytest.approx(float(share * first + (1 - share) * second), rel=1e-5, abs=1e-6)


RECIPE = """
[folds]
count = 2
train = [0, 1]
[loop]
mixed_precision = "no"
workers = 0
read_processes = 1
[stage1.members.t2]
series_type = "sagittal_t2"
network = "regressor"
encoder = "resnet18"
encoder_args = { channels = [4, 4, 8, 8] }
answer = "points"
image_size = 32
epochs = 1
[stage2]
keypoints = "labels"
network = "attention"
network_args = { hidden = 8 }
backbone_args = { channels = [8, 8, 8, 8] }
views = ["sagittal_t2"]
conditions = ["spinal_canal_stenosis"]
image_size = 32
slices = 5
epochs = 1
batch_size = 4
[stage2.members.canal]
"""
MORE = """
loss = { severity = 1.0, slice_scores = 0.5, level = 0.1 }
slice_class_weights = [0.3275, 1.55, 4]
augment = { mix = "mixup", mix_p = 0.5 }
"""


@pytest.mark.slow
def test_a_run_whose_files_do_not_tell_slices_yet_learns_from_them(tmp_path: Path) -> None:
    """Regions that were made for a recipe without such a loss are made again; the run goes on."""
    small_phantoms(tmp_path / "data", 4, 3)
    path, run = tmp_path / "r.toml", tmp_path / "run"
    path.write_text(RECIPE, encoding="utf-8")
    train(path, tmp_path / "data", run)
    files = sorted((run / "cache" / "regions").rglob("*.safetensors"))
    assert files
    for file in files:  # as before there were any
        arrays, _ = read_arrays(file)
        plain = {name: value for name, value in arrays.items() if not name.endswith("/annotated")}
        write_arrays(file, plain, source=read_header(file)["source"])
    train(path, tmp_path / "data", run)
    assert not any(map(tells_annotations, files))
    path.write_text(RECIPE + MORE, encoding="utf-8")
    train(path, tmp_path / "data", run)
    assert all(map(tells_annotations, files))


class _Says(nn.Module):
    def __init__(self, **outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, views: object, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.outputs


def test_the_objective_asks_every_word_of_the_recipe_in_training_alone(data: DataFolder, tmp_path: Path) -> None:
    spec = grader_spec("global")
    samples = _samples(data, tmp_path, spec, Augment())
    one = samples.sample(0, None)
    batch = {name: torch.as_tensor(np.stack([value, value])) for name, value in one.items()}
    batch["labels"][:, 0] = 2  # something is severe
    said = {word: torch.randn(2, 1, *shape) for word, shape in _SHAPES.items()}
    places = ("points", "shared")  # which whole series have, see `test_eighth_place_targets`
    words = {word: 0.5 for word, loss in OF_GRADERS.items() if word != "any_severe" and loss.target not in places}
    objective = SeverityObjective(spec, Training(loss=words))
    terms = objective.terms(_Says(**said), batch, train=True)
    assert set(terms) == set(words)
    assert all(term.weight > 0 and torch.isfinite(term.total) for term in terms.values())
    assert set(objective.terms(_Says(**said), batch, train=False)) == {"severity"}
    partner = {mix.PARTNER + name: value for name, value in batch.items()}
    drawn = {mix.SHARE: torch.full((2,), 0.3), mix.BOX: torch.zeros(2, 4)}
    training = Training(loss=words, augment=Augment(mix="mixup"))
    mixed = SeverityObjective(spec, training).terms(_Says(**said), batch | partner | drawn, train=True)
    for word, term in mixed.items():
        assert float(term.total) == pytest.approx(float(terms[word].total), rel=1e-5), word


def test_a_word_for_another_output_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of severities: a recipe may name it, and a network that gives the output is asked."""
    monkeypatch.setitem(OF_GRADERS, "tokens", GraderLoss("tokens"))
    spec, training = grader_spec("spinal"), Training(loss={"severity": 1.0, "tokens": 0.4})
    assert list(GraderMember(spec=spec, training=training).faults()) == []
    said = {"severity": torch.randn(2, 1, 1, 3), "tokens": torch.randn(2, 1, 7, 1, 3)}
    batch = {
        "views": torch.zeros(2, 2, 3, 32, 32),
        "seen": torch.ones(2, 2, dtype=torch.bool),
        "labels": torch.tensor([[1], [-1]]),
    }
    terms = SeverityObjective(spec, training).terms(_Says(**said), batch, train=True)
    assert (terms["tokens"].factor, float(terms["tokens"].weight)) == (0.4, 7 * 2)


_SHAPES = {
    "severity": (5, 3),
    "slices": (15, 5, 3),
    "views": (5, 5, 3),
    "level": (5,),
    "slice_scores": (15, 5, 3),
    "annotated_slice": (15,),
    "auxiliary": (5, 3),
}
