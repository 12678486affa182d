"""The evaluation as one page that needs nothing beside it: the tables, then every chart."""

import base64
import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lumbar.drawing import style
from lumbar.files.write import replacing

_PAGE: Final = string.Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
  body { font: 16px/1.45 system-ui, sans-serif; color: $ink; background: $paper; margin: 2rem auto; max-width: 90rem;
    padding: 0 1rem; }
  pre { font-size: .8rem; overflow-x: auto; }
  img { max-width: 100%; }
</style>
<h1>$title</h1>
<p>Research use, not for clinical decisions.</p>
<pre>$tables</pre>
$charts
</html>
"""
)


def write_page(title: str, tables: str, charts: Sequence[Path], path: Path) -> Path:
    """Write the page to `path`: `tables` as printed, and the PNG files `charts` in it, named by their file."""
    figures = [
        f'<p><img alt="{html.escape(chart.stem.replace("_", " "))}" '
        f'src="data:image/png;base64,{base64.b64encode(chart.read_bytes()).decode()}"></p>'
        for chart in charts
    ]
    text = _PAGE.substitute(
        title=html.escape(title),
        ink=style.INK,
        paper=style.PAPER,
        tables=html.escape(tables),
        charts="\n".join(figures),
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
