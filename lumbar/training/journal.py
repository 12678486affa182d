"""What is said of every epoch while a run trains: a line of `metrics.jsonl`, and TensorBoard's curves."""

import json
from pathlib import Path
from typing import Any

from lumbar.files.write import write_text, writing_into
from lumbar.training.loop.tensorboard import Board


class Journal:
    """The epochs of a run, kept by its first process."""

    def __init__(self, folder: Path, *, keeps: bool, tensorboard: bool) -> None:
        """`keeps`: whether this process is the one that writes."""
        self.path, self.keeps = folder / "metrics.jsonl", keeps
        self.board = Board(folder / "tensorboard") if keeps and tensorboard else None

    def add(self, row: dict[str, Any]) -> None:
        """Add an epoch; one that stands there already is not added again."""
        line = json.dumps(row) + "\n"
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        if not self.keeps or line in lines:
            return
        with writing_into(self.path.parent):
            write_text("".join([*lines, line]), self.path)
        if self.board is not None:
            self.board.add(row)
