"""The model card: what a bundle's manifest says about data, training, figures and limits, as Markdown."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.manifest import MANIFEST, Manifest
from lumbar.files.write import json_text, replacing, write_text, writing_into
from lumbar.issues import NOTICE
from lumbar.labels import condition_title
from lumbar.recipe.card import Card, Measured, read_measured
from lumbar.recipe.evidence import complete

#: Name of the card in the bundle's folder.
CARD: Final = "README.md"


def write_card(folder: Path, measured: Sequence[Path] = ()) -> Path:
    """Write a bundle's card beside its manifest, after the tables of these files went into the manifest.

    Raises InputError where the bundle or a file cannot be read, or where the folder holds a README.md that is no card
    of this bundle.
    """
    bundle = newer = load_bundle(folder)
    tables = [table for path in measured for table in read_measured(path)]
    if tables:
        manifest = bundle.manifest.model_copy(update={"card": bundle.manifest.card.with_measured(tables)})
        text = json_text(manifest.model_dump(mode="json"))
        newer = replace(bundle, manifest=manifest, identity=hashlib.sha256(text.encode()).hexdigest())
    path = Path(folder) / CARD
    cards = [
        card_text(known).encode(errors="backslashreplace") for known in (bundle, newer)
    ]  # a call that was killed left the newer one
    with writing_into(folder):
        with replacing(path, lambda there: there.read_bytes() in cards) as temporary:
            temporary.write_bytes(cards[-1])
        if tables:
            write_text(text, Path(folder) / MANIFEST)
    return path


def card_text(bundle: Bundle) -> str:
    """The card of a bundle, from its manifest alone."""
    manifest = bundle.manifest
    card = manifest.card
    lines = ["# Model card", "", f"**{NOTICE}**", ""]
    lines += [f"{manifest.description}.".replace("..", "."), ""] if manifest.description else []
    size = sum((bundle.folder / member.file).stat().st_size for member in manifest.members) / 2**20
    facts = f"Bundle `{bundle.identity[:12]}`, {size:.1f} MiB of weights, blend: {manifest.blend.method}."
    lines += [facts + (f" Licence: {card.licence}." if card.licence else ""), ""]
    lines += _section("What it must not be used for", [f"* {limit}" for limit in card.limits])
    lines += _section("What the severities rest on", _evidence(card))
    lines += _section("Members", _members(manifest))
    lines += _section("Data", _data(card))
    for table in card.measured:
        lines += _section(table.title, [*_measured(table)])
    lines += _section("Making it again", ["```sh", *card.commands, "```"] if card.commands else [])
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(columns)
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)]


def _members(manifest: Manifest) -> list[str]:
    rows = []
    for member in manifest.members:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in member.scores.items())
        fold = "all" if member.fold is None else str(member.fold)
        spec = member.spec
        what = f"{spec.network}: {spec.subject}, {spec.backbone}, {spec.pixels}"
        began = f", beginning with {member.began}" if member.began else ""
        rows.append((member.name, what, fold, (member.saw or "not said") + began, scores))
    return _table(("member", "network", "fold held out", "trained on", "scores on that fold"), rows)


def _evidence(card: Card) -> list[str]:
    """A line for each condition; none where the manifest tells nothing of any."""
    told = complete(card.evidence) if card.evidence else {}
    lines = [f"* {condition_title(condition)}: {one.says()}." for condition, one in told.items()]
    commands = list(dict.fromkeys(test.command for one in told.values() for test in one.tested if test.command))
    return [*lines, *(line for command in commands for line in ("", f"`{command}`"))]


def _data(card: Card) -> list[str]:
    lines = _table(("data", "used", "licence", "credit"), [(s.name, s.used, s.licence, s.credit) for s in card.data])
    if not card.data:
        return []
    if card.held_out_patients:
        patients = ", ".join(str(patient) for patient in card.held_out_patients)
        lines += ["", f"Patients of the real data that no member was trained on: {patients}."]
    return lines


def _measured(table: Measured) -> Iterator[str]:
    if table.command:
        yield from (f"`{table.command}`", "")
    yield from _table(table.columns, [[_cell(value) for value in row] for row in table.rows])
    if table.note:
        yield from ("", table.note)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.3g}"
