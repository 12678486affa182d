"""Bundles: what is saved comes back, and everything that is not as it should be is refused in one sentence."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.manifest import MANIFEST
from lumbar.bundle.network import build_network, noise
from lumbar.bundle.save import Weights, save_bundle
from lumbar.compute.forward import asked
from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from tests.support.worlds import tiny_bundle

PRIOR = np.full((5, 5, 3), 1 / 3)
GRADER = GraderSpec(
    task="spinal", backbone_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, image_size=32, rnn_hidden=8
)
DETECTOR = DetectorSpec(
    series_type="sagittal_t2",
    encoder="tu-resnet18",
    encoder_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    network_args={"decoder_channels": 8},
    image_size=32,
    in_chans=3,
    num_classes=5,
)


def weights(name: str = "spinal_fold0", **fields) -> Weights:
    torch.manual_seed(3)
    return Weights(name, GRADER, build_network(GRADER).state_dict(), fold=0, saw="phantoms", **fields)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A bundle of one grader and one detector."""
    torch.manual_seed(4)
    detector = Weights("canal", DETECTOR, build_network(DETECTOR).state_dict())
    save_bundle(tmp_path / "bundle", [weights(scores={"loss": 0.5}), detector], prior=PRIOR, description="for tests")
    return tmp_path / "bundle"


def edit(folder: Path, change) -> None:
    """Change the manifest in place."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rewrite(folder: Path, state: dict[str, torch.Tensor], member: int = 0) -> None:
    """Put other weights into a member's file and make the hash agree."""
    manifest = json.loads((folder / MANIFEST).read_text())
    file = folder / manifest["members"][member]["file"]
    save_file(state, file)
    edit(folder, lambda m: m["members"][member].update(sha256=hashlib.sha256(file.read_bytes()).hexdigest()))


def refusal(folder: Path, network: str | None = None) -> str:
    def load() -> None:
        bundle = load_bundle(folder)
        if network is not None:
            bundle.network(network)

    with pytest.raises(InputError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(";") >= 1, "reason; remedy"
    return text


def test_a_member_is_rebuilt_from_the_bundle_alone(folder):
    bundle = load_bundle(folder)
    network = bundle.network("spinal_fold0")
    assert not network.training
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    original = build_network(GRADER)
    original.load_state_dict(weights().state)
    inputs = noise(GRADER, 2)
    with torch.inference_mode():
        assert torch.allclose(
            asked(network, inputs), asked(original.eval(), inputs), atol=5e-3
        )  # half precision on disk
    member = bundle.member("spinal_fold0")
    assert (member.spec, member.fold, member.saw, member.scores) == (GRADER, 0, "phantoms", {"loss": 0.5})


def test_single_precision_comes_back_exactly(tmp_path):
    bundle = save_bundle(tmp_path / "b", [weights()], prior=PRIOR, precision="float32")
    found, saved = bundle.network("spinal_fold0").state_dict(), weights().state
    assert all(torch.equal(value, saved[key]) for key, value in found.items())


def test_half_precision_keeps_vectors_integers_and_what_would_overflow(tmp_path):
    state = {**weights().state}
    key = next(name for name, value in state.items() if value.ndim == 4)
    large = next(name for name, value in state.items() if value.ndim == 4 and name != key)
    state[large] = state[large] + 1e5
    save_bundle(tmp_path / "b", [Weights("a", GRADER, state)], prior=PRIOR)
    stored = load_file(tmp_path / "b" / "a.safetensors")
    assert stored[key].dtype == torch.float16
    assert stored[large].dtype == torch.float32
    assert stored["encoders.0.backbone.bn1.running_var"].dtype == torch.float32
    assert stored["encoders.0.backbone.bn1.num_batches_tracked"].dtype == torch.int64


def test_folds_can_share_one_network(tmp_path):
    other = {key: value + 1 if value.is_floating_point() else value for key, value in weights().state.items()}
    members = [weights("a"), Weights("b", GRADER, other)]
    bundle = save_bundle(tmp_path / "b", members, prior=PRIOR, precision="float32")
    network = build_network(GRADER)
    for name, state in (("a", weights().state), ("b", other)):
        bundle.fill(network, name)
        assert torch.equal(network.head.weight, state["head.weight"])


def test_the_identity_changes_with_any_weight_and_with_nothing_else(tmp_path):
    one = save_bundle(tmp_path / "1", [weights()], prior=PRIOR)
    two = save_bundle(tmp_path / "2", [weights()], prior=PRIOR)
    state = {**weights().state, "head.bias": weights().state["head.bias"] + 1}
    three = save_bundle(tmp_path / "3", [Weights("spinal_fold0", GRADER, state, 0, "phantoms")], prior=PRIOR)
    assert one.identity == two.identity != three.identity


def test_the_description_names_every_member(folder):
    text = load_bundle(folder).describe()
    assert "spinal_fold0: grading spinal, gru on resnet18, 32 px, fold 0, saw phantoms, loss 0.5" in text
    assert "canal: keypoints on sagittal_t2, deeplabv3plus on tu-resnet18, 32 px, all folds" in text
    assert "for tests" in text


def test_saving_replaces_an_older_bundle_and_nothing_else(folder, tmp_path):
    save_bundle(folder, [weights("new")], prior=PRIOR)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "new.safetensors"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"home holds letter\.txt, which this command did not write there"):
        save_bundle(tmp_path / "home", [weights()], prior=PRIOR)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_weights_that_do_not_fit_their_spec_are_not_saved(tmp_path):
    state = {key: value for key, value in weights().state.items() if key != "head.bias"}
    with pytest.raises(InputError, match=r"do not fit the network: 1 missing \(head\.bias\)"):
        save_bundle(tmp_path / "b", [Weights("a", GRADER, state)], prior=PRIOR)
    assert not (tmp_path / "b" / MANIFEST).exists()


@pytest.mark.parametrize("prior", [np.full((5, 3, 3), 1 / 3), np.full((5, 5, 3), 0.5), np.zeros((5, 5, 3))])
def test_a_prior_that_is_none_is_not_saved(tmp_path, prior):
    with pytest.raises(InputError, match="prior"):
        save_bundle(tmp_path / "b", [weights()], prior=prior)


def test_a_folder_without_manifest_is_refused(tmp_path):
    assert f"{tmp_path / MANIFEST}: cannot be read (No such file or directory); give the folder" in refusal(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(folder):
    (folder / MANIFEST).write_text("{")
    assert "manifest.json: not JSON" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(colour=1), "unknown key 'colour'; known: version"),
        (lambda m: m.update(blnd={}), "unknown key 'blnd'; did you mean 'blend'?"),
        (lambda m: m["members"][0].update(sha=1), "members.0: unknown key 'sha'"),
        (lambda m: m["members"][0]["spec"].update(backbon="x"), "unknown key 'backbon'; did you mean"),
        (
            lambda m: m["members"][0]["spec"]["preprocessing"].update(values="raw"),
            "allowed: 'modality' or 'stored'",
        ),
        (lambda m: m.update(version=2), "version is 2; allowed: 1"),
        (lambda m: m.update(members=[]), "members has 0 entries; allowed: 1 or more"),
        (lambda m: m.update(prior=[[[1.0]]]), "prior: the prior has shape (1, 1, 1)"),
        (lambda m: m["members"][1].update(name="spinal_fold0"), "two members have the name 'spinal_fold0'"),
        (lambda m: m["members"][0].update(sha256="0"), "members.0.sha256"),
        (lambda m: m["members"][0].update(file="a\0.safetensors"), "members.0.file: a file's name may hold no control"),
        (lambda m: m["members"][0].update(file="a\x1b[2J.safetensors"), "may hold no control characters"),
        (
            lambda m: m["blend"].update(files={"x": {"file": "blend.x\0.txt", "sha256": "0" * 64}}),
            "blend.files.x.file",
        ),
        (
            lambda m: m["blend"].update(method="vote"),
            "blend.method is 'vote'; allowed: 'mean', 'mean_logits'",
        ),
    ],
)
def test_manifests_that_say_something_else_are_refused(folder, change, words):
    edit(folder, change)
    text = refusal(folder)
    assert words in text
    assert text.endswith("get the bundle again or one made for this version")


def test_a_changed_byte_is_noticed(folder):
    file = folder / "spinal_fold0.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    text = refusal(folder)
    assert "spinal_fold0.safetensors: SHA-256 is" in text
    assert "copy the bundle again" in text


def test_a_missing_file_is_noticed(folder):
    (folder / "canal.safetensors").unlink()
    assert "canal.safetensors: the file of member canal is missing; copy the whole bundle again" in refusal(folder)


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/weights.safetensors"])
def test_paths_that_leave_the_bundle_are_refused(folder, file):
    (folder.parent / "elsewhere.safetensors").write_bytes(b"x")
    edit(folder, lambda m: m["members"][0].update(file=file))
    assert f"member spinal_fold0 points outside the bundle ({file}); do not use this bundle" in refusal(folder)


def test_links_that_leave_the_bundle_are_refused(folder):
    file = folder / "canal.safetensors"
    file.rename(folder.parent / "elsewhere.safetensors")
    file.symlink_to(folder.parent / "elsewhere.safetensors")
    assert "points outside the bundle" in refusal(folder)


def test_files_of_another_kind_are_refused_by_name(folder):
    edit(folder, lambda m: m["members"][0].update(file="w.pt"))
    assert "w.pt: only safetensors files are loaded, since others can run code" in refusal(folder)


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_under_a_safetensors_name_are_refused_by_content(folder, protocol):
    (folder / "canal.safetensors").write_bytes(pickle.dumps({"a": 1}, protocol))
    assert "canal.safetensors: holds pickled data, which can run code" in refusal(folder)


def test_torch_archives_under_a_safetensors_name_are_refused_by_content(folder):
    torch.save({"a": torch.zeros(2)}, folder / "canal.safetensors")
    assert "holds pickled data" in refusal(folder)


def test_a_header_whose_length_begins_like_a_pickle_is_not_taken_for_one(folder):
    state = {key: value.clone() for key, value in load_file(folder / "spinal_fold0.safetensors").items()}
    for filler in range(300):  # the header's length is padded to eight bytes: some filler makes it end in 0x80
        save_file(state, folder / "spinal_fold0.safetensors", metadata={"filler": "x" * filler})
        if (folder / "spinal_fold0.safetensors").read_bytes()[0] == 0x80:
            break
    data = (folder / "spinal_fold0.safetensors").read_bytes()
    assert data[0] == 0x80
    edit(folder, lambda m: m["members"][0].update(sha256=hashlib.sha256(data).hexdigest()))
    load_bundle(folder).network("spinal_fold0")


def test_a_truncated_file_whose_hash_was_made_to_fit_is_refused(folder):
    file = folder / "spinal_fold0.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    edit(folder, lambda m: m["members"][0].update(sha256=hashlib.sha256(file.read_bytes()).hexdigest()))
    assert "spinal_fold0.safetensors: cannot be read as safetensors" in refusal(folder, "spinal_fold0")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("head.bias"), "1 missing (head.bias)"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected (extra)"),
        (lambda s: s.update({"head.bias": torch.zeros(4)}), "1 of another shape (head.bias is (4,), not (3,))"),
    ],
)
def test_weights_that_do_not_fit_the_network_are_refused_by_key(folder, change, words):
    state = load_file(folder / "spinal_fold0.safetensors")
    change(state)
    rewrite(folder, state)
    text = refusal(folder, "spinal_fold0")
    assert words in text
    assert text.endswith("use the file that was made for it")


def test_a_network_that_would_fetch_its_weights_is_refused(folder):
    edit(folder, lambda m: m["members"][0]["spec"].update(backbone="hf-hub:someone/model"))
    assert "names a place to load from; give the plain name of a network" in refusal(folder, "spinal_fold0")


def test_an_unknown_member_is_named_with_the_known_ones(folder):
    assert "the bundle has no member 'other'; it has spinal_fold0, canal" in refusal(folder, "other")


def test_of_many_faults_of_a_manifest_the_number_and_the_first_ones_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_bundle(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    for member in manifest["members"]:
        member.update(fold="none", rank=0, sha256="?", saw=7)
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    assert train_utils.main(["verify", "--weights", str(tmp_path / "b")]) == 1
    told = capsys.readouterr().err
    assert f"{MANIFEST}: 4 values are wrong: (1) members.0.fold (and 6 more) is 'none'; allowed: a whole number" in told
    assert told.endswith("; get the bundle again or one made for this version\n")
    assert "(4) members.0.saw (and 6 more) is 7; allowed: a text; get the bundle again" in told
    assert len(told) - len(str(tmp_path)) < 400
