"""The names of all ways to blend: what recipes, manifests and the command line may say. Loads nothing."""

from typing import Final, Literal, get_args

MethodName = Literal[
    "mean", "mean_logits", "mean_odds", "median", "nelder_mead", "slsqp", "slsqp_logits", "temperature", "scaling",
    "neighbours", "mlp", "cells", "lightgbm", "xgboost", "stack", "weighted",
]  # fmt: skip
KNOWN_METHODS: Final[tuple[MethodName, ...]] = get_args(MethodName)
#: The one that takes its weights from a recipe; see `by_hand`.
WEIGHTED: Final = "weighted"
#: Those that need tables and labels, and nothing else.
METHOD_NAMES: Final[tuple[MethodName, ...]] = tuple(name for name in KNOWN_METHODS if name != WEIGHTED)
#: Where a weight or a part is given, what it averages.
On = Literal["probabilities", "logits", "odds"]
Group = Literal["spinal", "foraminal", "subarticular"]
#: Kinds of files that a fit may have: tensors, LightGBM's text, XGBoost's JSON. Nothing that can run.
SUFFIXES: Final = (".safetensors", ".txt", ".json")
#: On the command line: a method chosen anew for each fold on the others; all methods at once.
CHOSEN, ALL = "chosen", "all"
CHOICES: Final = (*KNOWN_METHODS, CHOSEN, ALL)
