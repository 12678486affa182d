"""A whole person: the spine that shows the narrowing, distractors that do not matter to it, and the body around."""

from dataclasses import dataclass

import numpy as np

from lumbar.phantom.body import Body, draw_body
from lumbar.phantom.narrowing import draw_spine
from lumbar.phantom.severity import Grades
from lumbar.phantom.spine import Spine
from lumbar.phantom.tissue import HEMANGIOMA, MODIC1, MODIC2, Look
from lumbar.phantom.vertebrae import COLUMNS, FIRST, PLANES, Vertebrae
from lumbar.phantom.wobble import Wobble, draw_wobble


@dataclass(frozen=True)
class Node:
    """A Schmorl node: disc tissue sunk into an endplate of `plane`; `below` is 1 for the lower vertebra, else -1."""

    plane: int
    below: int
    u: float
    v: float
    radius: float


@dataclass(frozen=True)
class Endplate:
    """A Modic-like change along one endplate: `depth` mm of marrow look like `tissue`, from the front or the back."""

    plane: int
    below: int
    depth: float
    tissue: int
    front: bool


@dataclass(frozen=True)
class Ball:
    """A ball of another tissue (haemangioma) in a vertebra: height as share of the vertebra, the rest in mm."""

    vertebra: int
    share: float
    u: float
    v: float
    radius: float
    tissue: int


@dataclass(frozen=True)
class Anatomy:
    """One person. Immutable; every slice of every series is drawn from it."""

    spine: Spine
    body: Body
    look: Look
    nodes: tuple[Node, ...]
    endplates: tuple[Endplate, ...]
    balls: tuple[Ball, ...]
    conus: float  # plane number (may be a fraction) at which the cord ends
    roots: np.ndarray  # (18, 3) places of the cauda equina's roots in the sac: across, depth, drift
    joint_fluid: np.ndarray  # (2, 13) share of the facet joint that holds fluid
    pedicle: float  # thickness factor
    wobble: Wobble  # of the spine
    body_wobble: Wobble


def draw_anatomy(rng: np.random.Generator, grades: Grades, vertebrae: Vertebrae = "usual") -> Anatomy:
    """A person whose 25 regions show `grades.narrowing`; all else but the vertebrae's kind is drawn at random."""
    column = COLUMNS[vertebrae]
    spine = draw_spine(rng, column, grades.narrowing)
    age = rng.uniform(0, 1)
    hydration = np.clip(rng.normal(0.95 - 0.75 * age, 0.25, PLANES), 0.02, 1.0)
    hydration[: column.top] = np.clip(hydration[: column.top] + 0.15, 0, 1)
    look = Look(
        marrow_fat=float(np.clip(rng.normal(0.3 + 0.5 * age, 0.15), 0, 1)),
        muscle_fat=float(np.clip(rng.normal(0.15 + 0.4 * age, 0.15), 0, 0.9)),
        hydration=hydration,
        marrow=rng.normal(1.0, 0.025, PLANES - 1),
    )
    return Anatomy(
        spine=spine,
        body=draw_body(rng, spine),
        look=look,
        nodes=_draw_nodes(rng, spine),
        endplates=_draw_endplates(rng),
        balls=_draw_balls(rng, spine),
        conus=float(np.clip(rng.normal(column.top - 0.4, 0.4), column.top - 1.4, column.top + 0.6)),
        roots=_draw_roots(rng),
        joint_fluid=np.clip(rng.normal(0.2, 0.4, (2, PLANES)), 0, 1),
        pedicle=float(rng.normal(1.0, 0.06)),
        wobble=draw_wobble(rng, 0.45, 14, 32),
        body_wobble=draw_wobble(rng, 2.2, 28, 70),
    )


def _draw_nodes(rng: np.random.Generator, spine: Spine) -> tuple[Node, ...]:
    return tuple(
        Node(
            plane=int(rng.integers(2, FIRST + 4)),
            below=int(rng.choice([-1, 1])),
            u=float(rng.uniform(-9, 9) * spine.scale),
            v=float(rng.uniform(-24, -9) * spine.scale),
            radius=float(rng.uniform(2.5, 5.5) * spine.scale),
        )
        for _ in range(rng.poisson(0.7))
    )


def _draw_endplates(rng: np.random.Generator) -> tuple[Endplate, ...]:
    found = []
    for _ in range(rng.poisson(0.35)):
        plane, depth = int(rng.integers(FIRST + 1, FIRST + 5)), float(rng.uniform(4, 11))
        tissue, front = int(rng.choice([MODIC1, MODIC2])), bool(rng.random() < 0.6)
        found += [Endplate(plane, below, depth * rng.uniform(0.6, 1.0), tissue, front) for below in (-1, 1)]
    return tuple(found)


def _draw_balls(rng: np.random.Generator, spine: Spine) -> tuple[Ball, ...]:
    return tuple(
        Ball(
            vertebra=int(rng.integers(1, FIRST + 4)),
            share=float(rng.uniform(0.3, 0.7)),
            u=float(rng.uniform(-12, 12) * spine.scale),
            v=float(rng.uniform(-24, -8) * spine.scale),
            radius=float(rng.uniform(3, 7.5)),
            tissue=HEMANGIOMA,
        )
        for _ in range(rng.poisson(0.3))
    )


def _draw_roots(rng: np.random.Generator) -> np.ndarray:
    """Roots of the cauda equina: most lie in the back of the sac (the patient lies on the back), in two bundles."""
    across = np.concatenate([rng.uniform(0.12, 0.86, 9), -rng.uniform(0.12, 0.86, 9)])
    deep = 0.55 - 0.75 * np.abs(across) ** 1.5 + rng.normal(0, 0.16, 18)
    return np.stack([across, np.clip(deep, -0.75, 0.8), rng.uniform(-0.12, 0.12, 18)], axis=1)
