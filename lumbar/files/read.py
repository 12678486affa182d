"""What a user gives as text: JSON, TOML and CSV, each read as it is meant or refused in one sentence."""

import codecs
import csv
import io
import json
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from lumbar.issues import InputError, cut, few
from lumbar.labels import LARGEST_ID

#: More than any such file has; what is larger is something else.
_MOST_BYTES: Final = 1 << 28
#: Lists and tables within each other; the deepest file here has 9.
_DEEPEST: Final = 64
#: What programs write instead of commas.
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_bytes(path: Path | str, remedy: str) -> bytes:
    """An ordinary file's content; InputError, which ends in `remedy`, where it is none, too large or unreadable."""
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to read a pipe or a device may take for ever
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
            raise InputError(f"{path}: cannot be read (it is {what}); {remedy}")
        if found.st_size > _MOST_BYTES:
            raise InputError(f"{path}: {found.st_size >> 20} MiB are too many for such a file; {remedy}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from error


def read_text(path: Path | str, remedy: str) -> str:
    """An ordinary file's text, in UTF-8, or in UTF-16 with its mark; InputError as `read_bytes`."""
    return decoded(read_bytes(path, remedy), str(path))


def decoded(raw: bytes, source: str) -> str:
    """Bytes of a file as text without its byte order mark; InputError where they are none."""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} cannot be read as text (byte {error.start + 1} is no UTF-8); save it as UTF-8"
        ) from error
    if wide and not text[:1].isascii():
        raise InputError(f"{source} cannot be read as text (it is no UTF-16, as it says); save it as UTF-8")
    if "\0" in text:
        raise InputError(
            f"{source} cannot be read as text (character {text.index(chr(0)) + 1} is zero); save it as UTF-8"
        )
    return text


def parse_json(text: str, source: str, remedy: str) -> Any:
    """JSON as Python has it, without NaN, infinity and keys that stand twice; InputError names the source."""
    return _parsed(
        lambda: json.loads(text, parse_constant=_no_number, object_pairs_hook=_distinct), "JSON", source, remedy
    )


def parse_toml(text: str, source: str, remedy: str) -> dict[str, Any]:
    """TOML as Python has it; InputError names the source."""
    return _parsed(lambda: tomllib.loads(text), "valid TOML", source, remedy)


def read_json(path: Path | str, remedy: str) -> Any:
    """A JSON file; InputError where it cannot be read or is none."""
    return parse_json(read_text(path, remedy), str(path), remedy)


def _parsed(parse: Callable[[], Any], kind: str, source: str, remedy: str) -> Any:
    try:
        value = parse()
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{source}: not {kind} (nested too deeply or too large); {remedy}") from error
    except ValueError as error:  # whatever a parser says of a text
        raise InputError(f"{source}: not {kind} ({cut(str(error), 120)}); {remedy}") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for one in level for child in _children(one)]
    if level:  # what comes after the parser walks down, too
        raise InputError(
            f"{source}: not {kind} as it is written here (nested deeper than {_DEEPEST}); write it flatter"
        )
    return value


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; where a key stands twice, a reader must not choose which one counts."""
    table = dict(pairs)
    if len(table) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, _ in pairs if counts[key] > 1)
        raise ValueError(f"the key {cut(repr(twice))} stands in one object {counts[twice]} times")
    return table


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def read_texts(path: Path | str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file that must have `columns` (more are kept) with every field as text, indexed by line number.

    A byte order mark, spaces around fields, blank lines and separators at the end of a line play no part. InputError
    where the file is missing, is no table, lacks a column or has one twice, or a line does not fit the header.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    text = read_text(path, "give a CSV table")
    lines = list(_lines(text, path))
    if not lines:
        raise InputError(f"{path} cannot be read as a CSV table (it is empty); check the file")
    names = lines[0][1]
    _check_columns(names, columns, text, path)
    named = len("\0".join(names).rstrip("\0").split("\0"))  # names at the end may be empty
    rows, places = [], []
    for line, fields in lines[1:]:
        if len(fields) < named or any(fields[len(names) :]):
            raise InputError(
                f"{path}: line {line} has {len(fields)} fields, the header {named}; quote texts that hold commas, or "
                "correct the line"
            )
        rows.append([*fields, *[""] * len(names)][: len(names)])
        places.append(line)
    frame = pd.DataFrame(rows, columns=range(len(names)), index=places, dtype=object)
    empty = [place for place, name in enumerate(names) if not name and not frame[place].astype(bool).any()]
    frame.columns = pd.Index([name or f"Unnamed: {place}" for place, name in enumerate(names)], dtype=object)
    return frame.iloc[:, [place for place in range(len(names)) if place not in empty]]


def _lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank."""
    csv.field_size_limit(_MOST_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    begin = 1
    try:
        for fields in reader:
            plain = [field.strip() for field in fields]
            if any(plain):
                yield begin, plain
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path} cannot be read as a CSV table (the row that begins in line {begin}: {error}); check its quotes"
        ) from error


def _check_columns(names: list[str], columns: Sequence[str], text: str, path: Path) -> None:
    if missing := [column for column in columns if column not in names]:
        header = text.lstrip().partition("\n")[0]
        for separator, word in _SEPARATORS.items():
            if set(columns) <= {name.strip(' "\r') for name in header.split(separator)}:
                raise InputError(f"{path}: its columns are separated by {word}; save it as CSV with commas")
        raise InputError(f"{path} lacks the column(s) {few(missing, 5)}; give the right table")
    counts = Counter(names)
    if twice := [column for column in columns if counts[column] > 1]:
        raise InputError(f"{path} has the column(s) {few(twice)} more than once; keep one of each")


def read_table(path: Path | str, columns: Sequence[str], *, text: Sequence[str] = ()) -> pd.DataFrame:
    """`read_texts` with numbers as numbers and NaN where a field is empty; the columns in `text` stay text."""
    frame = read_texts(path, columns)
    kinds = {name: "str" for name in frame.columns if name in text}
    # all quoted, since pandas ends a row at a bare carriage return outside of quotes
    plain = io.StringIO(frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL))
    return pd.read_csv(plain, dtype=kinds, low_memory=False)


def whole_numbers(values: pd.Series, path: Path | str) -> pd.Series:
    """Ids like 4003253, 4003253.0 or 0004003253 as int64; InputError names the first other value."""
    for row, text in enumerate(plain_texts(values), 1):
        if why := why_no_id(text):
            where = f"{values.name} {cut(text)!r} in data row {row}"
            raise InputError(f"{path}: {where} {why}; correct the row or take it out")
    numbers = [int(text.partition(".")[0]) for text in plain_texts(values)]
    return pd.Series(numbers, index=values.index, name=values.name, dtype=np.int64)


def plain_texts(values: pd.Series) -> pd.Series:
    """Values as text without spaces around, empty where there is none."""
    return values.astype(object).where(values.notna(), "").astype(str).str.strip()


def why_no_id(text: str) -> str:
    """Why a text is no id, to be read behind it; empty where it is one."""
    if not re.fullmatch(r"[0-9]+(\.0*)?", text):
        return "is not a whole number"
    digits = text.partition(".")[0].lstrip("0")
    too_large = len(digits) > len(str(LARGEST_ID)) or int(digits or 0) > LARGEST_ID
    return f"is larger than ids can be ({LARGEST_ID})" if too_large else ""
