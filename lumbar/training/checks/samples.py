"""Whether every member and fold has enough to train and to validate on, asked before anything is trained."""

import numpy as np

from lumbar.issues import InputError
from lumbar.recipe.settings import Training
from lumbar.training.checks.recipe import all_told
from lumbar.training.loop.batches import Plan
from lumbar.training.setup import Setup
from lumbar.training.stages import members_of


def check_samples(setup: Setup) -> None:
    """Raise InputError with all members and folds that have too little to train or to validate on.

    Detectors' samples are known once their stacks are made; of graders', whose regions wait for keypoints, what labels
    alone tell.
    """
    faults: dict[str, None] = {}
    members = members_of(setup.recipe)
    for name, fold in setup.recipe.to_train():
        member = members[name]
        train, valid = member.sample_studies(setup, fold)
        for found, what in ((train, "train"), (valid, "validate")):
            if not len(found):
                faults[f"{name} fold {fold}: no labelled sample to {what} on; add studies"] = None
        processes = setup.accelerator.num_processes
        if wrong := _batch_fault(train, member.training, processes, together=member.keep_studies):
            faults[f"{name}: {wrong}"] = None
    if faults:
        raise all_told(str(setup.data.root), list(faults))


def _batch_fault(studies: np.ndarray, training: Training, processes: int, *, together: bool) -> str | None:
    try:
        if len(studies):
            Plan(studies, training, seed=0, world=processes, together=together)
    except InputError as error:
        return str(error)
    return None
