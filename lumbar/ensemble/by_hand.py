"""What a person sets of a blend and nothing fits: temperatures before it, weights in it, factors after it.

`before` and `after` stand around every blend, fitted or not. `weighted` is a blend of its own: weights for each group
of conditions, of members or of `inner` blends of members.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from lumbar.ensemble import weights as by_group
from lumbar.ensemble.average import SMALLEST, BlendMethod
from lumbar.ensemble.cells import GROUPS, Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.method_names import WEIGHTED, Group, On
from lumbar.ensemble.objective import SEVERE, softmax
from lumbar.labels import CONDITION_GROUPS

#: The average that a weight means.
AVERAGES: Final[dict[On, BlendMethod]] = {"probabilities": "mean", "logits": "mean_logits", "odds": "mean_odds"}
_CANAL: Final = GROUPS[0][0]


class Around(Protocol):
    """What stands around a blend; a group that is not named is left as it is."""

    @property
    def temperatures(self) -> Mapping[Group, float]:
        """What the members' logits are divided by."""

    @property
    def multipliers(self) -> Mapping[Group, Sequence[float]]:
        """What each severity is multiplied by."""

    @property
    def severe_scaled(self) -> float:
        """What the canal's highest severe probability of a study is multiplied by."""


class Part(Protocol):
    """Members that become one table."""

    @property
    def on(self) -> On:
        """What is averaged."""

    @property
    def weights(self) -> Mapping[Group, Mapping[str, float]]:
        """Of the tables by name, for each group."""


class Factored(Part, Protocol):
    """The same with factors of its own."""

    @property
    def multipliers(self) -> Mapping[Group, Sequence[float]]:
        """What each severity of its table is multiplied by."""


class Weighted(Part, Around, Protocol):
    """A whole blend of members and inner blends, and what stands around it."""

    @property
    def parts(self) -> Mapping[str, Factored]:
        """Inner blends of its tables, by name."""

    @property
    def whole(self) -> Mapping[str, Any]:
        """Inner blends of members of their own, by name: to this one, tables."""

    @property
    def stands_in(self) -> Mapping[str, str]:
        """Tables or inner blends by name, and whose row is taken where they are silent."""


def before(around: Around, members: np.ndarray) -> np.ndarray:
    """Members (…, 5, 5, 3), NaN where silent, their logits divided by the temperature of each group of conditions."""
    if not around.temperatures:
        return members
    out = np.array(members, dtype=np.float64)
    for group, places in _named(around.temperatures):
        logits = np.log(np.maximum(out[..., places, :, :], SMALLEST))  # NaN stays
        out[..., places, :, :] = softmax(logits / around.temperatures[group])
    return out


def after(around: Around, table: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    """A blend (…, 5, 5, 3) with its factors; where no member `spoken` (…, 5, 5), the prior stays as it is."""
    return worst_scaled(multiplied(table, around.multipliers, spoken), around.severe_scaled, spoken)


def multiplied(
    table: np.ndarray, multipliers: Mapping[Group, Sequence[float]], spoken: np.ndarray | None = None
) -> np.ndarray:
    """Every severity times its factor, divided by the sum of the row: (…, 5, 5, 3)."""
    factors = np.ones(table.shape[-3:])
    for group, places in _named(multipliers):
        factors[places] = np.asarray(multipliers[group], dtype=np.float64)
    out = table * factors
    out = out / out.sum(axis=-1, keepdims=True)
    if not multipliers:
        return table
    return out if spoken is None else np.where(spoken[..., None], out, table)


def worst_scaled(table: np.ndarray, factor: float, spoken: np.ndarray) -> np.ndarray:
    """The level of the canal that is most probably severe gets that probability times `factor`, then the rows sum to 1.

    As the second place's. Only levels on which a member `spoken` (…, 5, 5) count.
    """
    if factor == 1:
        return table
    out = np.array(table, dtype=np.float64)
    severe = np.where(spoken[..., _CANAL, :], out[..., _CANAL, :, SEVERE], -1.0)  # (…, 5)
    worst = (np.arange(severe.shape[-1]) == severe.argmax(axis=-1)[..., None]) & (severe >= 0)
    out[..., _CANAL, :, SEVERE] *= np.where(worst, factor, 1.0)
    return out / out.sum(axis=-1, keepdims=True)


def weighted(tables: Sequence[str], blend: Weighted) -> Fit:
    """The blend as data, for tables of these names, whole inner blends among them. ValueError where a weight is given
    to a stranger."""
    inner = [
        {
            "average": AVERAGES[each.on],
            "weights": _matrix(f"inner.{name}.weights", each.weights, tables, 0.0),
            "multipliers": {group: list(factors) for group, factors in each.multipliers.items()},
        }
        for name, each in blend.parts.items()
    ]
    if lost := [name for name in blend.whole if name not in tables]:
        raise ValueError(f"inner.{lost[0]} is a whole blend, and no table has its name")
    names = [*tables, *blend.parts]
    rows = _matrix("weights", blend.weights, names, 1.0)
    for row, group in zip(rows, CONDITION_GROUPS, strict=True):
        if (blend.parts or blend.whole) and group not in blend.weights:
            row[: len(tables)] = [float(name in blend.whole) for name in tables]
    params: dict[str, Any] = {"average": AVERAGES[blend.on], "weights": rows, "inner": inner}
    if strangers := {*blend.stands_in, *blend.stands_in.values()}.difference(names):
        raise ValueError(f"stands_in names {min(strangers)!r}, which is not blended here")
    if blend.stands_in:
        params["stands_in"] = [[names.index(one), names.index(other)] for one, other in blend.stands_in.items()]
    return Fit(WEIGHTED, params)


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3)."""
    whole = _with_inner(fitted, cells)
    return by_group.weighted(whole, fitted.params["average"], np.asarray(fitted.params["weights"], dtype=np.float64))


def spoken(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5), True where a table speaks that has a weight."""
    return _spoken(_with_inner(fitted, cells), np.asarray(fitted.params["weights"], dtype=np.float64))


def _with_inner(fitted: Fit, cells: Cells) -> Cells:
    tables = [cells.members]
    for each in fitted.params["inner"]:
        rows = np.asarray(each["weights"], dtype=np.float64)
        table = multiplied(by_group.weighted(cells, each["average"], rows), each["multipliers"])
        tables.append(np.where(_spoken(cells, rows)[..., None], table, np.nan)[:, None])
    whole = np.concatenate(tables, axis=1)
    filled = whole.copy()
    for one, other in fitted.params.get("stands_in", ()):
        filled[:, one] = np.where(np.isnan(whole[:, one]), whole[:, other], whole[:, one])
    return Cells(filled, cells.prior)


def _spoken(cells: Cells, rows: np.ndarray) -> np.ndarray:
    said = ~np.isnan(cells.members).all(axis=-1)  # (N, M, 5, 5)
    out = np.zeros((len(said), *said.shape[2:]), dtype=bool)
    for places, row in zip(GROUPS, rows, strict=True):
        out[:, list(places)] = said[:, row > 0][:, :, list(places)].any(axis=1)
    return out


def _matrix(
    place: str, given: Mapping[Group, Mapping[str, float]], tables: Sequence[str], unnamed: float
) -> list[list[float]]:
    """A row of weights for each group; a group that is not named has `unnamed` everywhere."""
    rows = []
    for group in CONDITION_GROUPS:
        own = given.get(group)  # type: ignore[call-overload]  # the groups are those of `Group`
        if own is not None and (strangers := [name for name in own if name not in tables]):
            raise ValueError(f"{place}.{group} names {strangers[0]!r}, which is not blended here")
        rows.append([unnamed] * len(tables) if own is None else [float(own.get(name, 0.0)) for name in tables])
    return rows


def _named(groups: Mapping[Group, Any]) -> list[tuple[Group, list[int]]]:
    """The groups of a mapping and where their conditions lie."""
    places = dict(zip(CONDITION_GROUPS, GROUPS, strict=True))
    return [(group, list(places[group])) for group in groups]
