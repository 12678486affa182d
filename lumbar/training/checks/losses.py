"""What losses ask of a network that it does not answer, tried before anything is trained."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from lumbar.bundle.network import build_network, example, noise
from lumbar.compute.forward import asked
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError, named
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import OF_GRADERS
from lumbar.recipe.settings import Training
from lumbar.training.loop.detector_losses import OF_PROBABILITIES
from lumbar.training.loop.detector_objective import DetectorObjective, check_maps


def of_detector(spec: DetectorSpec, training: Training) -> Iterator[str]:
    """A sentence where a detector's losses ask for maps from 0 to 1, or severities, that its network does not give."""
    objective = DetectorObjective(spec, training)
    if "severity" in objective.losses:
        yield from _severities(spec)
    if spec.answer == "heatmaps" and OF_PROBABILITIES & set(objective.losses):
        try:
            stack = noise(spec)
            assert isinstance(stack, torch.Tensor)  # what detectors see
            check_maps(build_network(spec), stack, objective)
        except InputError as error:
            yield str(error)


def _severities(spec: DetectorSpec) -> Iterator[str]:
    with torch.no_grad():
        said = build_network(spec).to("meta").train()(example(spec, "meta", 2))
    own = said.get("severity") if isinstance(said, Mapping) else None
    if own is None or own.shape[1] != spec.num_classes:
        gives = "none" if own is None else own.shape[1]
        yield (
            f"loss 'severity' asks for those of its {spec.num_classes} maps, and {spec.network} gives {gives}; give a "
            f"unet network_args severities = {spec.num_classes}, or leave the word out"
        )


def of_grader(spec: GraderSpec, training: Training, network: nn.Module) -> Iterator[str]:
    """What a grader's losses ask for that `network` does not answer; what cannot be known without numbers passes."""
    wanted = training.loss
    if "any_severe" in wanted and "spinal_canal_stenosis" not in task_of(spec).samples[0].conditions:
        yield "loss names 'any_severe', which asks about the canal, and it does not answer that; leave the word out"
    known = {word: OF_GRADERS[word] for word in wanted if word in OF_GRADERS}  # strange words are told elsewhere
    outputs = [loss.output for loss in known.values() if loss.beside]
    try:
        with torch.inference_mode():
            said = asked(network.train(), example(spec, "meta", 2)) if outputs else {}
    except (RuntimeError, ValueError):
        return
    said = said if isinstance(said, Mapping) else {"severity": said}
    if missing := [word for word in outputs if word not in said]:
        gives = ", ".join(said)
        yield f"loss names {named(missing)}, which {spec.network} does not give; it gives {gives} in training"
    slices = sum(spec.region_of(view).slices for view in task_of(spec).samples[0].views)
    for word, loss in known.items():
        output = said.get(loss.output) if loss.by_slice else None
        if output is not None and output.shape[2] != slices:
            yield (
                f"loss {word!r} asks each of the {slices} slices of all views, one after the other, and {spec.network} "
                f"answers {output.shape[2]}; leave the word out"
            )
