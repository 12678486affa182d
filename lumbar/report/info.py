"""What this version can do, word by word, from the registries that decide it; no torch is loaded for the answer."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from lumbar import __version__
from lumbar.arguments import ARGUMENTS, DEVICES, ENGINES
from lumbar.ensemble.method_names import KNOWN_METHODS
from lumbar.grading.networks import registry as graders
from lumbar.grading.tasks import TASKS
from lumbar.issues import CODES
from lumbar.keypoints.answers.registry import ANSWERS
from lumbar.keypoints.networks import registry as detectors
from lumbar.labels import CONDITIONS, LEVELS, SERIES_DESCRIPTIONS, SEVERITIES
from lumbar.recipe.answers import DECODES
from lumbar.recipe.augment import Augment
from lumbar.recipe.blend import Blend
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec, Turn
from lumbar.recipe.losses import OF_ANSWERS, OF_GRADERS
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.region import Box
from lumbar.recipe.settings import Folds, Training
from lumbar.recipe.strict import Strict
from lumbar.recipe.views import VIEWS


def info() -> dict[str, Any]:
    """Commands, words of a recipe, networks, blends, engines and the codes of Issues with their meaning.

    A registry tells its own words: what is added there is told here.
    """
    return {
        "version": __version__,
        "commands": list(ARGUMENTS),
        "answers_for": {"conditions": CONDITIONS, "levels": LEVELS, "severities": SEVERITIES},
        "series": SERIES_DESCRIPTIONS,
        "detector_networks": sorted(detectors.NETWORKS),
        "detector_answers": {word: {"losses": OF_ANSWERS[word], "decodes": DECODES[word]} for word in sorted(ANSWERS)},
        "grader_networks": sorted(graders.NETWORKS),
        "grader_losses": tuple(OF_GRADERS),
        "tasks": {name: {"views": task.views, "conditions": task.conditions} for name, task in TASKS.items()},
        "views": VIEWS,
        "region_boxes": get_args(Box),
        "grader_turns": get_args(Turn),
        "preprocessing": _choices(Preprocessing),
        "training": list(Training.model_fields),
        "optimizers": get_args(Training.model_fields["optimizer"].annotation),
        "detector_words": _choices(DetectorSpec),
        "grader_words": _choices(GraderSpec),
        "training_words": _choices(Training),
        "blend_words": _choices(Blend),
        "schedules": get_args(Training.model_fields["schedule"].annotation),
        "augmentations": list(Augment.model_fields),
        "folds": get_args(Folds.model_fields["method"].annotation),
        "blends": KNOWN_METHODS,
        "engines": ENGINES,
        "devices": DEVICES,
        "issues": CODES,
    }


def as_text(found: dict[str, Any]) -> str:
    """The same for people: a line a word, and one an Issue's code."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines.append(f"{name.replace('_', ' ')}:")
            lines += [f"  {key}: {_plain(one)}" for key, one in value.items()]
        else:
            lines.append(f"{name.replace('_', ' ')}: {_plain(value)}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _choices(model: type[Strict]) -> dict[str, tuple[str, ...]]:
    """Each key of checked data that takes words, with these; the default first, where it is one of them."""
    found = {}
    for name, field in model.model_fields.items():
        words = tuple(dict.fromkeys(_literals(field.annotation)))
        if len(words) > 1:
            found[name] = tuple(sorted(words, key=lambda word: word != field.default))
    return found


def _literals(annotation: Any) -> Iterator[str]:
    """The words that a type allows, in lists and tables too."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _literals(part)
