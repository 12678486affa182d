"""What a reader must know of a bundle beside its members, as checked data: data, licences, commands, figures, limits.

A recipe states what is known before training, the benchmarks add what they measured, and the manifest carries both;
`lumbar.bundle.bundle.card` writes them down. Nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from lumbar.files.read import read_json
from lumbar.files.write import write_json
from lumbar.issues import InputError
from lumbar.labels import Condition
from lumbar.recipe.evidence import Evidence
from lumbar.recipe.strict import Strict
from lumbar.recipe.wording import describe


class Source(Strict):
    """Data that members saw: its name, what of it, its licence and whom to credit."""

    name: str
    used: str
    licence: str
    credit: str = ""


class Measured(Strict):
    """One table of figures: what was measured, by which command, and what it says."""

    title: str
    command: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[str | float | None, ...], ...] = ()
    note: str = ""


class Card(Strict):
    """What a reader must know of a bundle beside its members."""

    LATER = frozenset({"evidence"})

    licence: str = ""
    data: tuple[Source, ...] = ()
    #: Patients of the real data that no member was trained on.
    held_out_patients: tuple[int, ...] = ()
    #: The commands that make the bundle again from nothing, in order.
    commands: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    #: What each condition's severities rest on; of one that is not named nothing is known.
    evidence: dict[Condition, Evidence] = {}

    def with_measured(self, tables: Sequence[Measured]) -> "Card":
        """The card with these tables; one of the same title is replaced in its place."""
        fresh = {table.title: table for table in tables}
        kept = [fresh.pop(table.title, table) for table in self.measured]
        return self.model_copy(update={"measured": (*kept, *fresh.values())})


def read_measured(path: Path) -> list[Measured]:
    """Tables from a JSON file, as the benchmarks write them. Raises InputError naming the file."""
    try:
        return TypeAdapter(list[Measured]).validate_python(read_json(path, "give the file that a benchmark wrote"))
    except ValidationError as error:
        raise InputError(
            f"{path}: no tables of figures ({describe(error)}); give the file that a benchmark wrote"
        ) from error


def write_measured(tables: Sequence[Measured], path: Path) -> None:
    """Tables as a JSON file for `read_measured`."""
    write_json([table.model_dump(mode="json") for table in tables], path)
