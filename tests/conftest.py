"""What the tests share: where the real data lies, no network, the same hypothesis examples in every run."""

import gc
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

#: Root of the checkout.
ROOT = Path(__file__).resolve().parents[1]
#: Real data and recorded results, which are not part of the project; LUMBAR_SHARED may name another place.
SHARED = Path(os.environ.get("LUMBAR_SHARED", ROOT.parent / "shared"))

settings.register_profile(
    "lumbar",
    derandomize=True,
    max_examples=25,
    deadline=None,  # a busy machine is not a fault
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("long", settings.get_profile("lumbar"), max_examples=100)
settings.load_profile("lumbar")

# Hubs answer from this environment, in subprocesses too: nothing is fetched, and nothing waits for an answer.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="agg", TQDM_DISABLE="1")
# One thread a process of tests: two processes fill two cores. Read by torch, OpenBLAS and OpenMP when they are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait for each other sleep: on a busy machine, tiny networks are ten times slower where they spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_configure(config: pytest.Config) -> None:
    """Property-based tests take more examples where the slow tests are asked for; workers share what they draw."""
    if re.search(r"(?<!not )\bslow\b", config.option.markexpr):
        settings.load_profile("long")
    if not hasattr(config, "workerinput"):
        os.environ["LUMBAR_TEST_DRAWINGS"] = tempfile.mkdtemp(prefix="lumbar-drawings-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing that the workers shared stays."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("LUMBAR_TEST_DRAWINGS", ""), ignore_errors=True)


#: Files of tests that take longest, slow ones included: they begin first, so that no worker waits for another's at the
#: end. The others follow by name.
DEAREST = (
    "recipes metamorphic training_run training_again blend kaggle_session parity compiled parity_ninth together damage "
    "clean_up systems stackers pretrained_hub cluster kaggle_rehearsal job training_loop engine dicom_sr convert"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark property-based tests, which the long run takes too; sort the files."""
    for item in items:
        if hasattr(getattr(item, "obj", None), "hypothesis"):
            item.add_marker("property")
    first = {f"test_{name}": place for place, name in enumerate(DEAREST.split())}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


def shared_path(relative: str) -> Path:
    """A file or folder of the real data; the test skips, with the reason, where it is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs real data that does not ship: ../shared/{relative} is missing")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_tables() -> Path:
    """Folder of the real label, series and keypoint tables and of the seven out-of-fold prediction tables."""
    return shared_path("real/tables")


@pytest.fixture(scope="session")
def cc0_study() -> Path:
    """Folder with one real lumbar study (1001) in the competition layout."""
    return shared_path("real/cc0_study")


@pytest.fixture(scope="session")
def spider() -> Path:
    """Folder of the SPIDER slices, masks and tables."""
    return shared_path("real/spider")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the intermediate results recorded from the original ninth-place system."""
    return shared_path("parity")


@pytest.fixture(scope="module", autouse=True)
def long_lived() -> None:
    """What was imported before a file's tests is not looked through by every garbage collection in them.

    Training collects garbage after every member, and libraries' objects by the million make that half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def imported_late(request: pytest.FixtureRequest) -> None:
    """Nor is what a slow test before has imported: libraries load much when they are first called."""
    if request.node.get_closest_marker("slow"):
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="module")
def networks_kept() -> Iterator[None]:
    """A bundle's networks are built once for all runs of a file: a quarter of a second each, however small they are."""
    from tests.support.kept import networks_kept as kept

    with kept():
        yield


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches beyond this machine fails at once; processes of one test may talk over the loopback."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"a test reached for the network: {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
