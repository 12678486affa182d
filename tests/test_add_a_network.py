"""The walk through `docs/add_a_network.md` works as it stands there: file, registry, recipe, contract."""

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import train_utils
from lumbar.bundle.network import build_network, example
from lumbar.compute.forward import asked
from lumbar.grading.networks import registry
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from tests.support.contract import GraderContract

NAME = "lumbar.grading.networks.slice_mean"


def blocks(root: Path) -> dict[str, str]:
    """The page's code by its first line, and its TOML."""
    found = re.findall(
        r"```(python|toml)\n(.*?)```", (root / "docs/add_a_network.md").read_text(encoding="utf-8"), re.S
    )
    return {"toml" if kind == "toml" else code.splitlines()[0].removeprefix("# "): code for kind, code in found}


@pytest.fixture(autouse=True)
def added(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's network, as if its file and its line were there."""
    page = blocks(root)
    module = types.ModuleType(NAME)
    exec(compile(page["lumbar/grading/networks/slice_mean.py"], "add_a_network.md", "exec"), vars(module))
    scope: dict[str, object] = {}
    line = page["lumbar/grading/networks/registry.py"].replace("NETWORKS: Final[Mapping[str, str]]", "NETWORKS")
    exec(compile(line, "add_a_network.md", "exec"), scope)
    networks = scope["NETWORKS"]
    assert isinstance(networks, dict)
    assert registry.NETWORKS.items() <= networks.items(), "the page shows an older registry"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, NAME, module)
        for word, place in networks.items():
            patch.setitem(registry.NETWORKS, word, place)  # type: ignore[arg-type]
        yield


class TestThePagesNetwork(GraderContract):
    """The contract, but for stored numbers, which the page leaves to whoever adds a network."""

    spec = GraderSpec(
        task="global",
        network="slice_mean",
        backbone_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        image_size=32,
        slices=3,
    )

    def test_known_weights_give_the_stored_output(self) -> None:
        output = asked(build_network(self.spec).eval(), self.images())
        assert output.isfinite().all()


def test_the_pages_recipe_names_networks_that_can_be_built(root: Path, tmp_path: Path) -> None:
    stage1 = '[stage1.members.t2]\nseries_type = "sagittal_t2"\n'
    (tmp_path / "own.toml").write_text(stage1 + blocks(root)["toml"], encoding="utf-8")
    recipe = load_recipe(tmp_path / "own.toml")
    assert {member.spec.network for member in recipe.stage2.members.values()} == {"slice_mean"}
    for member in recipe.stage2.members.values():
        assert asked(build_network(member.spec).eval(), example(member.spec)).shape == (1, 1, 1, 3)


def test_info_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_utils.main(["info"]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("grader networks: ")]
    assert listed == [f"grader networks: {', '.join(sorted(registry.NETWORKS))}"]
