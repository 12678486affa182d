"""The 25 probabilities of a study as a small coloured table, for a picture."""

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from lumbar.drawing import style
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition, level_title

#: Table columns as an axial image shows them: the patient's right on the viewer's left.
COLUMNS: Final[tuple[tuple[Condition, str], ...]] = (
    ("right_neural_foraminal_narrowing", "right\nforamen"),
    ("right_subarticular_stenosis", "right\nsubarticular"),
    ("spinal_canal_stenosis", "spinal\ncanal"),
    ("left_subarticular_stenosis", "left\nsubarticular"),
    ("left_neural_foraminal_narrowing", "left\nforamen"),
)


def draw_table(
    ax: Axes,
    probabilities: np.ndarray,
    graded: np.ndarray,
    truth: np.ndarray | None = None,
    shown: np.ndarray | None = None,
) -> None:
    """Probabilities (5 conditions, 5 levels, 3) as a table, levels down, conditions across.

    A cell holds the three probabilities in per cent, the largest in bold, and a bar of their shares: one colour is
    certain, several are not. The cell's own colour is the expected severity. Where
    `graded` (5, 5) is False the prior stands in and the cell is hatched. `truth` (5, 5) holds the true severity, 0 to
    2, which gets a box, or -1. Cells that `shown` (5, 5) does not name are pale and hatched: no test on patients backs
    them, or their regions look like nothing that the graders learnt from.
    """
    ax.set(xticks=[], yticks=[])
    ax.set_axis_off()
    ax.set(xlim=(-0.42, len(COLUMNS)), ylim=(len(LEVELS), -0.72))
    for x, (condition, title) in enumerate(COLUMNS):
        row = CONDITIONS.index(condition)
        style.write(ax, x + 0.5, -0.06, title, ha="center", va="bottom", size=style.LABEL_SIZE, color=style.INK)
        for y in range(len(LEVELS)):
            label = None if truth is None or truth[row, y] < 0 else int(truth[row, y])
            known = shown is None or bool(shown[row, y])
            _draw_cell(ax, x, y, probabilities[row, y], bool(graded[row, y]), label, known)
    for y, level in enumerate(LEVELS):
        style.write(
            ax, -0.06, y + 0.5, level_title(level), ha="right", va="center", size=style.TITLE_SIZE, color=style.INK
        )
    note = "per cent normal or mild · moderate · severe" + ("" if truth is None else " · boxed: the label")
    style.write(ax, 0, -0.72, "Probabilities", ha="left", va="bottom", size=style.TITLE_SIZE, color=style.INK)
    style.write(ax, len(COLUMNS), -0.72, note, ha="right", va="bottom", size=style.NOTE_SIZE, color=style.FAINT)


def _draw_cell(
    ax: Axes, x: int, y: int, probabilities: np.ndarray, graded: bool, label: int | None, shown: bool
) -> None:
    colour = style.severity_colour(probabilities) if graded else to_rgba(style.PRIOR_COLOUR)
    colour = colour if shown or not graded else style.pale(colour)
    ink = style.ink_on(colour)
    hatch = None if shown else style.UNBACKED_HATCH
    ax.add_artist(
        Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, facecolor=colour, edgecolor=style.EDGE, linewidth=0.5,
                  hatch=hatch if graded else "///")
    )  # fmt: skip
    largest = int(np.argmax(probabilities))
    for place in range(len(SEVERITIES)):
        bold, text = place == largest, str(style.percent(probabilities[place]))
        size = (12 if len(text) < 3 else 10) if bold else 9.5  # so that "100" fits into its box
        style.write(ax,
            x + 0.2 + 0.3 * place, y + 0.44, text, ha="center", va="center", color=ink,
            size=size, weight="bold" if bold else "normal",
        )  # fmt: skip
        if place == label:
            ax.add_artist(
                Rectangle((x + 0.07 + 0.3 * place, y + 0.22), 0.26, 0.44, fill=False, edgecolor=ink, linewidth=1.4)
            )
    if graded:
        _draw_shares(ax, x, y, probabilities)
    else:
        style.write(
            ax, x + 0.5, y + 0.83, "prior", ha="center", va="center", size=style.NOTE_SIZE, style="italic", color=ink
        )


def _draw_shares(ax: Axes, x: int, y: int, probabilities: np.ndarray) -> None:
    """The three probabilities as parts of one bar at the foot of a cell."""
    left, wide, top, tall = x + 0.07, 0.86, y + 0.79, 0.11
    ax.add_artist(Rectangle((left - 0.008, top - 0.012), wide + 0.016, tall + 0.024, facecolor=style.PAPER))
    for place, share in enumerate(probabilities):
        ax.add_artist(Rectangle((left, top), wide * share, tall, facecolor=style.SEVERITY_MAP(place / 2)))
        left += wide * share
