"""Small worlds that several tests share: phantom studies and a bundle of tiny networks with random weights."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.phantom.dataset import write_phantoms
from lumbar.phantom.options import PhantomOptions
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec, TaskName
from lumbar.recipe.preprocessing import Preprocessing

#: Small matrices and short stacks: what a test needs of a phantom takes a second instead of four.
SMALL = PhantomOptions(matrices=(128,), sagittal_slices=(9, 9), stack_slices=(3, 3), axial_kind="angled")


def small_phantoms(out: Path, studies: int = 2, seed: int = 5, variations: Mapping[int, Any] | None = None) -> Path:
    """A data folder of small phantom studies; `variations` are fields of `PhantomOptions` by the study's number."""
    chosen = {index: replace(SMALL, **fields) for index, fields in (variations or {}).items()}
    _copied(
        f"{studies} {seed} {sorted((variations or {}).items())!r}",
        lambda made: write_phantoms(made, studies, seed, variations=chosen, **asdict(SMALL)),
        out,
    )
    return out


def detector_spec(series_type: str, in_chans: int, num_classes: int) -> DetectorSpec:
    """A detector that runs in milliseconds."""
    return DetectorSpec(
        series_type=series_type,
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 16, 16, 16]},
        network_args={"decoder_channels": 16},
        image_size=64,
        in_chans=in_chans,
        num_classes=num_classes,
        sigma_px=2.0,
    )


def grader_spec(task: TaskName, preprocessing: Preprocessing | None = None) -> GraderSpec:
    """A grader that runs in milliseconds."""
    return GraderSpec(
        task=task,
        backbone_args={"channels": [8, 8, 16, 16]},
        image_size=32,
        slices=3,
        rnn_hidden=8,
        rnn_layers=1,
        preprocessing=preprocessing or Preprocessing(),
    )


def tiny_weights(seed: int = 0) -> list[Weights]:
    """One detector a series type, the three split graders and the global one, with random weights."""
    specs: dict[str, DetectorSpec | GraderSpec] = {
        "canal": detector_spec("sagittal_t2", 5, 5),
        "foramen": detector_spec("sagittal_t1", 3, 5),
        "recess": detector_spec("axial_t2", 3, 2),
        **{task: grader_spec(task) for task in ("spinal", "foraminal", "subarticular", "global")},
    }
    torch.manual_seed(seed)
    return [Weights(name, spec, build_network(spec).state_dict()) for name, spec in specs.items()]


def tiny_bundle(folder: Path, seed: int = 0) -> Bundle:
    """A bundle of `tiny_weights` with a random prior."""

    def make(made: Path) -> None:
        prior = np.random.default_rng(seed).dirichlet((8.0, 2.0, 1.0), size=(5, 5))
        save_bundle(made, tiny_weights(seed), prior=prior, description="random weights, for tests")

    _copied(f"bundle {seed}", make, folder)
    return load_bundle(folder)


def _copied(key: str, make: Callable[[Path], object], out: Path) -> None:
    """What `make` writes into a folder, made once a process and copied to `out`, times and all."""
    if out.exists():
        make(out)
        return
    if key not in _MADE:
        _MADE[key] = Path(tempfile.mkdtemp(prefix="lumbar-tests-")) / "made"
        atexit.register(shutil.rmtree, _MADE[key].parent, ignore_errors=True)
        make(_MADE[key])
    shutil.copytree(_MADE[key], out)


_MADE: dict[str, Path] = {}
