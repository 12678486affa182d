"""A drawing of a recipe's system: what finds keypoints, what grades them, what becomes of the answers. No torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Final, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image, PngImagePlugin

from lumbar.drawing import style
from lumbar.drawing.charts import MARK, drawn_here
from lumbar.files.write import replacing, writing_into
from lumbar.grading.tasks import Task, task_of
from lumbar.issues import cut
from lumbar.labels import CONDITIONS, SERIES_TYPES, SeriesType
from lumbar.recipe import sets
from lumbar.recipe.chain import in_order, one_step
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.recipe.region import Box
from lumbar.recipe.views import View, kind_of, series_of

#: Of a column of cards: left edge, width, and how many letters fit into a line; all lengths in inches.
_COLUMNS: Final = ((0.15, 4.9, 66), (5.45, 5.1, 70), (10.95, 2.9, 38))
#: Of a drawing on the disk: text, frames and stripes need no more, and it is a fifth as large.
_COLOURS: Final = 16
_LINE, _TITLE, _PAD, _GAP, _TOP, _STRIPE = 0.145, 0.2, 0.09, 0.17, 0.95, 0.08
_HEADS: Final = ("stage 1: where is it?", "stage 2: how bad is it?", "one answer")
#: What a detector sees, by its place.
_PLACES: Final[Mapping[str, str]] = {
    "middle": "slices in the middle",
    "offset": "slices of either side",
    "plane": "slices of each level",
    "whole": "whole series",
    "found": "slices found before",
}
#: What the numbers of a region's box are.
_UNITS: Final[Mapping[Box, str]] = {
    "mm": "mm",
    "levels": "times the way to the next level",
    "share": "of the image",
    "pair": "times the way between the recesses",
    "own": "times the point's own size",
    "disc": "times the disc from back to front",
    "union": "times the box around both recesses",
}
_OF_SERIES: Final[Mapping[SeriesType, str]] = dict(
    zip(SERIES_TYPES, (style.COLOURS[2], style.COLOURS[0], style.COLOURS[1]), strict=True)
)
Spec = TypeVar("Spec", DetectorSpec, GraderSpec)


@dataclass(frozen=True)
class Card:
    """One box: title, lines, and the types of series that it sees."""

    title: str
    lines: tuple[str, ...]
    series: tuple[SeriesType, ...] = ()

    def wrapped(self, letters: int) -> list[str]:
        """Its lines, none longer than so many letters."""
        return [part for line in self.lines for part in wrap(line, letters, subsequent_indent="   ")]

    def height(self, letters: int) -> float:
        """Inches that it takes."""
        return 2 * _PAD + _TITLE + _LINE * len(self.wrapped(letters))


def draw_system(recipe: Path, out: Path) -> Path:
    """Draw the system of a recipe into the folder `out`, as a PNG file named like the recipe's; returns its path.

    InputError where the recipe is wrong, the folder cannot be written to, or a picture there is somebody else's.
    """
    read, path = load_recipe(recipe), out / f"{recipe.stem}.png"
    figure = _drawn(read, (detector_cards(read), grader_cards(read), answer_cards(read)))
    with writing_into(out), replacing(path, drawn_here) as temporary:
        drawn, mark = BytesIO(), PngImagePlugin.PngInfo()
        figure.savefig(drawn, dpi=80, format="png")
        for key, value in MARK.items():
            mark.add_text(key, value)
        few = Image.open(drawn).convert("RGB").quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True, pnginfo=mark)
    return path


def detector_cards(recipe: Recipe) -> list[Card]:
    """A card a step: the detectors that look together, in the order in which they look. Where graders have sets of
    keypoints of their own, set by set."""
    every = {name: member.spec for name, member in recipe.stage1.bundled().items()}
    if not _sets_apart(recipe):
        return _step_cards(recipe, every)
    each = zip(recipe.stage1.sets, sets.of(recipe.stage1.sets, every), strict=True)
    return [card for name, members in each for card in _step_cards(recipe, members, f" (set {cut(name, 20)})")]


def _sets_apart(recipe: Recipe) -> bool:
    return any(member.spec.sets for member in recipe.stage2.bundled().values())


def _step_cards(recipe: Recipe, members: Mapping[str, DetectorSpec], of_set: str = "") -> list[Card]:
    names = list(members)
    steps: list[list[str]] = []
    for index in in_order(list(members.values())):
        name = names[index]
        if steps and one_step(members[steps[-1][0]], members[name]):
            steps[-1].append(name)
        else:
            steps.append([name])
    cards = [_step_card(recipe, [(name, members[name]) for name in step]) for step in steps]
    return [replace(card, title=card.title + of_set) for card in cards]


def grader_cards(recipe: Recipe) -> list[Card]:
    """A card for all graders that answer the same conditions on the same views."""
    kinds: dict[tuple[object, ...], list[tuple[str, GraderSpec, Task]]] = {}
    for name, member in recipe.stage2.bundled().items():
        task = task_of(member.spec)
        spec = member.spec
        key = (spec.subject, spec.speaks_for, spec.levels, task.samples[0].views, spec.sets)
        kinds.setdefault(key, []).append((name, member.spec, task))
    return [_grader_card(recipe, kind) for kind in kinds.values()]


def answer_cards(recipe: Recipe) -> list[Card]:
    """How members' answers become one, and what that answers."""
    blend = recipe.blend
    lines = ["blend chosen out of fold, else the mean" if blend.method == "auto" else f"blend: {blend.method}"]
    for name, inner in blend.inner.items():
        heard = inner.members or {member for own in inner.weights.values() for member in own}
        lines.append(f"{name} blends {len(heard)} of them" + (f": {inner.method}" if inner.members else ""))
    if blend.temperatures:
        told = ", ".join(f"{group} {value:g}" for group, value in blend.temperatures.items())
        lines.append(f"temperatures: {told}")
    if blend.multipliers:
        lines.append(f"severities multiplied: {', '.join(blend.multipliers)}")
    if blend.severe_scaled != 1:
        lines.append(f"highest severe canal level times {blend.severe_scaled:g}")
    if recipe.stage1.sets and not _sets_apart(recipe):
        lines.append(f"averaged over {len(recipe.stage1.sets)} sets of keypoints")
    sides = [f"{name}, left and right" for name in ("foraminal narrowing", "subarticular stenosis")]
    rows = ("spinal canal stenosis", *sides, "at L1/L2 to L5/S1", "normal or mild, moderate, severe")
    count = len(recipe.stage2.bundled())
    heads = f"{count} {'grader' if count == 1 else 'graders'}", "25 rows a study"
    return [Card(head, tuple(told)) for head, told in zip(heads, (lines, rows), strict=True)]


def _step_card(recipe: Recipe, step: Sequence[tuple[str, DetectorSpec]]) -> Card:
    first = step[0][1]
    title = f"{' and '.join(_named(kind) for kind in first.types)}: {_PLACES[first.placed]}"
    lines = [f"find {_points(first)}" + (f", after {' and '.join(map(_named, first.needed))}" if first.needed else "")]
    for spec, names in _alike(step):
        deep = " with the slice" if spec.depth else ""
        sees = f"{spec.in_chans} {'slice' if spec.in_chans == 1 else 'slices'}, {spec.pixels}"
        sees += ", distances from canal points" if spec.canal_distances else ""
        lines.append(f"• {_count(recipe, names)}{_network(spec)}: {spec.answer}{deep} ({sees})")
        if teachers := dict.fromkeys(own for each in names if (own := recipe.stage1.members[each].training.taught_by)):
            lines.append(f"   taught by {', '.join(teachers)}")
        if spec.tta:
            lines.append(f"   also turned: {', '.join(spec.tta)}")
    if len(step) > 1 or any(len(recipe.folds_of(name)) > 1 for name, _ in step):
        lines.append(f"answers{' of a set' if recipe.stage1.sets else ''} joined by their {first.join}")
    return Card(title, tuple(lines), first.types)


def _grader_card(recipe: Recipe, kind: Sequence[tuple[str, GraderSpec, Task]]) -> Card:
    _, first, task = kind[0]
    views = task.samples[0].views
    level = {
        "one": "one level at a time",
        "all": "all five levels in a row",
        "study": "whole slices, all levels at once",
    }[first.levels]
    lines = [level + (", either side" if len(task.samples) > 1 else "")]
    if first.speaks_for:
        lines.append(f"heard for {', '.join(map(_short, first.speaks_for))} only")
    if first.sets and first.levels != "study":  # which looks at no keypoint
        lines.append(f"around the keypoints of the set {' and '.join(cut(name, 20) for name in first.sets)}")
    regions: dict[str, list[int]] = {}
    for place, (_, spec, _) in enumerate(kind):
        for view in {kind_of(view): view for view in views}.values():
            regions.setdefault(f"{_named(kind_of(view))}: {_region(spec, view)}", []).append(place)
    lines += regions
    alike = _alike([(name, spec) for name, spec, _ in kind])
    for spec, names in alike:
        turned = f"; also turned: {', '.join(spec.tta)}" if spec.tta else ""
        sizes = dict.fromkeys(_size(spec.region_of(view).size) for view in views)
        lines.append(f"• {_count(recipe, names)}{_network(spec)} ({', '.join(sizes)} px){turned}")
        trained = [recipe.stage2.members[name].training for name in names]
        if taken := dict.fromkeys(own.begins_with for own in trained if not own.epochs):
            lines.append(f"   with the weights of {', '.join(taken)}")
        if told := dict.fromkeys(own.begins_with for own in trained if own.second_level):
            lines.append(f"   learnt from what {', '.join(told)} says of studies not seen")
    seen = tuple(dict.fromkeys(series_of(view) for view in views))
    if "sagittal_series" in views:
        seen = ("sagittal_t2", "sagittal_t1")
    return Card(_asked(first, sides=len(task.samples) > 1), tuple(lines), seen)


def _asked(spec: GraderSpec, *, sides: bool) -> str:
    """What a grader answers, of a side where it is asked for each, in a few words."""
    if spec.task is None and set(spec.conditions) == set(CONDITIONS):
        return "all five conditions"
    return spec.subject.replace("left ", "").replace("right ", "") if sides else spec.subject


def _alike(members: Iterable[tuple[str, Spec]]) -> Iterator[tuple[Spec, list[str]]]:
    """Members of one network, backbone, size and answer: the first of them, and the names of all."""
    groups: dict[tuple[object, ...], tuple[Spec, list[str]]] = {}
    for name, spec in members:
        said = tuple(getattr(spec, key, None) for key in ("answer", "in_chans", "canal_distances"))
        key = (spec.network, _plain(spec.backbone), spec.pixels, spec.tta, said)
        groups.setdefault(key, (spec, []))[1].append(name)
    yield from groups.values()


def _count(recipe: Recipe, names: Sequence[str]) -> str:
    """How many networks that is, folds counted: "15 × "."""
    total = sum(len(recipe.folds_of(name)) for name in names)
    return f"{total} × " if total > 1 else ""


def _points(spec: DetectorSpec) -> str:
    """How many keypoints a study has of these, in words."""
    what = "slices of" if spec.answer == "slices" else ""
    sides = {"sagittal_t2": "canal points", "sagittal_t1": "foramina", "axial_t2": "recesses"}
    every = [f"{5 if kind == 'sagittal_t2' else 10} {sides[kind]}" for kind in spec.types]
    every += ["discs' front ends"] if spec.ends else []
    return f"{what} {' and '.join(every)}".strip()


def _region(spec: GraderSpec, view: View) -> str:
    """A region in words: how many slices, and the box."""
    region = spec.region_of(view)
    tall, wide = region.extent or (0.0, 0.0)
    box = "the whole image" if region.box == "whole" else f"{tall:g} × {wide:g} {_UNITS[region.box]}"
    if region.across is not None:
        box = f"{tall:g} {_UNITS[region.box]} × {wide:g} {_UNITS[region.across]}"
    turned = "" if region.rotate == "none" else f", along the {region.rotate}"
    return f"{region.slices} {'slice' if region.slices == 1 else 'slices'}, {box}{turned}"


def _size(size: tuple[int, int]) -> str:
    """Height and width in pixels, one number for a square."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]} × {size[1]}"


def _named(kind: str) -> str:
    """sagittal_t2 → sagittal T2."""
    return kind.replace("_t1", " T1").replace("_t2", " T2").replace("_", " ")


def _short(condition: str) -> str:
    return condition.replace("_", " ")


def _network(spec: DetectorSpec | GraderSpec) -> str:
    """A network and its backbone, where it is built on one."""
    backbone = _plain(spec.backbone)
    return spec.network if backbone == spec.network else f"{spec.network} on {backbone}"


def _plain(backbone: str) -> str:
    """A backbone's name without the tag of its weights."""
    return backbone.removeprefix("tu-").partition(".")[0]


def _drawn(recipe: Recipe, columns: Sequence[Sequence[Card]]) -> Figure:
    """The page: columns of cards under their heads, an arrow between columns, the colours of the series below."""
    heights = [
        sum(card.height(letters) + _GAP for card in cards)
        for cards, (_, _, letters) in zip(columns, _COLUMNS, strict=True)
    ]
    tall, wide = _TOP + max(heights) + 0.25, _COLUMNS[-1][0] + _COLUMNS[-1][1] + 0.15
    figure = Figure(figsize=(wide, tall), facecolor=style.PAPER)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, wide), ylim=(tall, 0))
    ax.axis("off")
    style.write(ax, 0.15, 0.27, recipe.description or recipe.name, size=11, color=style.INK, va="center")
    for (left, width, letters), cards, head in zip(_COLUMNS, columns, _HEADS, strict=True):
        style.write(ax, left, 0.68, head, size=style.LABEL_SIZE, color=style.FAINT, va="center")
        top = _TOP
        for card in cards:
            _draw_card(ax, card, (left, top, width), letters)
            top += card.height(letters) + _GAP
    for before, after in pairwise(_COLUMNS):
        ends = (before[0] + before[1] + 0.06, 0.68), (after[0] - 0.06, 0.68)
        ax.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12, color=style.FAINT))
    return figure


def _draw_card(ax: Axes, card: Card, place: tuple[float, float, float], letters: int) -> None:
    """A card at left, top, width in inches."""
    left, top, width = place
    height = card.height(letters)
    ax.add_patch(
        FancyBboxPatch(
            (left, top),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor="#f6f8fa",
            edgecolor=style.EDGE,
        )
    )
    for number, kind in enumerate(card.series):  # a stripe a series type, one below the other
        part = height / len(card.series)
        ax.add_patch(Rectangle((left, top + number * part), _STRIPE, part, color=_OF_SERIES[kind]))
    inner, how = left + _STRIPE + 0.1, {"color": style.INK, "va": "center"}
    style.write(
        ax, inner, top + _PAD + _TITLE / 2, cut(card.title, letters - 8), size=style.LABEL_SIZE, weight="bold", **how
    )
    for number, text in enumerate(card.wrapped(letters)):
        y = top + _PAD + _TITLE + _LINE * (number + 0.5)
        style.write(ax, inner, y, text, size=style.NOTE_SIZE, **how)
