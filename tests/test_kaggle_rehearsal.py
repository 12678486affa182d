"""The notebook as Kaggle runs it: packed, mounted read-only at Kaggle's own paths, offline, with wheels only.

The environment is fresh: it has pip and links to everything installed here but the packages that the dataset's wheels
bring. Mounts and network belong to namespaces of the test's own; the machine sees neither.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import train_utils
from lumbar.kaggle.inputs import COMPETITION, WHEELS
from lumbar.kaggle.pack import PYTHONS, pinned_wheels
from tests.test_notebook import check_submission

ROOT = Path(__file__).resolve().parents[1]
STUDY = 100001
#: What runs inside the namespaces: loopback up (the kernel talks over it), mounts, then the command as given.
ENTER = """
set -e
"$1" -c '
import fcntl, socket, struct
with socket.socket() as link:
    fcntl.ioctl(link, 0x8914, struct.pack("16sh", b"lo", 0x41))
try:
    socket.create_connection(("192.0.2.1", 80), 1).close()
except OSError as error:
    assert error.errno == 101, error  # unreachable: there is no way out, not just no answer
else:
    raise SystemExit("there is a network here")
'
mount -t tmpfs none "$3"
mkdir "$3"/input "$3"/working "$3"/usr
for part in input working usr; do mount --bind "$2/$part" "$3/$part"; done
mount -o remount,ro,bind "$3/input"; mount -o remount,ro,bind "$3/usr"
for part in input usr; do
  if touch "$3/$part/written" 2>/dev/null; then echo "$part can be written to" >&2; exit 1; fi
done
touch "$3/working/written" && rm "$3/working/written"
cd "$3/working"
shift 3
exec "$@"
"""


def needs_namespaces() -> None:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to mount Kaggle's paths where only the test sees them")
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no namespaces here: {tried.stderr.strip()}")


def make_wheel_of(name: str, folder: Path) -> None:
    """An installed distribution as a wheel again: the test needs the files, and has no network to fetch them by."""
    distribution = importlib.metadata.distribution(name)
    tags = [
        line.split(": ")[1] for line in (distribution.read_text("WHEEL") or "").splitlines() if line.startswith("Tag")
    ]
    python, abi = tags[0].split("-")[:2]
    platforms = ".".join(dict.fromkeys(tag.split("-")[2] for tag in tags))
    stem = f"{name.replace('-', '_')}-{distribution.version}-{python}-{abi}-{platforms}"
    left_out = {"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
    files = [file for file in distribution.files or [] if "__pycache__" not in file.parts and file.name not in left_out]
    staging = folder / "staging"
    for file in files:
        if ".." not in file.parts:
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(distribution.locate_file(file)), staging / file)
    shutil.make_archive(str(folder / stem), "zip", staging)
    (folder / f"{stem}.zip").rename(folder / f"{stem}.whl")
    shutil.rmtree(staging)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `--wheels` wants it; a wheel for the Python that does not run here is a copy under another name."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in WHEELS:
        make_wheel_of(name, folder)
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for path in list(folder.glob(f"*-{here}-*.whl")):
        for python in PYTHONS:
            if f"cp{python}" != here:
                shutil.copyfile(path, folder / path.name.replace(here, f"cp{python}"))
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    out = tmp_path_factory.mktemp("build")
    command = ["kaggle", "--weights", str(ROOT / "weights"), "--out", str(out), "--owner", "someone"]
    assert train_utils.main([*command, "--wheels", str(wheels)]) == 0
    return out


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's interpreter: pip, and links to all that is installed here but what Kaggle's image lacks."""
    folder = tmp_path_factory.mktemp("image")
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    made = subprocess.run(
        [str(base), "-m", "venv", "--symlinks", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no environment can be made here: {made.stderr.strip() or made.stdout.strip()}")
    hidden = {str(file).split("/")[0] for name in WHEELS for file in importlib.metadata.distribution(name).files or []}
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name not in hidden and entry.suffix != ".pth" and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def mount(tree: Path, packed: Path, layout: str) -> Path:
    """What lies below `/kaggle`: the competition with one unlabelled study, the dataset, the utility script.

    The script is there in the new layout only: who uploads in the browser does without.
    """
    below = {"old": ("", ""), "new": ("competitions/", "datasets/someone/")}[layout]
    data = tree / "input" / f"{below[0]}{COMPETITION}"
    (data / "test_images").mkdir(parents=True)
    sample = ROOT / "sample_data"
    table = pd.read_csv(sample / "train_series_descriptions.csv")
    table[table["study_id"] == STUDY].to_csv(data / "test_series_descriptions.csv", index=False)
    shutil.copytree(sample / "train_images" / str(STUDY), data / "test_images" / str(STUDY))
    shutil.copy(sample / "train.csv", data)
    shutil.copytree(packed / "dataset", tree / "input" / f"{below[1]}lumbar-weights")
    (tree / "usr" / "lib").mkdir(parents=True)
    if layout == "new":
        shutil.copytree(packed / "script", tree / "usr" / "lib" / "train_utils")
    (tree / "working").mkdir()
    return tree


def at_kaggle(tree: Path, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command with `tree` mounted at `/kaggle`, in namespaces of its own: no network, inputs read-only."""
    place = Path("/kaggle")
    made = not place.exists()
    place.mkdir(exist_ok=True)
    enter = ["unshare", "--mount", "--net", "bash", "-c", ENTER, "enter", sys.executable, str(tree), str(place)]
    hidden = ("LUMBAR", "PYTHON", "KAGGLE", "PIP")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    variables = {**kept, "OMP_NUM_THREADS": "1", "HOME": str(tree), **environment}
    try:
        return subprocess.run(
            [*enter, *command], env=variables, cwd=tree, capture_output=True, text=True, timeout=540, check=False
        )
    finally:
        if made:
            place.rmdir()


def importable(python: Path) -> list[bool]:
    """Whether the environment has each of the packages that the wheels bring."""
    names = ["segmentation_models_pytorch", "pylibjpeg", "openjpeg", "rle"]
    program = f"from importlib.util import find_spec\nprint([find_spec(n) is not None for n in {names}])"
    found = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True)
    return json.loads(found.stdout.lower())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "environment"),
    [("old", {}), pytest.param("new", {"KAGGLE_IS_COMPETITION_RERUN": "1"}, id="new-rerun")],
)
def test_the_packed_notebook_runs_at_kaggles_paths_without_network(
    tmp_path: Path, packed: Path, python: Path, layout: str, environment: dict[str, str]
) -> None:
    needs_namespaces()
    if any(importable(python)):  # what the run before installed
        subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", *WHEELS], capture_output=True, check=True)
    assert importable(python) == [False] * 4
    tree = mount(tmp_path / "tree", packed, layout)
    command = [str(python), "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "/kaggle/working"]
    command += ["--output", "__notebook__.ipynb", str(packed / "notebook" / "inference.ipynb")]
    ended = at_kaggle(tree, command, environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    table = check_submission(tree / "working" / "submission.csv", [STUDY])
    expected = pd.read_csv(ROOT / "sample_data" / "expected_submission.csv").set_index("row_id").loc[table.index]
    assert (table - expected).abs().to_numpy().max() < 1e-3
    shown = json.dumps(nbformat.read(tree / "working" / "__notebook__.ipynb", as_version=4).cells)
    assert "/kaggle/working" in shown
    assert ("image/png" in shown) is (not environment)
    assert importable(python) == [True] * 4


@pytest.mark.slow
def test_the_utility_script_ends_well_when_it_is_pushed(tmp_path: Path, packed: Path, python: Path) -> None:
    needs_namespaces()
    tree = mount(tmp_path / "tree", packed, "new")
    command = [str(python), "/kaggle/usr/lib/train_utils/train_utils.py"]
    ended = at_kaggle(tree, command, {"KAGGLE_KERNEL_RUN_TYPE": "Batch"})
    assert ended.returncode == 0, ended.stderr
    assert "predict" in ended.stdout


def test_the_metadata_passes_kaggles_own_rules(packed: Path) -> None:
    """The rules of the official client (2.2.4); where it is installed, the next test asks it."""
    dataset = json.loads((packed / "dataset" / "dataset-metadata.json").read_text())
    assert 6 <= len(dataset["title"]) <= 50
    assert 6 <= len(dataset["id"].split("/")[1]) <= 50
    assert 20 <= len(dataset["subtitle"]) <= 80
    assert len(dataset["licenses"]) == 1
    notebook = json.loads((packed / "notebook" / "kernel-metadata.json").read_text())
    assert (notebook["enable_gpu"], notebook["machine_shape"]) == (True, "NvidiaTeslaT4")
    assert notebook["enable_internet"] is False
    assert notebook["competition_sources"] == [COMPETITION]
    assert notebook["dataset_sources"] == [dataset["id"]]
    script = json.loads((packed / "script" / "kernel-metadata.json").read_text())
    assert notebook["kernel_sources"] == [script["id"]]
    assert script["keywords"] == ["utility script"]
    training = json.loads((packed / "training" / "kernel-metadata.json").read_text())
    assert (training["enable_gpu"], training["enable_internet"]) == (True, False)
    assert training["competition_sources"] == [COMPETITION]
    assert training["dataset_sources"] == [dataset["id"], "someone/lumbar-pretrained"]
    for folder, metadata in (("notebook", notebook), ("training", training), ("script", script)):
        assert (packed / folder / metadata["code_file"]).is_file()
        slug = metadata["id"].split("/")[1]
        assert "".join(c if c.isalnum() else "-" for c in metadata["title"].lower()) == slug


@pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="needs the package kaggle")
@pytest.mark.parametrize("folder", ["dataset", "notebook", "training", "script"])
def test_the_official_client_accepts_every_folder(
    packed: Path, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(packed))  # whoever runs this may have an account; it plays no part
    from kaggle import KaggleApi

    api = KaggleApi()
    api.config_values["username"] = "someone"
    if folder == "dataset":
        monkeypatch.setattr(api, "dataset_status", reaches_the_network)
        send = api.dataset_create_new
    else:
        monkeypatch.setattr(api, "build_kaggle_client", reaches_the_network)
        send = api.kernels_push
    with pytest.raises(ReachedNetworkError):  # every check of the client lies before
        send(str(packed / folder))
    assert "does not resolve" not in capsys.readouterr().out


class ReachedNetworkError(Exception):
    """All of the client's checks are passed."""


def reaches_the_network(*args: object) -> None:
    raise ReachedNetworkError


def test_packing_twice_replaces_and_refuses_to_replace_what_is_not_its_own(
    tmp_path: Path, wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["kaggle", "--weights", str(ROOT / "weights"), "--out", str(tmp_path), "--wheels", str(wheels)]
    assert train_utils.main(command) == 0
    assert "YOUR-KAGGLE-NAME" in capsys.readouterr().err
    assert train_utils.main([*command, "--owner", "me"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "notebook", "script", "training"]
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == [
        "README.md", "SHA256SUMS", "dataset-metadata.json", "lumbar", "recipes", "train_utils.py", "weights", "wheels",
    ]  # fmt: skip
    page = Path("lumbar", "report", "html", "page")
    packed = {path.name for path in (tmp_path / "dataset" / page).iterdir()}
    assert packed == {path.name for path in (ROOT / page).iterdir()}, "the report's page travels with the package"
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "Research use only" in card
    assert "sagittal_t2" in card
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "dataset", check=False)
    assert checked.returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for spoilt, named in FOREIGN.items():
        place = tmp_path / spoilt
        kept = place.read_bytes() if place.exists() else None
        place.write_text("mine")
        assert train_utils.main(command) == 1
        assert f"holds {named}, which this command did not write there" in capsys.readouterr().err
        assert place.read_text() == "mine"
        if kept is None:
            place.unlink()
        else:
            place.write_bytes(kept)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


#: A file of somebody's in a packed folder, and how it is named.
FOREIGN = {
    "dataset/notes.txt": "notes.txt",
    "dataset/weights/mine.safetensors": "weights/mine.safetensors",
    "script/train_utils.py": "train_utils.py",
    "notebook/kernel-metadata.json": "SHA256SUMS, inference.ipynb, kernel-metadata.json",
}


def test_a_missing_or_broken_wheel_and_a_wrong_account_are_one_sentence(
    tmp_path: Path, wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    command = ["kaggle", "--weights", str(ROOT / "weights"), "--out", str(tmp_path / "out")]
    assert train_utils.main([*command, "--wheels", str(tmp_path / "empty"), "--owner", "me"]) == 1
    assert f"no wheel of {WHEELS[0]} for cp312" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        train_utils.main([*command, "--owner", "a/b"])
    assert "is not a Kaggle account" in capsys.readouterr().err
    for wrong in ("no archive", None):  # the name says that it is a wheel
        folder = tmp_path / "wrong"
        shutil.copytree(wheels, folder)
        path = next(folder.glob("*.whl"))
        path.write_bytes(b"no archive" if wrong else path.read_bytes()[:-99])
        assert train_utils.main([*command, "--wheels", str(folder), "--owner", "me"]) == 1
        assert f"{path.name}: is no wheel, or a damaged one; copy it again" in capsys.readouterr().err
        shutil.rmtree(folder)
    assert list((tmp_path / "out").glob("*")) == []


def test_the_wheels_are_those_that_the_requirements_pin() -> None:
    assert [line.split("==")[0] for line in pinned_wheels()] == list(WHEELS)
