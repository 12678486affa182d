"""Small graders of every kind: each unit of a box, each way to choose slices, grey values and levels."""

from typing import Any

from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec

CANAL, LEFT_FORAMEN, RIGHT_FORAMEN, LEFT_RECESS, RIGHT_RECESS = CONDITIONS
_FIELDS: dict[str, dict[str, Any]] = {
    "both sides in one picture": {
        "views": ["axial_middle"],
        "conditions": [LEFT_RECESS, RIGHT_RECESS],
        "region": {"box": "pair", "size": [24, 32]},
    },
    "as large as levels are apart": {
        "views": ["sagittal_t2", "sagittal_t1_left", "sagittal_t1_right"],
        "conditions": [CANAL, LEFT_FORAMEN, RIGHT_FORAMEN],
        "region": {"box": "levels", "intensity": "minmax"},
        "regions": {"sagittal_t2": {"slices": 5, "span": "spine"}},
    },
    "shares of the image": {
        "views": ["sagittal_t1_left", "axial_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"box": "share", "extent": [0.2, 0.25], "shift": [0.04, 0.0], "shift_l5_s1": [0.04, 0.05]},
        "regions": {"axial_left": {"size": [32, 24], "intensity": "percentile", "scope": "slice"}},
    },
    "whole images": {
        "views": ["sagittal_t2"],
        "conditions": [CANAL],
        "region": {"box": "whole", "intensity": "percentile", "scope": "series", "around": "level"},
    },
    "along the canal": {
        "views": ["sagittal_t2", "sagittal_t1_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"rotate": "canal", "extent": [36.0, 45.0], "shift": [-5.0, -3.5], "size": [24, 32]},
    },
    "a side from outside in": {
        "views": ["sagittal_t1_left", "sagittal_t2_left", "axial_left"],
        "conditions": [LEFT_FORAMEN, LEFT_RECESS],
        "region": {"half": True, "around": "level", "extent": [40.0, 60.0]},
        "regions": {"axial_left": {"extent": [80.0, 70.0], "slices": 2}},
    },
    "a side from its point outwards": {
        "views": ["sagittal_t2_left", "axial_left"],
        "conditions": [LEFT_RECESS],
        "region": {"half": True, "around": "point"},
        "regions": {"axial_left": {"half": False}},
    },
    "the canal's point and the inner slices": {
        "views": ["sagittal_t1", "sagittal_t2", "axial_middle"],
        "conditions": [CANAL],
        "region": {"around": "level", "point": "canal", "inner": 0.5, "intensity": "percentile", "scope": "slice"},
        "regions": {"axial_middle": {"inner": 1.0, "slices": 2}},
    },
    "five levels at once": {
        "views": ["sagittal_t1", "sagittal_t2", "axial_middle"],
        "conditions": list(CONDITIONS),
        "speaks_for": [CANAL],
        "levels": "all",
        "region": {"around": "level", "intensity": "percentile"},
        "regions": {"axial_middle": {"neighbours": True}},
    },
    "steps of so many millimetres": {
        "views": ["sagittal_t1_left", "axial_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"slice_mm": 6.0, "neighbours": True, "around": "point"},
    },
    "axial slices around found ones": {
        "views": ["axial_left"],
        "conditions": [LEFT_RECESS],
        "region": {"around": "level", "levels_by": "found", "neighbours": True},
    },
    "one slice and its neighbours": {
        "views": ["sagittal_t1_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"slices": 1, "neighbours": True},
    },
    "neighbours at the border": {
        "views": ["sagittal_t1_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"slices": 2, "neighbours": True},
        "t1_offsets_mm": (60.0,) * 5,
    },
    "neighbours of a side's half": {
        "views": ["sagittal_t1_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"slices": 1, "neighbours": True, "half": True, "around": "level"},
    },
    "all slices of a series for each side": {
        "views": ["sagittal_t1_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"around": "level"},
    },
    "bags of slices": {
        "views": ["axial_left", "sagittal_t1_left"],
        "conditions": [LEFT_FORAMEN],
        "region": {"box": "share", "around": "point", "intensity": "percentile", "scope": "slice"},
        "regions": {
            "axial_left": {"extent": [0.375, 0.375], "shift": [0.09375, 0.0], "size": [32, 32]},
            "sagittal_t1_left": {"extent": [0.125, 0.3125], "shift": [-0.03125, 0.0], "size": [24, 32]},
        },
    },
    "each slice around the point that it shows": {
        "views": ["sagittal_t2", "sagittal_t1_left", "sagittal_t1_right"],
        "conditions": [CANAL, LEFT_FORAMEN, RIGHT_FORAMEN],
        "region": {"around": "point", "follow": True},
    },
    "whole series, once for all levels": {
        "views": ["sagittal_t1", "sagittal_t2", "axial_middle"],
        "conditions": list(CONDITIONS),
        "levels": "study",
        "network": "whole_slices",
        "network_args": {"features": 8},
        "region": {"box": "whole", "around": "series", "intensity": "percentile", "scope": "slice"},
        "regions": {"axial_middle": {"slices": 6}},
    },
    "a whole series as one volume": {
        "views": ["sagittal_t1"],
        "conditions": [LEFT_FORAMEN, RIGHT_FORAMEN],
        "levels": "study",
        "network": "whole_volume",
        "network_args": {"decoder": [8, 8, 8], "features": 8},
        "region": {"box": "whole", "around": "series", "slices": 18, "intensity": "percentile", "scope": "series"},
    },
    "short series with empty slices behind": {
        "views": ["sagittal_t1", "sagittal_t2", "axial_left", "axial_right"],
        "conditions": list(CONDITIONS),
        "region": {"around": "level", "slices": 12, "pad": True, "intensity": "percentile", "scope": "series"},
        "regions": {"axial_left": {"box": "pair", "around": "point", "slices": 3, "pad": False}},
    },
    "every sagittal series": {
        "views": ["sagittal_series"],
        "conditions": list(CONDITIONS),
        "region": {"box": "share", "around": "level", "intensity": "standard", "scope": "series"},
    },
}


#: What makes a grader run in milliseconds.
SMALL: dict[str, Any] = {
    "backbone_args": {"channels": [8, 8, 16, 16]},
    "image_size": 32,
    "slices": 3,
    "rnn_hidden": 8,
}


def small_grader(**fields: Any) -> GraderSpec:
    """A grader that runs in milliseconds."""
    return GraderSpec(**{**SMALL, "rnn_layers": 1, **fields})


KINDS: dict[str, GraderSpec] = {name: small_grader(**fields) for name, fields in _FIELDS.items()}
