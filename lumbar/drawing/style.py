"""How pictures look: colours that colour-blind readers can tell apart, marks, type sizes."""

from functools import cache
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, Patch, RegularPolygon
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Text

#: Expected severity 0 (normal or mild) to 2 (severe): hue from blue over amber to red, and ever darker, so that
#: either of the two tells.
SEVERITY_MAP: Final = LinearSegmentedColormap.from_list(
    "severity", [(0.0, "#cfe9fa"), (0.22, "#f3e3ac"), (0.5, "#f4b13d"), (1.0, "#b3241c")]
)
UNGRADED_COLOUR: Final = "#9a9a9a"
#: How much of its colour a severity keeps that nothing on patients backs, and the hatch of a cell that holds it.
PALE: Final = 0.3
UNBACKED_HATCH: Final = "\\\\\\\\"
#: What says that a severity is not backed, that a study is a phantom.
WARNING: Final = "#9c1c12"
#: A cell that holds the prior, the edge of any cell, and the ground where there is no image.
PRIOR_COLOUR: Final = "#ededed"
EDGE: Final = "#c4c9ce"
NO_IMAGE: Final = "#eef0f2"
#: What raises and what lowers a severity in a saliency map (Okabe and Ito's orange and sky blue).
RAISES, LOWERS = "#e69f00", "#56b4e9"
#: Colours for lines and bars: Okabe and Ito's, made for every colour sense. Each comes with a marker and a dash.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS: Final = ("s", "o", "^", "D", "v", "P", "x")
_DASHES: Final = ("-", "--", "-.", ":", "-", "--", "-.")
#: Shares from 0 to 1.
SHARE_MAP: Final = "Blues"
#: A line to compare with: the diagonal, zero.
GUIDE: Final = "#b8bec5"
INK: Final = "#1d2733"
FAINT: Final = "#66717d"
PAPER: Final = "#ffffff"
DARK: Final = "#000000"
TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 10.0, 9.0, 8.0
#: A mark's radius in mm of the patient: small beside a canal of 15 mm.
MARK_MM: Final = 3.6


def line(place: int, *, marker: str | None = None) -> dict[str, Any]:
    """How the line number `place` of a chart is drawn, as matplotlib's keywords; `marker` "" leaves markers out."""
    place %= len(COLOURS)
    return {
        "color": COLOURS[place],
        "linestyle": _DASHES[place],
        "marker": _MARKERS[place] if marker is None else marker,
        "markersize": 4,
        "linewidth": 1.4,
    }


def write(on: Axes | Figure, x: float, y: float, text: str, **how: Any) -> Text:
    """Text on axes or a figure; its font is looked up once, which takes longest of all otherwise."""
    return on.text(x, y, text, fontproperties=_font(), **how)


@cache
def _font() -> FontProperties:
    return FontProperties()


def dress(ax: Axes, title: str) -> None:
    """A chart's axes: title on the left, quiet ticks, no frame above and at the right."""
    ax.set_title(title, size=TITLE_SIZE, color=INK, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=NOTE_SIZE, colors=FAINT)


def expected_severity(probabilities: np.ndarray) -> np.ndarray:
    """Mean severity, 0 to 2, of distributions (..., 3)."""
    return np.asarray(probabilities) @ np.array([0.0, 1.0, 2.0])


def severity_colour(probabilities: np.ndarray) -> tuple[float, float, float, float]:
    """Colour of one distribution (3,)."""
    return SEVERITY_MAP(float(expected_severity(probabilities)) / 2)


def percent(share: float) -> int:
    """A share in whole per cent, halves upwards: the one place where a probability is rounded for people."""
    return int(100 * float(share) + 0.5 + 1e-9)


def confidence(value: float) -> str:
    """How sure a keypoint is, 0 to 1 with two digits, as `.93`: no per cent, which are for disease alone."""
    hundredths = percent(value)
    return "1.00" if hundredths >= 100 else f".{hundredths:02d}"


def pale(colour: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The colour of a severity that nothing on patients backs: faint, and hatched besides."""
    red, green, blue = (PALE * part + 1 - PALE for part in colour[:3])
    return red, green, blue, 1.0


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """Black or white ink, whichever contrasts more with a background colour (WCAG relative luminance)."""
    red, green, blue = (((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in colour[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def halo(width: float = 2.2) -> list[AbstractPathEffect]:
    """A dark outline that keeps light text and lines legible on an image."""
    return [withStroke(linewidth=width, foreground=DARK)]


def mark(
    xy: tuple[float, float], colour: object, *, repaired: bool = False, doubtful: bool = False, radius: float = MARK_MM
) -> Patch:
    """A keypoint's mark: a ring; broken where the heatmap is doubtful; a broken diamond where it was repaired."""
    line = (0, (2.2, 1.4)) if repaired or doubtful else "solid"
    shape = RegularPolygon(xy, 4, radius=radius * 1.35) if repaired else Circle(xy, radius)
    shape.set(fill=False, edgecolor=colour, linewidth=1.8, linestyle=line, path_effects=halo(3.4))
    return shape
