"""The plan of the house: which room may use which, where torch stays outside, and how long a file may grow.

Floors and forbidden arrows are data; each test lists every offender at once.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from lumbar import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lumbar"

#: From the ground up. A room uses rooms of its own floor and below; a new room is given its floor here.
FLOORS = {
    "words": {"labels", "issues", "terminal", "geometry"},
    "files": {"files"},
    "dicom": {"dicom", "metric", "submission"},
    "drawing": {"drawing"},
    "ensemble": {"ensemble"},
    "recipe": {"arguments", "recipe"},
    "made studies": {"phantom", "spider"},
    "study": {"study", "compute", "backbones"},
    "stages": {"keypoints", "grading"},
    "bundle": {"bundle"},
    "work": {"prediction", "training", "kaggle"},
    "report": {"report", "__main__"},
}
FLOOR_OF = {room: height for height, rooms in enumerate(FLOORS.values()) for room in rooms}
#: Arrows within a floor that are forbidden all the same: the first may not use the second.
FORBIDDEN = {
    ("keypoints", "grading"): "the stages meet in prediction and training only",
    ("grading", "keypoints"): "the stages meet in prediction and training only",
    ("prediction", "training"): "a bundle is all that prediction needs",
    ("kaggle", "training"): "what is packed is code and a bundle",
    ("phantom", "spider"): "each makes studies from its own source",
    ("study", "compute"): "what a network sees is told without torch",
    ("study", "backbones"): "what a network sees is told without torch",
}
#: Rooms in which no file imports torch, not even inside of a function; and files elsewhere that answer without it.
LOWER = ("words", "files", "dicom", "drawing", "ensemble", "recipe", "made studies")
WITHOUT_TORCH = {"study"}.union(*(FLOORS[floor] for floor in LOWER))
ALSO_WITHOUT_TORCH = ("lumbar.grading.tasks", "train_utils")
TORCH = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "accelerate")
#: What takes long to load and plays no part in prediction: other commands' libraries, torch's compiler.
USELESS = ("scipy", "matplotlib", "highdicom", "accelerate", "openvino", "torch._dynamo", "torch.distributed.elastic")
#: A file longer than this holds more than one thing; 300 lines are a reason to look.
LONGEST_FILE = 400
#: Files and folders directly below the package.
MOST_ROOMS = 26


def room_of(path: Path) -> str:
    """The room of a file: its module, or the folder directly below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def named(path: Path) -> str:
    """Dotted name of a module, `lumbar.dicom.file`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {named(path) for path in files()}


@cache
def parsed(path: Path) -> ast.Module:
    """A file as Python understands it."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, inside of functions and for type checkers too.

    Of this package the module that an import means: `from lumbar.dicom import file` is `lumbar.dicom.file`. A
    module's name as text counts too, since registries import by it.
    """
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else f"{node.module}"
        elif isinstance(node, ast.Constant) and node.value in MODULES:
            yield str(node.value)


@cache
def arrows() -> dict[str, set[str]]:
    """Modules of this package that each of them imports."""
    return {named(path): set(imports_of(path)) & MODULES for path in files()}


def rooms_used_by(path: Path) -> set[str]:
    return {name.split(".")[1] for name in arrows()[named(path)]} - {room_of(path)}


def test_rooms_use_rooms_of_their_own_floor_and_below() -> None:
    wrong = [f"{room} has no floor" for room in sorted({room_of(path) for path in files()} - set(FLOOR_OF))]
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    wrong += [f"{len(entries)} entries below lumbar/, {MOST_ROOMS} are enough"] if len(entries) > MOST_ROOMS else []
    for path in files():
        room = room_of(path)
        for used in sorted(rooms_used_by(path)):
            if FLOOR_OF[used] > FLOOR_OF[room]:
                wrong.append(f"{named(path)} uses {used}, which lies on a floor above")
            elif (room, used) in FORBIDDEN:
                wrong.append(f"{named(path)} uses {used}: {FORBIDDEN[room, used]}")
    assert not wrong, "\n".join(wrong)


def test_no_files_and_no_rooms_use_each_other_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for path in files():
        rooms.setdefault(room_of(path), set()).update(rooms_used_by(path))
    circles = []
    for graph in (arrows(), rooms):
        left = {name: set(used) for name, used in graph.items()}
        while True:
            try:
                TopologicalSorter(left).prepare()
                break
            except CycleError as error:
                circle = error.args[1]
                circles.append(" -> ".join(reversed(circle)))
                left[circle[1]].discard(circle[0])
    assert not circles, "\n".join(circles)


def test_lower_floors_know_no_torch() -> None:
    wrong = []
    for path in files():
        if room_of(path) in WITHOUT_TORCH:
            wrong += [f"{named(path)} imports {name}" for name in imports_of(path) if name.split(".")[0] in TORCH]
    assert not wrong, "\n".join(wrong)
    modules = [name for name in sorted(MODULES) if name.split(".")[1] in WITHOUT_TORCH] + list(ALSO_WITHOUT_TORCH)
    script = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n        sys.exit(f'{name} loads torch by a detour')"
    )
    command = [sys.executable, "-c", script, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prediction_loads_nothing_that_it_does_without() -> None:
    """A small job takes little longer than what it imports."""
    script = (
        "import sys, lumbar.bundle.bundle, lumbar.prediction.job, lumbar.prediction.outputs\n"
        f"sys.exit(' '.join(name for name in {USELESS!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr.strip(), done.stderr


def test_files_stay_short_enough_to_read_and_faces_stay_empty() -> None:
    wrong = []
    for path in [*files(), ROOT / "train_utils.py"]:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_FILE:
            wrong.append(f"{path.relative_to(ROOT)} has more than {LONGEST_FILE} lines")
        if path.name == "__init__.py":
            body = ast.parse(text).body
            if not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body):
                wrong.append(f"{path.relative_to(ROOT)} holds more than a docstring")
    assert not wrong, "\n".join(wrong)


#: Where a detector is told from a grader beside `training.stages`, and how often: members of both stages stand in one
#: list there, and everybody behind has them apart.
SORTING = {"lumbar.bundle.manifest": 2, "lumbar.bundle.convert.original": 1}
OF_ONE_STAGE = {"DetectorSpec", "GraderSpec", "DetectorMember", "GraderMember", "DetectorStage", "GraderStage"}


def sorts(path: Path) -> int:
    """How often a file asks for the stage of a spec or a member: its class, or the word of its stage."""
    count = 0
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            count += any(getattr(name, "id", "") in OF_ONE_STAGE for name in ast.walk(node.args[1]))
        elif isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            count += any(getattr(side, "attr", "") == "stage" for side in sides)
            count += any(getattr(side, "id", "") in OF_ONE_STAGE for side in sides)
        elif isinstance(node, ast.MatchClass):
            count += getattr(node.cls, "id", "") in OF_ONE_STAGE
    return count


def test_detectors_are_told_from_graders_in_one_place() -> None:
    found = {named(path): sorts(path) for path in files()}
    elsewhere = {name: count for name, count in found.items() if count and name != "lumbar.training.stages"}
    assert elsewhere == SORTING


#: What tests replace although it is nobody's business but its own file's, and why nothing public would do.
PATCHED = {
    "lumbar.compute.compiled.MOST_MOVED": "OpenVINO moves no answer by more than rounding does",
    "lumbar.compute.device._try_kernel": "no GPU is there to fail",
    "lumbar.compute.process_pool.POSSIBLE": "systems without fork",
    "lumbar.dicom.compressed._decode_jpeg": "must not be reached by files that lie",
    "lumbar.ensemble.nested.ENOUGH_STUDIES": "two hundred studies take minutes",
    "lumbar.ensemble.raw_trees.XGBOOST_ROUNDS": "ten thousand rounds take minutes",
    "lumbar.files.exchange._building_site": "mount points need root",
    "lumbar.prediction.networks.LARGE": "small networks compile in seconds",
    "lumbar.prediction.predictor.TOGETHER": "a group of two shows what one of sixteen would",
    "lumbar.prediction.schedule.MANY": "few studies show what many would",
}


def patched(path: Path) -> Iterator[str]:
    """Dotted names in the package that a test file replaces: private ones, constants, and names imported there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)) or len(node.args) < 2:
            continue
        if node.func.attr not in ("setattr", "object"):
            continue
        target, name = node.args[0], getattr(node.args[1], "value", None)
        if isinstance(target, ast.Constant):
            yield str(target.value)
        elif isinstance(target, ast.Name) and isinstance(name, str) and known.get(target.id) in MODULES:
            yield f"{known[target.id]}.{name}"


def test_tests_replace_public_functions_where_they_are_defined() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for dotted in patched(path):
            module, _, name = dotted.rpartition(".")
            if module not in MODULES or dotted in PATCHED:
                continue
            tree = parsed((ROOT / Path(*module.split("."))).with_suffix(".py"))
            defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            if name.startswith("_") or name not in defined:
                wrong.append(f"{path.name} replaces {dotted}")
    assert not wrong, "\n".join(wrong)
    assert len(PATCHED) <= 10


def test_the_version_is_the_same_wherever_it_stands() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in cited
    assert f"\n## {__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
