"""What to train: a TOML recipe read into frozen, checked data. Nothing here imports torch.

A recipe's stage holds settings that all its members share, and a table of members with what differs:

    [stage2]                      # shared by the stage's members
    epochs = 5
    [stage2.members.resnet18]     # one entry; `tasks` makes one member a task, named <task>_resnet18
    tasks = ["spinal", "global"]
    backbone = "resnet18"

Every key is one of `Training` or of the member's spec (`DetectorSpec` in stage 1, `GraderSpec` in stage 2). A command
line override `stage2.epochs=1` holds for every member of the stage, `stage2.members.resnet18.epochs=1` for that entry.
A recipe may name others in place of stages of its own, see `systems`.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from lumbar.arguments import LARGEST_SEED
from lumbar.files.read import parse_toml, read_text
from lumbar.issues import FaultyInputError, InputError, cut, few, named, printable
from lumbar.recipe import combinations, needs, sets, systems
from lumbar.recipe.blend import Blend
from lumbar.recipe.card import Card
from lumbar.recipe.detector_member import DetectorMember
from lumbar.recipe.expanded import SPECS, Table, Told, expand, without_empty
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.member import MEMBER_NAME
from lumbar.recipe.overrides import override
from lumbar.recipe.settings import Folds, Loop
from lumbar.recipe.stage import Member, Stage
from lumbar.recipe.strict import Strict
from lumbar.recipe.thorough import examine, guessed
from lumbar.recipe.wording import sentences

#: What a member consists of here, and not in the file.
_PARTS: Final = ("spec", "training")


class Recipe(Strict):
    """A whole system: folds, stage 1, stage 2, blend."""

    LATER = frozenset({"pretrained", "published", "corrected_labels"})

    name: str
    description: str = ""
    seed: int = Field(42, ge=0, le=LARGEST_SEED)
    #: A table with a column `row_id`, such as an earlier run's suspect_labels.csv: labels that graders do not train on.
    #: They count in every score all the same.
    leave_out: str = ""
    #: A table with columns `row_id, label`, as `train_utils.py relabel` exports it: labels that graders train on in
    #: place of the data folder's. Scores go by the folder's all the same.
    corrected_labels: str = ""
    #: False: no member begins with pretrained weights, whatever it says.
    pretrained: bool = True
    #: What the original published, by what it was measured on: official scores, the lower the better.
    published: dict[Annotated[str, Field(max_length=80)], Annotated[float, Field(gt=0, lt=10)]] = {}
    folds: Folds = Folds()
    loop: Loop = Loop()
    blend: Blend = Blend()
    #: What the bundle's card says of data, licences, commands and limits.
    card: Card = Card()
    stage1: Stage[DetectorMember]
    stage2: Stage[GraderMember]

    def members(self) -> dict[str, DetectorMember | GraderMember]:
        """All members by name, stage 1 first."""
        return {**self.stage1.members, **self.stage2.members}

    def folds_of(self, name: str) -> tuple[int, ...]:
        """The folds that a member trains, in the recipe's order."""
        own = self.members()[name].training.folds
        return tuple(fold for fold in self.folds.train if not own or fold in own)

    def to_train(self) -> list[tuple[str, int]]:
        """Every member and fold, fold by fold."""
        return [(name, fold) for fold in self.folds.train for name in self.members() if fold in self.folds_of(name)]

    def rules(self) -> Iterator[str]:
        """See `Strict`: names of members, and what the blend says of them."""
        for strange in self.members():
            if not MEMBER_NAME.fullmatch(strange):
                yield f"member name {cut(strange)!r} may hold letters, digits, '.', '_' and '-' only"
        if both := sorted(self.stage1.members.keys() & self.stage2.members.keys()):
            yield f"member {named(both)} stands in both stages; names must differ"
        yield from self.blend.faults({name: member.answered for name, member in self.stage2.bundled().items()})


class FaultyRecipeError(FaultyInputError):
    """A recipe of which several things are wrong; `rest`: what its members are without that, those whose spec is not
    as it was written left out. Whoever knows networks may ask more of them."""

    def __init__(self, source: str, faults: Sequence[str], rest: Mapping[str, Member[Any]]) -> None:
        super().__init__(source, faults)
        self.rest = rest


def load_recipe(path: Path, overrides: Sequence[str] = (), within: Sequence[Path] = ()) -> Recipe:
    """Read a TOML recipe, apply `key=value` overrides and check everything.

    `within`: recipes that name it as one of their systems. Raises InputError with one sentence: file, key, what is
    wrong, the nearest known name.
    """
    raw = read_tables(path, within)
    try:
        return _resolved(raw, overrides, str(path))
    except InputError:
        blamed = _blamed(raw, overrides)
        if not blamed:
            raise
        return _resolved(raw, overrides, f"--set {few([cut(each) for each in blamed], 2)}")


def read_tables(path: Path, within: Sequence[Path] = ()) -> Table:
    """The tables of a recipe's file, those of its systems in their place; see `load_recipe`."""
    remedy = "give the path of a TOML file"
    systems.refuse_cycle(path, within)
    raw = parse_toml(read_text(path, remedy), str(path), remedy)
    return systems.together(raw, path, lambda other: load_recipe(other, within=(*within, path)))


def _resolved(tables: Table, overrides: Sequence[str], source: str) -> Recipe:
    """The recipe of a file's tables with overrides; InputError, which names the source, where it cannot be."""
    raw, told, refused = copy.deepcopy(tables), Told(), []
    for each in overrides:
        try:
            override(raw, each, Recipe)
        except InputError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise FaultyInputError("--set", [str(error).removeprefix("--set ") for error in refused])
    raw = without_empty(raw, told)
    for stage in SPECS:
        raw[stage] = expand(stage, raw.get(stage), told)
        if raw.get("pretrained") is False:
            for member in raw[stage]["members"].values():
                member["training"]["pretrained"] = False
    raw.setdefault("name", printable(Path(source).stem))
    return check_recipe(raw, source, told)


def _blamed(tables: Table, overrides: Sequence[str]) -> list[str]:
    """The overrides that make a sound recipe a wrong one: the one without which it is sound, else those wrong alone."""

    def sound(chosen: Sequence[str]) -> bool:
        try:
            _resolved(tables, chosen, "")
        except InputError:
            return False
        return True

    if not overrides or not sound(()):
        return []
    others = [[*overrides[:place], *overrides[place + 1 :]] for place in range(len(overrides))]
    needed = [one for one, rest in zip(overrides, others, strict=True) if sound(rest)]
    return needed or [one for one in overrides if not sound([one])] or list(overrides)


def check_recipe(values: Table, source: str, told: Told | None = None) -> Recipe:
    """A recipe from its expanded values (also the stored form of a run). Raises FaultyInputError with all its faults.

    `told`: what its file was found to have wrong before.
    """
    told = told or Told()
    found = examine(Recipe, values)
    blamed = [*told.blamed, *found.blamed]
    wrong = [*told.faults, *sentences(found.errors, _PARTS)]
    rest = found.data or examine(Recipe, _without_lost(values, found.errors)).data
    if rest is not None:
        whole = rest is found.data and bool(rest.stage1.members and rest.stage2.members)
        for fault in _together(rest) if whole else combinations.alone(rest.members()):
            name = fault.partition(": ")[0]
            if not any(guessed(fault, blamed, (stage, "members", name)) for stage in SPECS):
                wrong.append(fault)
    if wrong or found.data is None:
        places = [place for place in blamed if place[4:5] != ("preprocessing",)]  # no matter to a network
        places += [one["loc"] for one in found.errors if len(one["loc"]) == 4]
        doubtful = {place[2] for place in places if place[3:4] == ("spec",)}
        members = {} if rest is None else rest.members()
        sound = {name: member for name, member in members.items() if name not in doubtful}
        raise FaultyRecipeError(source, list(dict.fromkeys(wrong)), sound)
    return found.data


def _together(recipe: Recipe) -> list[str]:
    """What does not go together in a recipe."""
    detectors = {name: member.spec for name, member in recipe.stage1.bundled().items()}
    graders = {name: member.spec for name, member in recipe.stage2.members.items()}
    wrong = sets.faults(recipe.stage1.sets, detectors, graders)
    return [
        *combinations.faults(recipe.stage1, recipe.stage2, recipe.folds.train),
        *wrong,
        *sets.of_graders(recipe.stage1.sets, graders),
        *needs.faults({} if wrong else recipe.stage1.sets, detectors, graders),
    ]


def _without_lost(values: Any, errors: Sequence[Any]) -> Any:
    """The values without members that lack what nothing can stand in for."""
    places = [one["loc"] for one in errors if one["type"] == "missing"]
    lost = {(place[0], place[2]) for place in places if len(place) > 2 and place[1] == "members"}
    kept = copy.deepcopy(values)
    for stage, name in lost:
        kept[stage]["members"].pop(name, None)
    return kept
