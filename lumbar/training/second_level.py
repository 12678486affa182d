"""The tables that a second level learns from: what first levels say, out of fold, of every study's slices."""

from pathlib import Path

import torch

from lumbar.bundle.network import build_network
from lumbar.compute.processes import each
from lumbar.recipe.grader_member import GraderMember
from lumbar.training.data.make import region_folder, source_of, told_folder
from lumbar.training.data.packs import fingerprint
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.told_samples import write_told
from lumbar.training.loop import checkpoint
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.setup import Setup


def first_levels(setup: Setup) -> list[str]:
    """The members that some second level begins with."""
    members = setup.recipe.stage2.members.values()
    return list(dict.fromkeys(each.training.begins_with for each in members if each.training.second_level))


def make_told(setup: Setup) -> None:
    """Ask the first levels of every fold about its held-out studies, where that was not done by the same networks."""
    for name in first_levels(setup) if setup.main else ():
        for fold in setup.recipe.folds_of(name):
            _of_fold(setup, name, setup.recipe.stage2.members[name], fold)
    setup.accelerator.wait_for_everyone()


def _of_fold(setup: Setup, name: str, member: GraderMember, fold: int) -> None:
    spec, device = member.spec, torch.device(setup.accelerator.device)
    samples = RegionSamples(
        region_folder(setup, spec, "found"), setup.held_out(fold), setup.codes, spec, member.training
    )
    result, folder = setup.folder.result(name, fold), told_folder(setup, name)
    studies = {int(study): place for place, study in enumerate(samples.studies)}
    wanted = {
        study: fingerprint(result and result["fingerprint"], source_of(samples.folder, study)) for study in studies
    }
    stale = [study for study in studies if source_of(folder, study) != wanted[study]]
    if not stale:
        return
    network = build_network(spec)
    checkpoint.read_weights(network, setup.folder.member(name, fold) / "best.safetensors")
    network.to(device).eval()
    objective = SeverityObjective(spec, member.training)

    def one(study: int) -> None:
        path: Path = folder / f"{study}.safetensors"
        write_told(samples, studies[study], network, objective.inputs, device, path, wanted[study])

    each(one, stale, f"what {name} says of fold {fold}", 1, setup.deadline.check)
