"""Out of distribution: regions that look like nothing seen in training are told, and their severities not trusted."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread
from safetensors.numpy import load, save

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.likeness import ENDING
from lumbar.bundle.manifest import MANIFEST
from lumbar.bundle.network import build_network, example, noise
from lumbar.bundle.ownership import own_files
from lumbar.bundle.save import Weights, save_bundle
from lumbar.compute.compiled import CompiledRunner
from lumbar.compute.forward import asked
from lumbar.files.write import sha256
from lumbar.grading import likeness
from lumbar.grading.grade import grade
from lumbar.grading.likeness import Features, graded_on, learn, learns_from, of_member
from lumbar.grading.networks.registry import NETWORKS
from lumbar.grading.networks.slices import listening
from lumbar.grading.regions import Regions, cut_regions
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, mirrored
from lumbar.prediction.likeness import known_labels
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import VIEWS, kind_of
from lumbar.report.html.cells import counted, table
from lumbar.report.pictures import show_study
from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.folder import RunFolder
from tests.conftest import ROOT
from tests.support.mirror import mirror_coordinates, mirror_study
from tests.support.small_recipe import small_recipe
from tests.support.trained import trained
from tests.support.worlds import grader_spec, small_phantoms

pytestmark = pytest.mark.usefixtures("networks_kept")

SWAPPED = [CONDITIONS.index(mirrored(condition)) for condition in CONDITIONS]
STUDIES = 12
SERIES = {"sagittal T2", "sagittal T1", "axial T2"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms to learn from, a new one, the same of noise, a bundle of the shipped networks that has learnt what
    regions look like, and the same before."""
    root = tmp_path_factory.mktemp("likeness")
    small_phantoms(root / "data", STUDIES, 3)
    small_phantoms(root / "new", 1, 7)
    shutil.copytree(root / "new", root / "noise")
    rng = np.random.default_rng(0)
    for path in (root / "noise").rglob("*.dcm"):
        dataset = dcmread(path)
        dataset.PixelData = rng.integers(0, 1000, dataset.Rows * dataset.Columns, np.uint16).tobytes()
        dataset.save_as(path)
    shipped = load_bundle(ROOT / "weights")
    for name in ("before", "weights"):
        members = [
            Weights(one.name, one.spec, shipped.network(one.name).state_dict()) for one in shipped.manifest.members
        ]
        save_bundle(root / name, members, prior=np.full((5, 5, 3), 1 / 3))
    words = ["likeness", "--weights", root / "weights", "--data", root / "data", "--device", "cpu"]
    assert train_utils.main([str(word) for word in words]) == 0
    return root


def predicted(world: Path, data: str, weights: str, out: Path, *more: str) -> dict[str, Any]:
    """The run report of one study; the files lie in `out`."""
    words = ["predict", "--data", world / data, "--weights", world / weights, "--out", out, "--device", "cpu", *more]
    assert train_utils.main([str(word) for word in words]) == 0
    report: dict[str, Any] = json.loads((out / "run_report.json").read_text())
    return report


def told(report: Mapping[str, Any]) -> list[str]:
    return [issue["detail"] for issue in report["issues"]["list"] if issue["code"] == "region_strange"]


def test_a_phantom_is_silent_and_noise_is_told_condition_by_condition(world: Path, tmp_path: Path) -> None:
    sound = predicted(world, "new", "weights", tmp_path / "new")
    assert not told(sound)
    shares = [row["strangeness"] for row in sound["studies"][0]["rows"].values()]
    assert len(shares) == 25
    assert 0 < max(shares) <= 1
    strange = predicted(world, "noise", "weights", tmp_path / "noise")
    details = told(strange)
    assert {detail.partition(" on ")[2].partition(" the ")[0] for detail in details} == SERIES
    assert strange["issues"]["meanings"]["region_strange"]
    assert details[0].startswith("Spinal Canal Stenosis L1/L2 (")
    assert "on sagittal T2 the region looks like nothing that the graders learnt from" in details[0]
    rows = strange["studies"][0]["rows"].values()
    shares = [row["strangeness"] for row in rows if row["from"] == "own view"]
    assert np.mean(np.array(shares) > 1) > 0.6
    assert not any("strangeness" in row for row in rows if row["from"] != "own view")


@pytest.mark.parametrize("data", ["new", "noise"])
def test_probabilities_do_not_change_and_a_bundle_without_is_silent(world: Path, data: str, tmp_path: Path) -> None:
    with_it, without = (predicted(world, data, name, tmp_path / name) for name in ("weights", "before"))
    tables = [(tmp_path / name / "submission.csv").read_bytes() for name in ("weights", "before")]
    assert tables[0] == tables[1]
    assert not told(without)
    assert not any("strangeness" in row for row in without["studies"][0]["rows"].values())
    assert any("strangeness" in row for row in with_it["studies"][0]["rows"].values())


def test_a_strange_severity_is_pale_and_hatched_and_counts_for_no_finding(world: Path) -> None:
    result = Predictor(load_bundle(world / "weights"))(read_study(open_data(world / "noise"), study_of(world)))
    assert result.phantom
    assert 0 < result.strange.sum() < result.seen.sum()
    assert (result.shown_as_told == ~result.strange).all()
    assert not (counted(result) & result.strange).any(), "no finding is told from it"
    cells = table(result, list(load_bundle(world / "weights").manifest.graders), None)
    assert sum(cell["strange"] for line in cells for cell in line) == result.strange.sum()
    assert all(cell["backed"] for line in cells for cell in line), "a phantom's"
    figure = show_study(result, open_data(world / "noise"))
    assert f"{result.strange.sum()} strange regions" in " ".join(text.get_text() for text in figure.texts)
    assert replace(result, strangeness=np.full((5, 5), np.nan)).shown_as_told.all()


def study_of(world: Path) -> int:
    (study,) = open_data(world / "new").study_ids
    return study


@pytest.mark.parametrize("name", ["canal", "foraminal_small", "subarticular_small", "global_small"])
def test_a_mirrored_study_gets_mirrored_scores(world: Path, name: str, tmp_path: Path) -> None:
    data, bundle = open_data(world / "new", "train"), load_bundle(world / "weights")
    study = study_of(world)
    mirror_study(data.image_folder / str(study), tmp_path / "train_images" / str(study))
    for path in data.root.glob("*.csv"):
        shutil.copy(path, tmp_path)
    assert data.coordinates is not None
    points = mirror_coordinates(data.coordinates, data.image_folder / str(study))
    twin = replace(open_data(tmp_path, "train"), coordinates=points)
    spec, network = bundle.manifest.graders[name], bundle.network(name)

    def scores(of: DataFolder) -> np.ndarray:
        read, features = read_study(of, study), Features()
        found = label_keypoints(read, study_rows(of.coordinates)[study])
        grade(cut_regions(read, found, spec), spec, network, features=features)
        return of_member(features, spec, bundle.likenesses(name))

    here, there = scores(data), scores(twin)
    assert np.isfinite(here).any()
    assert name == "canal" or np.nanmax(np.abs(here - here[SWAPPED])) > 0.01, "left and right differ"
    np.testing.assert_allclose(there[SWAPPED], here, atol=0.01)


@pytest.mark.slow
def test_learning_anew_exchanges_the_files_and_keeps_the_rest(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "before", tmp_path / "weights"))
    assert train_utils.main(["card", "--weights", str(folder)]) == 0
    first = own_files(folder)
    words = ["likeness", "--weights", str(folder), "--data", str(world / "data"), "--device", "cpu"]
    assert train_utils.main(words) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(own_files(folder)) == names, "the card tells of the new bundle, and all can be replaced"
    assert set(names) - set(first) == {f"{name}{ENDING}" for name in load_bundle(folder).manifest.graders}
    assert load_bundle(folder).identity == load_bundle(world / "weights").identity
    assert train_utils.main(["verify", "--weights", str(folder)]) == 0
    assert all((folder / name).stat().st_size < 30_000 for name in names if name.endswith(ENDING))


def test_too_few_studies_teach_nothing_and_the_bundle_stays(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(world / "before", tmp_path / "weights"))
    assert train_utils.main(["likeness", "--weights", str(folder), "--data", str(world / "new")]) == 1
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "give 10 studies or more" in sentence
    assert load_bundle(folder).identity == load_bundle(world / "before").identity


Arrays = dict[str, np.ndarray]


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


HARMS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "no number": (put("sagittal_t2.mean", lambda part: part * np.nan), "not all are numbers"),
    "no spread": (put("sagittal_t2.variances", lambda part: part * 0), "not above zero"),
    "no bar": (put("sagittal_t2.bar", lambda part: -part), "not above zero"),
    "no number towards T1": (put("sagittal_t2.weighting", lambda part: part * np.inf), "not all are numbers"),
    "a weighting of another shape": (put("sagittal_t2.weighting", lambda part: part[1:]), "do not fit each other"),
    "of another shape": (put("sagittal_t2.directions", lambda part: part[:, 1:]), "do not fit each other"),
    "a part less": (lambda arrays: arrays.pop("sagittal_t2.bar"), "one part or another is missing"),
    "nothing": (lambda arrays: arrays.clear(), "one part or another is missing"),
    "another kind": (
        lambda arrays: arrays.update({f"axial.{name.rpartition('.')[2]}": part for name, part in [*arrays.items()]}),
        "'axial', which its grader lacks",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_holds_no_likeness_ends_in_one_sentence(world: Path, harm: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "weights", tmp_path / "weights"))
    path = folder / f"canal{ENDING}"
    arrays = load(path.read_bytes())
    HARMS[harm][0](arrays)
    path.write_bytes(save({name: np.ascontiguousarray(part) for name, part in arrays.items()}))
    with pytest.raises(InputError, match="SHA-256"):
        load_bundle(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = next(one for one in manifest["members"] if one["name"] == "canal")
    entry["likeness"]["sha256"] = sha256(path)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=HARMS[harm][1]) as error:
        Predictor(load_bundle(folder))
    assert "\n" not in str(error.value)
    assert train_utils.main(["verify", "--weights", str(folder)]) == 1


def test_bytes_that_are_no_safetensors_and_a_file_that_is_gone_are_told(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "weights", tmp_path / "weights"))
    path = folder / f"canal{ENDING}"
    text = (folder / MANIFEST).read_text().replace(sha256(path), "{}")
    path.write_bytes(b"\x08" + bytes(30))
    (folder / MANIFEST).write_text(text.replace('"{}"', f'"{sha256(path)}"'))
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Predictor(load_bundle(folder))
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        load_bundle(folder)


def test_a_likeness_of_another_networks_features_is_refused(world: Path) -> None:
    known = load_bundle(world / "weights").likenesses("canal")
    features: Features = [("sagittal_t2", 0, np.zeros(3))]
    with pytest.raises(InputError, match=r"\d+ features, and the network has 3"):
        of_member(features, grader_spec("spinal"), known)


@cache
def a_grader_of(network: str) -> GraderSpec:
    """A small grader of a recipe that has this network."""
    for path in sorted((ROOT / "recipes").rglob("*.toml")):
        if f'"{network}"' in path.read_text(encoding="utf-8") or network == "gru":
            for member in small_recipe(path).stage2.members.values():
                if member.spec.network == network:
                    return member.spec
    return grader_spec("global").model_copy(update={"network": network})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_offers_features_says_of_each_view_what_its_backbone_says(network: str) -> None:
    spec = a_grader_of(network)
    assert spec.network == network
    built = build_network(spec).eval()
    empty, seen = example(spec, samples=2)
    full, _ = noise(spec, 2)

    def heard(views: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.inference_mode(), listening() as found:
            asked(built, (views, seen))
        return found

    plain, every = heard(empty), heard(full)
    if network in ("whole_slices", "whole_volume"):
        assert not every
        return
    assert {kind_of(view) for view in every} >= set(graded_on(spec))
    for view in every:
        assert every[view].shape[0] == seen.shape[0] * seen.shape[1]
        alone = heard({**empty, view: full[view]})
        for other in every:
            torch.testing.assert_close(alone[other], (every if other == view else plain)[other], rtol=1e-4, atol=1e-5)


def regions() -> Regions:
    rng = np.random.default_rng(1)
    tensors = {view: rng.standard_normal((5, 3, 32, 32)).astype(np.float32) for view in VIEWS}
    present = {view: np.ones(5, bool) for view in VIEWS}
    present["sagittal_t1_left"][2] = False
    return Regions(tensors, present)


class Scarce(torch.nn.Module):
    """A network on a device that has room for three samples."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.sizes = network, [0]

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.network(views, seen)
        self.sizes.append(len(seen))
        if len(seen) > 3:
            raise torch.OutOfMemoryError
        return answer


def test_features_are_those_of_regions_that_were_there_and_survive_a_halved_batch() -> None:
    spec = grader_spec("foraminal")
    network = build_network(spec).eval()
    whole: Features = []
    answers = grade(regions(), spec, network, features=whole)
    np.testing.assert_array_equal(answers, grade(regions(), spec, network))
    assert {(view, level) for view, level, _ in whole} == {
        (view, level)
        for view in ("sagittal_t1_left", "sagittal_t1_right")
        for level in range(5)
        if (view, level) != ("sagittal_t1_left", 2)
    }
    halved: Features = []
    scarce = Scarce(network)
    np.testing.assert_allclose(grade(regions(), spec, scarce, features=halved), answers, atol=1e-5)
    assert max(scarce.sizes) == 9
    assert [one[:2] for one in halved] == [one[:2] for one in whole]
    np.testing.assert_allclose([one[2] for one in halved], [one[2] for one in whole], atol=1e-5)


def test_features_are_the_same_where_openvino_computes() -> None:
    pytest.importorskip("openvino")
    spec = grader_spec("foraminal")
    network = build_network(spec).eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    plain: Features = []
    grade(regions(), spec, network, features=plain)
    runner = CompiledRunner(network, "openvino", example(spec))
    runner.fill(state, "foraminal")
    compiled: Features = []
    grade(regions(), spec, runner.network, features=compiled)
    assert len(compiled) == 9
    np.testing.assert_allclose([one[2] for one in compiled], [one[2] for one in plain], atol=1e-4)


def test_t1_in_t2s_place_is_strange(world: Path) -> None:
    predictor = Predictor(load_bundle(world / "weights"))
    study = read_study(open_data(world / "new"), study_of(world))
    exchanged = study.weightings_exchanged()
    assert exchanged.series["sagittal_t1"] == study.series["sagittal_t2"]
    assert exchanged.series["axial_t2"] == study.series["axial_t2"]
    sound, strange = (predictor(one).strangeness for one in (study, exchanged))
    assert not (sound > 1).any()
    assert (strange[0] > 1).all(), "the canal"
    assert (strange[1:3] - sound[1:3]).mean() > 0.1, "foramina, of which twelve studies do not tell enough"


def test_a_grader_learns_what_regions_look_like_from_studies_that_have_a_label_for_it(world: Path) -> None:
    codes = np.full((5, 5), -1)
    assert not learns_from(grader_spec("spinal"), codes)
    codes[0, 2] = 0
    assert [learns_from(grader_spec(task), codes) for task in ("spinal", "foraminal", "global")] == [True, False, True]
    data = open_data(world / "data", "train")
    assert data.labels is not None
    labels = data.labels.copy()
    labels.iloc[0] = None
    known = known_labels(replace(data, labels=labels))
    assert known is not None
    assert set(known) == set(data.study_ids) - {int(labels.index[0])}
    assert known_labels(replace(data, labels=None)) is None


@pytest.mark.slow
def test_training_leaves_likenesses_of_held_out_regions_and_the_bundle_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if every study were ten, since a small run holds out two or three.
    monkeypatch.setattr(likeness, "learn", lambda studies, spec, turned: learn([*studies] * 10, spec, [*turned] * 10))
    run = RunFolder(trained(tmp_path) / "run")
    assert run.likeness_file("whole", 0).is_file()
    assert not run.likeness_file("t2", 0).is_file()
    assert train_utils.main(["bundle", "--run", str(run.root), "--out", str(tmp_path / "weights")]) == 0
    bundle = load_bundle(tmp_path / "weights")
    for fold in (0, 1):
        known = bundle.likenesses(f"spinal_split_fold{fold}")
        assert known.keys() == {"sagittal_t2"}
        assert known["sagittal_t2"].weighting is not None
    result = Predictor(bundle)(read_study(open_data(tmp_path / "data"), open_data(tmp_path / "data").study_ids[0]))
    assert np.isfinite(result.strangeness[0]).all()
