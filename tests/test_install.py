"""`pip install .` gives a package with all that it needs and a command of its own."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import train_utils
from lumbar import __version__


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train_utils.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"lumbar {__version__}\n"


@pytest.mark.slow
def test_a_wheel_holds_the_package_its_pages_and_the_command(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools 77")
    copy = tmp_path / "copy"
    shutil.copytree(root / "lumbar", copy / "lumbar", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train_utils.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy / name)
    words = ["pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("lumbar-*.whl")
    assert wheel.name.split("-")[1] == __version__
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "lumbar = train_utils:main" in archive.read(entry).decode()
    package = {path.relative_to(root).as_posix() for path in (root / "lumbar").rglob("*") if path.is_file()}
    wanted = {name for name in package if "__pycache__" not in name} | {"train_utils.py"}
    assert wanted <= names, sorted(wanted - names)
