"""What a detector is taught by another: its probabilities of every slice, of studies that its fold had not seen."""

import functools
from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch import nn

from lumbar.bundle.network import build_network
from lumbar.compute.processes import each
from lumbar.training.data.make import lesson_folder, source_of, stack_folder
from lumbar.training.data.packs import fingerprint, write_arrays
from lumbar.training.loop import checkpoint
from lumbar.training.setup import Setup

#: Stacks that a teacher sees at once.
_AT_ONCE = 4


def teach(setup: Setup, name: str, teacher: str) -> None:
    """Write what detector `name` is taught by `teacher`: a file for each study of the folds that the teacher trains.

    Files that were made by the same networks from the same stacks stay; those of other studies go.
    """
    if setup.main:
        folder, taught = lesson_folder(setup, name), set()
        folder.mkdir(parents=True, exist_ok=True)
        for fold in setup.recipe.folds_of(teacher):
            _of_fold(setup, teacher, fold, folder)
            taught |= {f"{study}.safetensors" for study in setup.held_out(fold)}
        for path in folder.glob("*.safetensors"):
            if path.name not in taught:
                path.unlink()
    setup.accelerator.wait_for_everyone()


def _of_fold(setup: Setup, teacher: str, fold: int, folder: Path) -> None:
    result, stacks = setup.folder.result(teacher, fold), stack_folder(setup, teacher)
    wanted = {
        study: fingerprint(result and result["fingerprint"], source_of(stacks, study)) for study in setup.held_out(fold)
    }
    missing = [study for study, source in wanted.items() if source_of(folder, study) != source]
    if not missing:
        return
    network = build_network(setup.recipe.stage1.members[teacher].spec)
    checkpoint.read_weights(network, setup.folder.member(teacher, fold) / "best.safetensors")
    network = network.to(setup.accelerator.device).eval()
    one = functools.partial(_of_study, network, stacks, folder, wanted, setup.accelerator.device)
    each(one, missing, f"lessons of {teacher}, fold {fold}", 1, setup.deadline.check)


def _of_study(
    network: nn.Module, stacks: Path, folder: Path, wanted: dict[int, str], device: torch.device, study: int
) -> None:
    images = torch.from_numpy(load_file(stacks / f"{study}.safetensors")["images"])
    with torch.inference_mode():
        said = [network(part.to(device).float()).sigmoid().cpu() for part in images.split(_AT_ONCE)]
    lessons = torch.cat(said).numpy() if said else images.new_zeros(0).numpy()
    write_arrays(folder / f"{study}.safetensors", {"lessons": lessons}, source=wanted[study])
