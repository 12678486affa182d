"""The notebook's code cells run in this process: as by a kernel, without the seconds that a kernel takes to start."""

import ast
import contextlib
import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from matplotlib.figure import Figure

from tests.conftest import ROOT

NOTEBOOK = ROOT / "inference.ipynb"


@dataclass
class Shown:
    """What the cells showed: printed text and displayed objects as text, figures counted, and what ended them."""

    text: str = ""
    figures: int = 0
    objects: list[Any] = field(default_factory=list)
    error: Exception | None = None


def run_cells(out: Path, data: Path, weights: Path, **environment: str) -> Shown:
    """Run the notebook on a data folder into `out`; an exception ends it, as it ends `nbconvert --execute`."""
    places = {"LUMBAR_DATA": str(data), "LUMBAR_WEIGHTS": str(weights), "LUMBAR_OUT": str(out)}
    shown, printed = Shown(), io.StringIO()
    scope: dict[str, Any] = {"__name__": "__main__", "display": shown.objects.append}
    before = list(sys.path)
    with mock.patch.dict(os.environ, {**places, **environment}), contextlib.redirect_stdout(printed):
        try:
            for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
                if cell.cell_type == "code":
                    _run(cell.source, scope, shown)
        except Exception as error:  # noqa: BLE001 - whatever a cell raises is what a kernel would report
            shown.error = error
        finally:
            sys.path[:] = before
    shown.figures = sum(isinstance(one, Figure) for one in shown.objects)
    shown.text = printed.getvalue() + "\n".join(str(one) for one in shown.objects)
    return shown


def _run(source: str, scope: dict[str, Any], shown: Shown) -> None:
    """One cell; the value of its last expression is shown, magics are left out."""
    tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        shows = ast.Call(ast.Name("display", ast.Load()), [last.value], [])
        tree.body[-1] = ast.fix_missing_locations(ast.copy_location(ast.Expr(shows), last))
    exec(compile(tree, "cell", "exec"), scope)
