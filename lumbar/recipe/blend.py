"""How the members' answers become one table, as a recipe and a bundle's manifest say it. No torch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from lumbar.ensemble.average import BLEND_METHODS, BlendMethod
from lumbar.ensemble.method_names import MOST_PACE, PACE, PACED, WEIGHTED, Group, MethodName, On
from lumbar.issues import few, named
from lumbar.labels import CONDITION_GROUPS, Condition, mirrored
from lumbar.recipe.strict import Strict


def _no_trace(weight: float) -> float:
    if 0 < weight < LEAST_WEIGHT:
        raise ValueError(f"a weight of {weight:g} is no weight; set 0, or {LEAST_WEIGHT:g} or more")
    return weight


#: Weights below this are lost to rounding beside others.
LEAST_WEIGHT: Final = 1e-6
Weight = Annotated[float, Field(ge=0, le=1000), AfterValidator(_no_trace)]
Weights = dict[Group, dict[str, Weight]]
Factor = Annotated[float, Field(ge=1e-3, le=1000)]
#: For normal or mild, moderate, severe.
Factors = dict[Group, tuple[Factor, Factor, Factor]]


def _idle(weights: Weights) -> Iterator[str]:
    for group, own in weights.items():
        if not any(own.values()):
            yield f"weights.{group} gives no member a weight above zero; give one, or leave the group out"


def _answers(conditions: Collection[Condition] | None, group: Group) -> bool:
    """Whether a member that answers these conditions speaks for a group; None: it is an inner blend, or unknown."""
    return conditions is None or bool(set(CONDITION_GROUPS[group]) & {*conditions, *map(mirrored, conditions)})


class Around(Strict):
    """What is done before and after a blend, whichever it is; see `lumbar.ensemble.by_hand`."""

    LATER = frozenset({"temperatures", "multipliers", "severe_scaled"})

    #: The members' logits are divided by this, for each group of conditions.
    temperatures: dict[Group, Annotated[float, Field(ge=0.01, le=100)]] = {}
    #: The blend's severities are multiplied by these, then each row is divided by its sum.
    multipliers: Factors = {}
    #: The highest severe probability of a study's canal levels is multiplied by this; 1: it stays.
    severe_scaled: Factor = 1.0


class Mixture(Around):
    """A blend of members and of inner blends; see `Blend` and `Inner`, which differ in whom they hear."""

    method: Literal["auto"] | MethodName
    #: What the weights average: probabilities, logits, or log odds (for networks trained with binary cross entropy).
    on: On = "probabilities"
    #: For each group of conditions, of members by name; who is not named is not heard. A group that is not named: all
    #: members equally, or all inner blends where there are some.
    weights: Weights = {}
    #: Blends of members that are weighed as members are.
    inner: dict[str, "Inner"] = {}
    #: Members or inner blends by name, and for each the one whose row stands in its place, with its weight, where it is
    #: silent. Without: who is silent gives its share away.
    stands_in: dict[str, str] = {}
    #: XGBoost on raw probabilities: at so many times the published rate, in so many times fewer rounds.
    pace: int = Field(PACE, ge=1, le=MOST_PACE)

    @property
    def average(self) -> BlendMethod:
        """The average to fall back on where nothing was fitted."""
        return next((name for name in BLEND_METHODS if name == self.method), "mean")

    @property
    def whole(self) -> dict[str, "Inner"]:
        """Inner blends that have members of their own."""
        return {name: each for name, each in self.inner.items() if each.members}

    @property
    def parts(self) -> dict[str, "Inner"]:
        """Inner blends of this one's tables."""
        return {name: each for name, each in self.inner.items() if not each.members}

    def tables(self, members: Sequence[str]) -> list[str]:
        """Those of its members that are tables of its own: all, or beside whole inner blends those that it names."""
        given = [*self.weights.values(), *(own for each in self.parts.values() for own in each.weights.values())]
        said = {name for own in given for name in own} | {*self.stands_in, *self.stands_in.values()}
        return [name for name in members if name in said or not self.whole]

    def faults(self, members: Mapping[str, Collection[Condition]], place: str = "blend") -> Iterator[str]:
        """A sentence for each weight of what is no member and no inner blend, and for each group whose weights are all
        of members that do not answer it. `members`: the conditions that each answers; `place`: its own."""
        for name in self.inner:
            if name in members:
                yield f"{place}.inner.{name} has the name of a member; choose another"
        for strange in sorted({*self.stands_in, *self.stands_in.values()} - {*members, *self.inner}):
            yield (
                f"{place}.stands_in names {named([strange])}, which is no member of stage2 and no inner blend; members "
                f"are {few(sorted(members), 8)}"
            )
        places = [(place, self.weights, {*members, *self.inner})]
        places += [(f"{place}.inner.{name}", each.weights, {*members}) for name, each in self.parts.items()]
        for where, weights, known in places:
            for group, own in weights.items():
                if strangers := [name for name in own if name not in known]:
                    yield (
                        f"{where}.weights.{group} names {named(strangers)}, which is no member of stage2"
                        f"{' and no inner blend' if where == place else ''}; members are {few(sorted(members), 8)}"
                    )
                given = [name for name, weight in own.items() if weight]
                if given and not any(_answers(members.get(name), group) for name in given):
                    yield (
                        f"{where}.weights.{group} names only {named(given)}, which does not answer {group} conditions; "
                        "name a member that does, or leave the group out"
                    )
        for name, each in self.whole.items():
            if strangers := [one for one in each.members if one not in members]:
                yield (
                    f"{place}.inner.{name}.members names {named(strangers)}, which is no member of stage2; members are "
                    f"{few(sorted(members), 8)}"
                )
            own_members = {one: members[one] for one in each.members if one in members}
            yield from each.faults(own_members, f"{place}.inner.{name}")

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        yield from _idle(self.weights)
        given = [name for name in ("on", "weights", "inner", "stands_in") if self._differs(name)]
        if given and self.method != WEIGHTED:
            yield f'{", ".join(given)} needs method = "{WEIGHTED}", not "{self.method}"'
        if self.method == WEIGHTED and not (self.weights or self.inner):
            yield f'method = "{WEIGHTED}" needs weights, as weights.spinal = {{ member = 0.7 }}'
        if self._differs("pace") and self.method not in PACED:
            yield f'pace needs method = "{PACED[0]}" or "{PACED[1]}", not "{self.method}"'
        for name, other in self.stands_in.items():
            if name == other:
                yield f"stands_in.{name} is {name} itself; name another, or leave it out"
        if unsaid := [name for name in self.inner if not self._used(name)]:
            yield f"inner.{', '.join(unsaid)} has no weight anywhere; give it one, or leave it out"

    def _used(self, name: str) -> bool:
        groups = CONDITION_GROUPS if self.inner[name].members else self.inner[name].weights
        return any(self.weights[group].get(name) if group in self.weights else True for group in groups)


class Inner(Mixture):
    """Some members as one table, which the blend weighs like a member.

    Without `members` it weighs tables of the blend that it stands in. With them it is a whole blend by itself, fitted
    ones and inner ones of its own included, as `[blend]` is; it averages its members' folds as it says itself.
    """

    #: What a blend without members of its own says is always written.
    LATER = Around.LATER - {"multipliers"} | {"method", "members", "inner", "stands_in", "pace"}

    method: Literal["auto"] | MethodName = WEIGHTED
    members: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        yield from super().rules()
        told = {name for name in self.LATER if self._differs(name)}
        if not self.members and told:
            yield f'{", ".join(sorted(told))} makes it a blend by itself; name its members, as members = ["a", "b"]'
        if len(set(self.members)) < len(self.members):
            yield "members names one twice; name each once"


class Blend(Mixture):
    """How members become one table.

    auto: the method with the best nested score on the run's own out-of-fold tables, where it is surely better than the
    plain mean; else, and below 200 labelled studies, the plain mean. weighted: by `weights`. Any other name is a
    method of `lumbar.ensemble`.
    """

    LATER = Around.LATER | {"on", "weights", "inner", "stands_in", "pace"}

    method: Literal["auto"] | MethodName = "auto"
