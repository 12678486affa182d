"""Small worlds that several tests share: phantom studies and a bundle of tiny networks with random weights."""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.phantom.dataset import write_phantoms
from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.study import Rows, Split, plan, table_rows, write_study
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec, TaskName
from lumbar.recipe.preprocessing import Preprocessing

#: Small matrices and short stacks: what a test needs of a phantom takes a second instead of four.
SMALL = PhantomOptions(matrices=(128,), sagittal_slices=(9, 9), stack_slices=(3, 3), axial_kind="angled")


def small_phantoms(out: Path, studies: int = 2, seed: int = 5, variations: Mapping[int, Any] | None = None) -> Path:
    """A data folder of small phantom studies; `variations` are fields of `PhantomOptions` by the study's number."""
    chosen = {index: replace(SMALL, **fields) for index, fields in (variations or {}).items()}
    with mock.patch("lumbar.phantom.study.write_study", drawn_once):
        write_phantoms(out, studies, seed, variations=chosen, **asdict(SMALL))
    return out


def drawn_once(out: Path, seed: int, index: int, study_id: int, split: Split, options: PhantomOptions) -> Rows:
    """As `write_study`: half a second the first time in a run of the tests, and from then on a copy, times and all."""
    asked = repr((seed, index, study_id, split, options))
    drawn, images = _drawings() / hashlib.sha256(asked.encode()).hexdigest(), Path(f"{split}_images", str(study_id))
    if not drawn.is_dir():
        new = Path(tempfile.mkdtemp(dir=_drawings()))
        write_study(new, seed, index, study_id, split, options)
        with suppress(OSError):  # the other worker was first
            new.rename(drawn)
    shutil.copytree(drawn / images, out / images)
    return table_rows(plan(seed, index, study_id, options))


@cache
def _drawings() -> Path:
    """Where studies that were drawn lie: one folder for all workers of a run (see `conftest.py`), or one of our own."""
    shared = os.environ.get("LUMBAR_TEST_DRAWINGS")
    return Path(shared) if shared else _own_folder()


#: A resnet18 of a block a stage instead of two, as wide as its channels say.
LAYERS = [1, 1, 1, 1]


def detector_spec(series_type: str, in_chans: int, num_classes: int) -> DetectorSpec:
    """A detector that runs in milliseconds."""
    return DetectorSpec(
        series_type=series_type,
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 16, 16, 16], "layers": LAYERS},
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
        backbone_args={"channels": [8, 8, 16, 16], "layers": LAYERS},
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
    if folder.is_dir() and any(folder.iterdir()):
        return _save_tiny_bundle(folder, seed)
    shutil.copytree(_tiny_bundle_of_this_process(seed), folder, dirs_exist_ok=True)
    return load_bundle(folder)


def _save_tiny_bundle(folder: Path, seed: int) -> Bundle:
    prior = np.random.default_rng(seed).dirichlet((8.0, 2.0, 1.0), size=(5, 5))
    return save_bundle(folder, tiny_weights(seed), prior=prior, description="random weights, for tests")


@cache
def _tiny_bundle_of_this_process(seed: int) -> Path:
    return _save_tiny_bundle(_own_folder(), seed).folder


def _own_folder() -> Path:
    """A new folder that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="lumbar-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
