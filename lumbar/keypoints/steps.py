"""The order in which detectors look at a study, and what several of them say of the same stacks as one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lumbar.compute.forward import Network, in_halves
from lumbar.keypoints.answers.reading import Reading
from lumbar.keypoints.answers.registry import answer_of
from lumbar.keypoints.stacks import Stack
from lumbar.keypoints.turns import looks, turned, turned_back
from lumbar.recipe.chain import in_order, one_step, same_inputs
from lumbar.recipe.detector import DetectorSpec

Members = Sequence[tuple[DetectorSpec, Network]]


@dataclass(frozen=True, eq=False)
class Step:
    """Detectors that follow each other and speak of the same keypoints on the same kind of stacks."""

    members: Members

    @property
    def spec(self) -> DetectorSpec:
        """The first one's; all have its series type, place, points, preprocessing and way to join."""
        return self.members[0][0]

    @property
    def unsure(self) -> bool:
        """Whether its points are as sure as the slices on which they are looked for: they say nothing of their own."""
        return self.spec.placed == "found" and all(spec.answer == "points" for spec, _ in self.members)

    @cached_property
    def groups(self) -> list[Members]:
        """Members with equal inputs and answers, whose raw answers are joined; groups are joined by what they read.

        A median of points or slices is one of the places that members say, so that each stands alone.
        """
        groups: list[list[tuple[DetectorSpec, Network]]] = []
        for spec, network in self.members:
            alone = spec.answer in ("points", "slices") and spec.join == "median"
            fitting = (group for group in groups if not alone and same_inputs(group[0][0], spec))
            group = next(fitting, None)
            if group is None:
                groups.append([(spec, network)])
            else:
                group.append((spec, network))
        return list(groups)


def steps(detectors: Members) -> list[Step]:
    """The steps of detectors in their order (see `chain.in_order`).

    Where sagittal T1 is sought from the canal, whose place axial points tell, axial planes come before it, too: levels
    without a canal point on T2 wait for the foramina.
    """
    ordered = [detectors[index] for index in in_order([spec for spec, _ in detectors])]
    found: list[Step] = []
    for member in ordered:
        if found and one_step(found[-1].spec, member[0]):
            found[-1] = Step([*found[-1].members, member])
        else:
            found.append(Step([member]))
    return list(_with_planes_first(found))


def _with_planes_first(found: Sequence[Step]) -> Iterator[Step]:
    told = False
    for place, step in enumerate(found):
        if step.spec.placed == "offset" and step.spec.preprocessing.middle == "canal" and not told:
            told = True
            yield from (later for later in found[place + 1 :] if later.spec.placed == "plane")
        yield step


def raw_answers(
    stacks: Sequence[Stack], members: Members, device: torch.device, amp: torch.dtype | None = None
) -> np.ndarray:
    """(N, …) float32: the stacks of a study in one batch through every member of a group, joined over members.

    Members answer the stacks turned as their `tta` says, too; turned back, these count like other members'.
    What says nothing is left out (see `registry.Answer`); where no member says anything the answer is NaN. With the
    original's `keypoints="keep"` it counts like any other.
    """
    kinds: dict[tuple[int, ...], int] = {}  # slices seen → place in the batch: equal stacks go through once
    places = [kinds.setdefault(tuple(map(id, stack.window.slices)), len(kinds)) for stack in stacks]
    first = [stacks[places.index(place)] for place in range(len(kinds))]
    batch = torch.from_numpy(np.stack([stack.pixels for stack in first]))
    raw = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        for spec, network in members:
            raw.append(in_halves(network, batch, device).float())
            filled = [sum(item is not None for item in stack.window.slices) for stack in first] if spec.tta else []
            for turns in looks(spec):
                seen = batch
                for turn in turns:
                    seen = turned(seen, turn, spec, filled)
                answer = in_halves(network, seen, device).float()
                for turn in reversed(turns):
                    answer = turned_back(answer, turn, spec, filled)
                raw.append(answer)
        spec = members[0][0]
        joined = answer_of(spec).join(raw, spec.join, every=spec.preprocessing.keypoints == "keep")
    found = joined.cpu().numpy()
    if spec.classes and spec.pad:  # nobody was asked what class an empty slice is of
        for own, stack in zip(found, first, strict=True):
            own[:, [item is None for item in stack.window.slices]] = np.nan
    return found[places]  # type: ignore[no-any-return]


def read(stacks: Sequence[Stack], members: Members, device: torch.device, amp: torch.dtype | None) -> Reading:
    """What a group of members reads off stacks."""
    return answer_of(members[0][0]).read(members[0][0], raw_answers(stacks, members, device, amp))
