"""Views as a network's encoders take them, and slices of many stacks through one backbone.

What a backbone says of a view can be listened to while the network answers: nothing is computed twice. A network offers
its features by saying which views a backbone is shown (`showing`), as `encoded` does; one that does not is silent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from lumbar.grading.tasks import task_of
from lumbar.recipe.grader import GraderSpec

#: Where this thread's listener wants features by view, and the views that a backbone is being shown.
_heard: ContextVar[dict[str, torch.Tensor] | None] = ContextVar("heard", default=None)
_shown: ContextVar[Sequence[str]] = ContextVar("shown", default=())


@contextmanager
def listening() -> Iterator[dict[str, torch.Tensor]]:
    """Features of networks that are asked inside, by view (B · L, F): a backbone's, the mean over slices."""
    heard: dict[str, torch.Tensor] = {}
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


@contextmanager
def showing(views: Sequence[str]) -> Iterator[None]:
    """Inside, the stacks that a backbone sees are these views of each sample, one after the other as in `stacked`."""
    token = _shown.set(views)
    try:
        yield
    finally:
        _shown.reset(token)


def tell(view: str, features: torch.Tensor) -> None:
    """Let a listener have a backbone's features of a view's slices (B · L, T, F)."""
    if (heard := _heard.get()) is not None:
        heard[view] = features.mean(dim=1)


def stacked(views: Mapping[str, torch.Tensor], names: Sequence[str]) -> torch.Tensor:
    """Views (B, L, T, C, H, W) that are alike → (B · L, V, T, C, H, W), one after the other as `names` has them."""
    folded = [views[name].flatten(0, 1) for name in names]
    return folded[0].unsqueeze(1) if len(folded) == 1 else torch.stack(folded, dim=1)


def channels_of(spec: GraderSpec) -> list[int]:
    """The channels of the slices that each encoder sees."""
    task = task_of(spec)
    found = dict(zip(task.encoders, task.samples[0].views, strict=True))
    return [spec.region_of(found[index]).channels for index in sorted(found)]


def slice_features(
    backbone: Callable[[torch.Tensor], torch.Tensor], stacks: torch.Tensor, at_once: int | None = None
) -> torch.Tensor:
    """(N, T, C, H, W) stacks of slices → (N, T, F): the backbone's pooled features of every slice.

    `at_once`: how many slices the backbone gets at a time (None: all); it treats each by itself.
    """
    N, T = stacks.shape[:2]
    parts = stacks.flatten(0, 1).split(at_once or N * T)
    found = torch.cat([backbone(part) for part in parts]).reshape(N, T, -1)
    shown = _shown.get()
    for place, view in enumerate(shown):
        tell(view, found[place :: len(shown)])
    return found


def encoded(
    encoders: Iterable[nn.Module],
    encoder_of_view: Sequence[int],
    names: Sequence[str],
    views: Mapping[str, torch.Tensor],
) -> list[tuple[torch.Tensor, ...]]:
    """What encoders answer, each to its views (B · L, T, C, H, W) in one batch; view by view, as `names` has them.

    An encoder answers several tensors of as many rows as it was given stacks.
    """
    found: dict[int, tuple[torch.Tensor, ...]] = {}
    for index, encoder in enumerate(encoders):
        places = [place for place, of_view in enumerate(encoder_of_view) if of_view == index]
        alike = stacked(views, [names[place] for place in places])
        with showing([names[place] for place in places]):
            answers = [answer.unflatten(0, alike.shape[:2]) for answer in encoder(alike.flatten(0, 1))]
        found |= {place: tuple(answer[:, slot] for answer in answers) for slot, place in enumerate(places)}
    return [found[place] for place in sorted(found)]
