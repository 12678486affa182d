"""The eighth place's network at its smallest, on whole series of a small phantom."""

from typing import Any, Final

from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec
from tests.conftest import ROOT
from tests.support.grader_kinds import small_grader

SMALL = ROOT / "recipes" / "small" / "eighth_place.toml"
#: More than a phantom's sagittal series have.
SLICES: Final = {"sagittal_t1": 20, "sagittal_t2": 20, "axial_middle": 32}
#: Arguments of a network with the 1D one behind.
ALONG: Final[dict[str, Any]] = {"features": 8, "along": True, "hidden": 8}


def whole(**fields: Any) -> GraderSpec:
    own: dict[str, Any] = {
        "views": list(SLICES),
        "conditions": list(CONDITIONS),
        "levels": "study",
        "network": "whole_slices",
        "network_args": {"features": 8},
        "region": {"box": "whole", "around": "series", "intensity": "percentile", "scope": "slice"},
        "regions": {view: {"slices": count} for view, count in SLICES.items()},
    }
    return small_grader(**own | fields)
