"""Curves for TensorBoard, where the recipe asks for them."""

from pathlib import Path
from typing import Any

from lumbar.issues import InputError


class Board:
    """Writes every number of a metrics row as a curve of its member and fold."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("loop.tensorboard needs the package tensorboard; install it or set it to false") from error
        self.writer = SummaryWriter(str(folder))

    def add(self, row: dict[str, Any]) -> None:
        """One epoch of one member and fold."""
        for name, value in row.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{name}/{row['member']}_fold{row['fold']}", value, row["epoch"])
        self.writer.flush()
