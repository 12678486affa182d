"""Faults of a recipe that only its networks and the data can tell, all of them, before anything is trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lumbar.bundle.network import RECIPE, blueprint, check_inputs, check_size
from lumbar.issues import FaultyInputError, InputError, named
from lumbar.metric import read_labels
from lumbar.recipe.recipe import FaultyRecipeError, Recipe, load_recipe
from lumbar.recipe.settings import Training
from lumbar.recipe.stage import Member
from lumbar.study.tables import read_sources
from lumbar.terminal.voice import tell
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.loop.beginning import fitting, freeze, is_below
from lumbar.training.loop.mix import backbones
from lumbar.training.pretrained.begun import begun_faults
from lumbar.training.pretrained.sources import Sources
from lumbar.training.stages import as_trained


def recipe_faults(recipe: Recipe, root: Path, sources: Sources | None = None) -> list[str]:
    """A sentence for every network that cannot be built or filled, and for every source that the data lacks.

    `sources` of pretrained weights; without them nobody asks whether there are any.
    """
    faults: dict[str, str] = {}  # by what is wrong: members share networks and sources
    try:
        known = set(_sources(root).values())
    except InputError as error:
        faults[str(error)], known = str(error), set()
    if recipe.stage2.keypoints != "labels" and len(recipe.folds.train) == 1:
        faults["folds"] = (
            "folds.train names one fold only: graders learn from the studies of the others, around keypoints of these "
            "studies' own folds; name two or set stage2.keypoints to labels"
        )
    members = recipe.members()
    faults |= network_faults(members)
    if sources is not None:
        faults |= {fault: fault for fault in begun_faults(members, sources)}
    for name, member in members.items():
        own = _draws_fault(member.training, known), _soft_fault(member.training, root), _ends_fault(member, root)
        for wrong in own:
            if wrong:
                faults.setdefault(wrong, f"{name}: {wrong}")
    return list(faults.values())


def network_faults(members: Mapping[str, Member[Any]]) -> dict[str, str]:
    """What is wrong with the networks of members, by what it is: a sentence each, which names the first of them."""
    faults: dict[str, str] = {}
    first: dict[str, str] = {}  # of members that are alike
    for name, member in members.items():
        first.setdefault(member.model_dump_json(), name)
    for name in first.values():
        member = members[name]
        for wrong in _network_faults(member, members.get(member.training.begins_with)):
            faults.setdefault(wrong, f"{name}: {wrong}")
    return faults


def load_checked(path: Path, overrides: Sequence[str]) -> Recipe:
    """`load_recipe`; where the recipe is wrong, its error tells what is wrong with the networks of members, too."""
    try:
        return load_recipe(path, overrides)
    except FaultyRecipeError as error:
        found = network_faults(error.rest).values()
        raise FaultyInputError(error.source, [*error.faults, *found]) from error


def weights_bytes(member: Member[Any]) -> int:
    """What a member's weights take on the disk, in float32."""
    network = blueprint(member.spec, RECIPE)
    return 4 * sum(value.numel() for value in network.state_dict().values())


def all_told(place: str, faults: Sequence[str]) -> InputError:
    """Tell several faults in a line each; what is to be raised, which holds the first."""
    for number, fault in enumerate(faults if len(faults) > 1 else (), 1):
        tell(f"({number}) {fault}")
    more = ", as those above" if len(faults) > 1 else ""
    return InputError(f"{place}: {len(faults)} fault(s). (1) {faults[0]}{more}")


def _network_faults(member: Member[Any], begun: Member[Any] | None) -> Iterator[str]:
    """What is wrong with a member's network and with what its training asks of it.

    A network that cannot be built, or does not take its own inputs, tells nothing else.
    """
    training = member.training
    try:
        network = blueprint(member.spec, RECIPE)
        check_size(network, RECIPE)
        check_inputs(network, member.spec, RECIPE)
        other = {} if begun is None else blueprint(begun.spec, RECIPE).state_dict()
    except InputError as error:
        yield str(error)
        return
    yield from _raised(lambda: freeze(network, training.frozen))
    lost = [each for each in training.fresh if not any(is_below(key, [each]) for key in network.state_dict())]
    if lost:
        yield f"fresh names {named(lost)}, and the network has no such part; correct it"
    elif begun is not None:
        fits = fitting(network.state_dict(), other, training.fresh)
        if not fits:
            yield f"no weight of {training.begins_with!r} fits it; begin with a member of the same parts"
        elif not training.epochs and len(fits) < len(network.state_dict()):
            yield (
                f"epochs = 0 takes all weights from {training.begins_with!r}, and not all of its parts are there; name "
                "a member of the same network and conditions"
            )
    if training.augment.mix_on == "features" and not backbones(network):
        yield "augment.mix_on = 'features' needs a network with a part called backbone; mix images instead"
    yield from as_trained("", member).loss_faults(network)


def _raised(check: Callable[[], object]) -> Iterator[str]:
    """What a check raises as InputError, as a sentence."""
    try:
        check()
    except InputError as error:
        yield str(error)


def _soft_fault(training: Training, root: Path) -> str | None:
    """What is wrong with a table of soft labels; of the labels' own table somebody else tells."""
    if not training.soft_labels:
        return None
    try:
        labelled = read_labels(root / "train.csv").index
    except (InputError, ValueError):
        return None
    try:
        SoftLabels(training.soft_labels, labelled, training.soft_mix)
    except InputError as error:
        return str(error)
    return None


def _ends_fault(member: Member[Any], root: Path) -> str | None:
    """Who is to learn both ends of discs needs a table of those in front."""
    if not getattr(member.spec, "ends", False) or (root / "train_disc_fronts.csv").is_file():
        return None
    return (
        "ends = true learns where discs end in front, and the data has no train_disc_fronts.csv; add that table, or "
        "set ends to false and let no region go by discs"
    )


def _draws_fault(training: Training, sources: set[str]) -> str | None:
    strange = sorted(set(training.draws) - sources)
    if not strange:
        return None
    there = f"names {', '.join(sorted(sources))}" if sources else "names none"
    return f"the recipe draws from {strange[0]!r}, but train_sources.csv {there}; add studies or correct draws"


def _sources(root: Path) -> Mapping[int, str]:
    path = root / "train_sources.csv"
    return read_sources(path) if path.is_file() else {}
