"""A time budget for a run: it measures itself on the first studies and drops whole members before it would run late."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from lumbar.bundle.manifest import Blend, Manifest
from lumbar.ensemble.average import BLEND_METHODS
from lumbar.ensemble.method_names import WEIGHTED
from lumbar.grading.tasks import heard
from lumbar.labels import CONDITIONS

#: Share of the budget kept for writing the results and for what a measurement on few studies does not show.
RESERVE: Final = 0.03


class Budget:
    """Seconds from `started` on, a reading of `clock` (else `time.monotonic`), and what they were spent on so far."""

    def __init__(self, seconds: float, started: float, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or time.monotonic
        self.deadline = started + seconds * (1 - RESERVE)
        self._since = started
        self._studies = 0
        self._spent: dict[str, float] = {}
        self._a_study = 0.0  # seconds that one more will take
        self._before: dict[str, float] | None = None

    def finished(self, studies: int, spent: Mapping[str, float]) -> None:
        """So many studies were finished; `spent`: seconds of each grader up to now.

        The first ones warm everything up and are not counted.
        """
        if self._before is None:
            self._before, self._since = dict(spent), self.clock()
            return
        self._studies += studies
        self._spent = {name: seconds - self._before.get(name, 0.0) for name, seconds in spent.items()}

    def restart(self) -> None:
        """Forget what was measured: from now on something else computes."""
        self._before, self._studies, self._spent, self._a_study = None, 0, {}, 0.0

    def surplus(self, left: int, ranking: Sequence[str], needed: Callable[[Collection[str]], bool]) -> list[str]:
        """Members to drop, so that `left` more studies end in time; none before anything could be measured.

        `ranking`: the members at work, most valuable first. `needed`: whether those that would be left do.
        """
        if not self._studies or not left:
            return []
        now = self.clock()
        cost = {name: self._spent.get(name, 0.0) / self._studies for name in ranking}
        a_study = (now - self._since) / self._studies
        # Dropped members are part of the elapsed time, but cost nothing from now on.
        a_study -= sum(spent for name, spent in self._spent.items() if name not in cost) / self._studies
        dropped = choose_dropped(ranking, cost, a_study - (self.deadline - now) / left, needed)
        self._a_study = a_study - sum(cost[name] for name in dropped)
        return dropped

    def is_over(self, studies: int) -> bool:
        """Whether so many studies more would end behind the deadline, going by those measured; at first, the clock."""
        return self.clock() + studies * self._a_study > self.deadline


def choose_dropped(
    ranking: Sequence[str], cost: Mapping[str, float], excess: float, needed: Callable[[Collection[str]], bool]
) -> list[str]:
    """The least valuable members that together cost at least `excess` seconds a study, as far as others can do without.

    `ranking`: most valuable first.
    """
    dropped: list[str] = []
    kept = list(ranking)
    for name in reversed(ranking):
        if excess <= 0:
            break
        rest = [other for other in kept if other != name]
        if needed(rest):
            kept = rest
            dropped.append(name)
            excess -= cost[name]
    return dropped


def ranked_graders(manifest: Manifest) -> list[str]:
    """Graders, the most valuable first: by `rank` where the manifest gives one, then fold after fold in its order.

    The second network of a kind adds less than the first of another, so that later folds go before whole networks.
    """
    seen: dict[str, int] = {}
    order = []
    for place, member in enumerate(manifest.members):
        if member.name in manifest.graders:
            kind = member.spec.model_dump_json()
            seen[kind] = seen.get(kind, 0) + 1
            rank = member.rank if member.rank is not None else len(manifest.members)
            order.append((rank, seen[kind], place, member.name))
    return [name for *_, name in sorted(order)]


def enough(manifest: Manifest, names: Iterable[str]) -> bool:
    """Whether these graders still answer every condition that all graders answer, and every table of the blend.

    An inner blend that is an average, or weighed by hand, does without some of its tables, or all.
    """
    chosen = set(names)
    graders = manifest.graders
    answered = {condition for name in chosen for condition in heard(graders[name])}
    wanted = {condition for spec in graders.values() for condition in heard(spec)}
    tables = all(chosen & set(members) for members in (*manifest.blend.tables.values(), *_needed(manifest.blend)))
    return tables and answered >= (wanted & set(CONDITIONS))


def _needed(blend: Blend) -> Iterator[tuple[str, ...]]:
    """The members of each table that a fitted blend within this one asks for."""
    for each in blend.inner.values():
        if each.method not in (*BLEND_METHODS, WEIGHTED):
            yield from each.tables.values()
        yield from _needed(each)
