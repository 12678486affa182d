"""The plan of the house: which room may use which, and where torch stays outside."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lumbar"

#: From the ground up. A room uses rooms of its own floor and below; a new room is given its floor here.
FLOORS = {
    "words": {"labels", "issues", "style", "progress", "terminal", "pool"},
    "arrays": {
        "arguments",
        "card",
        "exchange",
        "files",
        "texts",
        "member",
        "geometry",
        "dicom_arrange",
        "dicom_bits",
        "dicom_consistency",
        "dicom_file",
        "dicom_flaws",
        "dicom_frames",
        "dicom_jpeg",
        "dicom_kinds",
        "dicom_identity",
        "dicom_mixture",
        "dicom_pixels",
        "dicom_subject",
        "dicom_tags",
        "dicom_values",
        "dicom",
        "images",
        "metric",
        "charts",
        "submission",
        "ensemble",
    },
    "study": {
        "study",
        "study_checks",
        "study_copies",
        "tables",
        "windows",
        "canal",
        "severity_table",
        "phantom",
        "spider",
        "spider_tables",
    },
    "stages": {"compute", "pretrained", "keypoints", "grading"},
    "prediction": {"bundle", "convert", "kaggle", "prediction", "report", "pictures", "viewer", "dicom_sr"},
    "training": {"training", "kaggle_pack"},
}
FLOOR_OF = {room: height for height, rooms in enumerate(FLOORS.values()) for room in rooms}
#: Floors on which no file imports torch, not even inside of a function.
WITHOUT_TORCH = ("words", "arrays", "study")
#: Files further up that answer without torch too.
ALSO_WITHOUT_TORCH = ("lumbar.grading.tasks", "train_utils")
#: A file longer than this holds more than one thing; 300 lines are a reason to look.
LONGEST_FILE = 400


def room_of(path: Path) -> str:
    """The room of a file: its module, or the folder directly below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files(rooms: set[str] | None = None) -> list[Path]:
    every = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
    return [path for path in every if rooms is None or room_of(path) in rooms]


def run_time_imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything a file imports, inside of functions too; what only type checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from run_time_imports(node)


def imports_of(path: Path) -> list[str]:
    return list(run_time_imports(ast.parse(path.read_text(encoding="utf-8"))))


def rooms_used_by(path: Path) -> set[str]:
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("lumbar.")}
    return {room for room in used if room in FLOOR_OF} - {room_of(path)}


def test_every_room_has_a_floor():
    assert {room_of(path) for path in files()} <= set(FLOOR_OF)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_arrow_runs_up(path):
    above = {room for room in rooms_used_by(path) if FLOOR_OF[room] > FLOOR_OF[room_of(path)]}
    assert not above, f"{room_of(path)} uses {above}, which lies on a floor above"


def test_the_two_stages_do_not_use_each_other():
    for path in files({"keypoints", "grading"}):
        assert not rooms_used_by(path) & {"keypoints", "grading"}, path


def test_rooms_of_one_floor_do_not_use_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in files():
        graph.setdefault(room_of(path), set()).update(rooms_used_by(path))
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_lower_floors_know_no_torch():
    rooms = set().union(*(FLOORS[floor] for floor in WITHOUT_TORCH))
    for path in files(rooms):
        found = [name for name in imports_of(path) if name.split(".")[0] in ("torch", "torchvision", "timm")]
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_lower_floors_load_no_torch_by_detours():
    rooms = set().union(*(FLOORS[floor] for floor in WITHOUT_TORCH)) & {room_of(path) for path in files()}
    modules = [f"lumbar.{room}" for room in sorted(rooms)] + list(ALSO_WITHOUT_TORCH)
    script = "import importlib, sys\n" + "\n".join(
        f"importlib.import_module({name!r}); assert 'torch' not in sys.modules, {name!r}" for name in modules
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", [*files(), ROOT / "train_utils.py"], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_files_stay_short_enough_to_read(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE
