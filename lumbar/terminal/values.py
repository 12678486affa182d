"""Values of a command line, read by type: what cannot be is refused in the words of its kind."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path


def refused(text: str, wanted: str) -> argparse.ArgumentTypeError:
    """What to raise: a value that is not what was wanted."""
    return argparse.ArgumentTypeError(f"{text[:60]!r} is not {wanted}")


def given(text: str) -> Path:
    """A path; an empty one would mean the current folder, and mostly comes from a shell variable that is not set."""
    if not text.strip() or "\0" in text:
        raise refused(text, "a path; '.' is the current folder")
    return Path(text)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Whole numbers of a range, in plain digits."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise refused(text, f"a whole number from {least} to {most}")
        return int(text)

    return read


def share(text: str) -> float:
    """A number above 0 and below 1."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:  # NaN is not, either
        raise refused(text, "a share above 0 and below 1")
    return share


def matching(pattern: re.Pattern[str], wanted: str) -> Callable[[str], str]:
    """Words of a pattern."""

    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise refused(text, wanted)
        return text

    return read


def named_path(text: str) -> tuple[str, Path]:
    """`first=BUNDLE` as its two sides."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise refused(text, "NAME=BUNDLE, for instance first=bundles/first")
    return name, given(path)
