"""How the members' answers become one table, as a recipe and a bundle's manifest say it. No torch."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from lumbar.ensemble.average import BLEND_METHODS, BlendMethod
from lumbar.ensemble.names import MOST_PACE, PACE, PACED, WEIGHTED, Group, MethodName, On
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


class Inner(Strict):
    """Some members as one table, which the blend weighs like a member."""

    on: On = "probabilities"
    weights: Weights = Field(min_length=1)
    multipliers: Factors = {}

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        yield from _idle(self.weights)


class Blend(Around):
    """How members become one table.

    auto: the method with the best nested score on the run's own out-of-fold tables, where it is surely better than the
    plain mean; else, and below 200 labelled studies, the plain mean. weighted: by `weights`. Any other name is a
    method of `lumbar.ensemble`.
    """

    LATER = Around.LATER | {"on", "weights", "inner", "stands_in", "pace"}

    method: Literal["auto"] | MethodName = "auto"
    #: What the weights average: probabilities, logits, or log odds (for networks trained with binary cross entropy).
    on: On = "probabilities"
    #: For each group of conditions, of members by name; who is not named is not heard. A group that is not named: all
    #: members equally, or all inner blends where there are some.
    weights: Weights = {}
    #: Blends of members that are weighed as members are.
    inner: dict[str, Inner] = {}
    #: Members or inner blends by name, and for each the one whose row stands in its place, with its weight, where it is
    #: silent. Without: who is silent gives its share away.
    stands_in: dict[str, str] = {}
    #: XGBoost on raw probabilities: at so many times the published rate, in so many times fewer rounds.
    pace: int = Field(PACE, ge=1, le=MOST_PACE)

    @property
    def average(self) -> BlendMethod:
        """The average to fall back on where nothing was fitted."""
        return next((name for name in BLEND_METHODS if name == self.method), "mean")

    def faults(self, members: Mapping[str, Collection[Condition]]) -> Iterator[str]:
        """A sentence for each weight of what is no member and no inner blend, and for each group whose weights are all
        of members that do not answer it. `members`: the conditions that each answers."""
        for name in self.inner:
            if name in members:
                yield f"blend.inner.{name} has the name of a member; choose another"
        for strange in sorted({*self.stands_in, *self.stands_in.values()} - {*members, *self.inner}):
            yield (
                f"blend.stands_in names {named([strange])}, which is no member of stage2 and no inner blend; members "
                f"are {few(sorted(members), 8)}"
            )
        places = [("blend", self.weights, {*members, *self.inner})]
        places += [(f"blend.inner.{name}", each.weights, {*members}) for name, each in self.inner.items()]
        for place, weights, known in places:
            for group, own in weights.items():
                if strangers := [name for name in own if name not in known]:
                    yield (
                        f"{place}.weights.{group} names {named(strangers)}, which is no member of stage2"
                        f"{' and no inner blend' if place == 'blend' else ''}; members are {few(sorted(members), 8)}"
                    )
                given = [name for name, weight in own.items() if weight]
                if given and not any(_answers(members.get(name), group) for name in given):
                    yield (
                        f"{place}.weights.{group} names only {named(given)}, which does not answer {group} conditions; "
                        "name a member that does, or leave the group out"
                    )

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
        groups = self.inner[name].weights
        return any(self.weights[group].get(name) if group in self.weights else True for group in groups)
