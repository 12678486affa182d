"""Hides a patient's name, number and birth date in what is said of files: names of folders may hold them."""

import re
from collections.abc import Iterable
from typing import Final

#: Stands where something was hidden.
HIDDEN: Final = "[patient]"
#: Shorter words are hidden only where they stand alone, since others hold them by chance.
_LONG: Final = 4
_SHORTEST_NAME, _SHORTEST_NUMBER = 2, 3


def veil(patients: Iterable[tuple[str, ...]]) -> re.Pattern[str] | None:
    """What to hide of patients (name, number, birth date as a header has them); None where they have nothing."""
    words: set[str] = set()
    dates: set[str] = set()
    for name, number, birth in patients:
        for written in name.split("="):  # in letters, ideograms, phonetically
            own = " ".join(written.split("^")[:3])  # not Dr. and Jr.
            parts = [part for part in re.split(r"[\W_]+", own) if part]
            both = {" ".join(parts[:2]), " ".join(parts[1::-1])} if len(parts) > 1 else set()
            words |= {part for part in {*parts, *both} if len(part) >= _SHORTEST_NAME}
        words |= {number} if len(number) >= _SHORTEST_NUMBER else set()
        dates |= _dates(birth)
    longest_first = sorted((word for word in words if re.search(r"[^\W_]", word)), key=lambda word: (-len(word), word))
    alternatives = [*sorted(dates), *map(_pattern, longest_first)]
    return re.compile("|".join(alternatives), re.IGNORECASE) if alternatives else None


def hide(text: str, pattern: re.Pattern[str] | None) -> str:
    """The text with `HIDDEN` wherever the pattern is found."""
    return text if pattern is None else pattern.sub(HIDDEN, text)


def _pattern(word: str) -> str:
    """A word alone; a long one, or one that is not of plain letters, anywhere. Spaces may be any separators."""
    parts = [re.escape(part) for part in re.split(r"[\W_]+", word) if part]
    whole = r"[\W_]*".join(parts)
    alone = word.isascii() and len(word) < _LONG
    return rf"(?<![^\W_]){whole}(?![^\W_])" if alone else whole


def _dates(birth: str) -> set[str]:
    """A birth date (YYYYMMDD) in the orders in which people write dates."""
    found = re.fullmatch(r"(\d{4})\W?(\d\d)\W?(\d\d)", birth)
    if not found:
        return set()
    year, month, day = found.groups()
    between = r"[\W_]?"
    orders = ((year, month, day), (day, month, year), (month, day, year))
    return {between.join(order) for order in orders}
