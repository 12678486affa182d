"""What stands in for tables and numbered folders where studies come from a tree of files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True, eq=False)
class Tree:
    """The files of a tree by study and series; every one stays where it lies.

    `studies`: number, folder and
    StudyInstanceUID of each study (`studies.csv`). `veils`: what may not be said of each study's patients. `parts_by`:
    what decided which part a series plays.
    """

    files: Mapping[tuple[int, int], tuple[Path, ...]]
    studies: pd.DataFrame
    veils: Mapping[int, re.Pattern[str] | None]
    parts_by: str
