"""What `fuzz.py` does: files, tables and bundles to start from, how they are changed, what must hold of each."""

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Values that break a careless reader when they stand for a length, a size or a number.
NASTY_BYTES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\xfe\xff\xff\xff",
    b"\x60\xea\x60\xea",
)
NASTY_VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 7, 15, 33, 255, 60000, 65535),
    *("", "nan", "inf", "-1e308", "1e999", "x" * 70, "1\\2\\3\\4\\5\\6\\7", None),
)


def expect(holds: object, what: str) -> None:
    """What must hold of every mutation."""
    if not holds:
        raise AssertionError(what)


# -- mutations --------------------------------------------------------------------------------------------------------


def mutate_bytes(content: bytes, dealer: random.Random) -> bytes:
    """One to four changes of bytes, runs, four-byte numbers or the length."""
    data = bytearray(content)
    for _ in range(dealer.randint(1, 4)):
        if not data:
            break
        place = dealer.choice((dealer.randrange(len(data)), dealer.randrange(min(len(data), 1500))))
        match dealer.randrange(8):
            case 0:
                data[place] ^= 1 << dealer.randrange(8)
            case 1:
                data[place] = dealer.randrange(256)
            case 2:
                data[place : place + 4] = dealer.choice(NASTY_BYTES)
            case 3:
                data[place : place + 2] = dealer.choice(NASTY_BYTES)[:2]
            case 4:
                del data[place : place + dealer.choice((1, 2, 8, 100, 5000))]
            case 5:
                data[place:place] = dealer.randbytes(dealer.choice((1, 2, 8, 100)))
            case 6:
                start = dealer.randrange(len(data))
                data[place:place] = data[start : start + dealer.choice((4, 64, 1024))]
            case 7:
                del data[dealer.randrange(len(data)) :]
    return bytes(data)


def mutate_tags(content: bytes, dealer: random.Random) -> bytes:
    """One to three tags deleted or given another value, anywhere in the dataset; bytes where that cannot be written."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset

    dataset = dcmread(io.BytesIO(content))
    for _ in range(dealer.randint(1, 3)):
        holder: Dataset = dataset if dealer.random() > 0.1 else dataset.file_meta
        while True:
            element = dealer.choice(list(holder))
            if element.VR != "SQ" or not element.value or dealer.random() < 0.2:
                break
            holder = dealer.choice(element.value)
            if not len(holder):
                return mutate_bytes(content, dealer)
        if dealer.random() < 0.2:
            del holder[element.tag]
        else:
            element.value = dealer.choice(NASTY_VALUES)
        if not len(holder):
            break
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def mutate_dicom(content: bytes, dealer: random.Random) -> bytes:
    if dealer.random() < 0.6:
        return mutate_bytes(content, dealer)
    try:
        return mutate_tags(content, dealer)
    except Exception:  # noqa: BLE001 - pydicom refuses to write much of it, in many ways
        return mutate_bytes(content, dealer)


def mutate_text(content: bytes, dealer: random.Random) -> bytes:
    """A cell, a line or a key of a table or a JSON file exchanged, or bytes."""
    if dealer.random() < 0.4:
        return mutate_bytes(content, dealer)
    text = content.decode("utf-8", "replace")
    mark = dealer.choice((",", "\n", ":", '"', " "))
    parts = text.split(mark)
    for _ in range(dealer.randint(1, 3)):
        place = dealer.randrange(len(parts))
        nasty = dealer.choice(
            (*(str(value) for value in NASTY_VALUES), '"', "[]", "{}", "1e400", "../../x", "9" * 30, "\0")
        )
        match dealer.randrange(4):
            case 0:
                parts[place] = nasty
            case 1:
                parts.insert(place, dealer.choice(parts))
            case 2 if len(parts) > 1:
                del parts[place]
            case _:
                parts[place] += nasty
    return mark.join(parts).encode("utf-8", "surrogatepass")


# -- starting points and what must hold -------------------------------------------------------------------------------


def dicom_seeds(folder: Path) -> list[bytes]:
    """Whole files of many kinds."""
    import numpy as np
    import pydicom.data
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        RLELossless,
    )

    from lumbar.phantom.dataset import write_phantoms
    from tests.support.tiny_dicom import image, merge_into_enhanced, write_slice, write_stack

    write_phantoms(folder / "plain", 1, 5, matrices=(64,), sagittal_slices=(5, 5), stack_slices=(2, 2))
    write_phantoms(folder / "rle", 1, 6, matrices=(64,), sagittal_slices=(5, 5), stack_slices=(2, 2), compressed=True)
    paths = [path for name in ("plain", "rle") for path in sorted((folder / name).rglob("*.dcm"))[::4]]
    native = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    for number, syntax in enumerate((*native, RLELossless, JPEG2000Lossless)):
        paths.append(write_slice(folder / "small" / f"{number}.dcm", image(number), np.zeros(3), syntax=syntax))
    for number, syntax in enumerate((ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)):
        stack = write_stack(folder / f"enhanced{number}", [0.0, 4.0, 8.0], RescaleSlope="2", RescaleIntercept="1")
        paths.append(merge_into_enhanced(stack, syntax))
    real = ROOT.parent / "shared" / "real" / "cc0_study"
    paths += sorted(real.rglob("*.dcm"))[::12]
    own = Path(pydicom.data.__file__).parent / "test_files"
    foreign = [path for path in sorted(own.glob("*.dcm")) if path.stat().st_size < 200_000]
    paths *= 2 * len(foreign) // len(paths)  # two out of three mutations start from a file that can be read
    return [path.read_bytes() for path in (*paths, *foreign)]


def read_changed(folder: Path, description: str) -> str:
    """Read the one file of a series folder; what must hold of it, whatever is in there."""
    import numpy as np

    from lumbar.dicom.series import read_series

    series, issues = read_series(folder, 7, description, 1)
    if series is None:
        expect(issues, "neither a series nor an Issue")
        return "issue"
    for item in series.slices:
        steps = item.affine[:3, :2] / np.linalg.norm(item.affine[:3, :2], axis=0)
        expect(np.isfinite(item.affine).all() and abs(steps[:, 0] @ steps[:, 1]) < 0.01, "broken geometry")
        expect(min(item.shape) >= 16 and not item.pixels.flags.writeable, "pixels too small or not read-only")
    return "series and issues" if issues else "series"


def dicom_attack(work: Path) -> Callable[[random.Random], str]:
    seeds = dicom_seeds(work / "seeds")
    folder = work / "series"
    folder.mkdir()

    def attack(dealer: random.Random) -> str:
        (folder / "1.dcm").write_bytes(mutate_dicom(dealer.choice(seeds), dealer))
        return read_changed(folder, dealer.choice(("Axial T2", "Sagittal T1")))

    return attack


def table_attack(work: Path) -> Callable[[random.Random], str]:
    import numpy as np
    import pandas as pd

    from lumbar.issues import InputError
    from lumbar.labels import LABEL_COLUMNS, row_ids
    from lumbar.metric import read_labels, read_predictions
    from lumbar.phantom.dataset import write_phantoms
    from lumbar.study.study import open_data

    root = work / "tables"
    write_phantoms(root, 2, 5, matrices=(64,), sagittal_slices=(5, 5), stack_slices=(2, 2))
    shutil.rmtree(root / "train_images")
    (root / "train_images").mkdir()
    rows = pd.DataFrame(np.full((25, 3), 1 / 3), columns=["normal_mild", "moderate", "severe"])
    rows.insert(0, "row_id", list(row_ids(11)))
    rows.to_csv(root / "submission.csv", index=False)
    assert len(LABEL_COLUMNS) == len(rows)
    seeds = {path.name: path.read_bytes() for path in sorted(root.glob("*.csv"))}

    def attack(dealer: random.Random) -> str:
        name = dealer.choice(sorted(seeds))
        (root / name).write_bytes(mutate_text(seeds[name], dealer))
        try:
            if name == "submission.csv":
                read_predictions(root / name)
            elif name == "train.csv" and dealer.random() < 0.5:
                read_labels(root / name)
            else:
                open_data(root)
        except InputError as error:
            expect(name in str(error) and "\n" not in str(error), str(error))
            return "one sentence"
        finally:
            (root / name).write_bytes(seeds[name])
        return "table"

    return attack


def bundle_attack(work: Path) -> Callable[[random.Random], str]:

    from lumbar.bundle.bundle import load_bundle
    from lumbar.bundle.manifest import MANIFEST
    from lumbar.files.write import sha256
    from lumbar.issues import InputError
    from tests.support.worlds import tiny_bundle

    folder = work / "bundle"
    members = [member.name for member in tiny_bundle(folder).manifest.members]
    seeds = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def attack(dealer: random.Random) -> str:
        member = dealer.choice(members)
        name = MANIFEST if dealer.random() < 0.6 else f"{member}.safetensors"
        path = folder / name
        change = mutate_text if name == MANIFEST else mutate_bytes
        path.write_bytes(change(seeds[name], dealer))
        if name != MANIFEST:  # as whoever changes the file on purpose would do, so that more than the hash is tested
            manifest = json.loads(seeds[MANIFEST])
            next(one for one in manifest["members"] if one["name"] == member)["sha256"] = sha256(path)
            (folder / MANIFEST).write_text(json.dumps(manifest))
        try:
            bundle = load_bundle(folder)
            for one in bundle.manifest.members:
                if one.name == member or name == MANIFEST:
                    bundle.network(one.name)
        except InputError as error:
            expect("\n" not in str(error), str(error))
            return "one sentence"
        finally:
            for other in (MANIFEST, name):
                (folder / other).write_bytes(seeds[other])
        return "bundle"

    return attack


ATTACKS = {"dicom": dicom_attack, "table": table_attack, "bundle": bundle_attack}
