"""The names of all ways to blend: what recipes, manifests and the command line may say. Loads nothing."""

from typing import Final, Literal, get_args

MethodName = Literal[
    "mean", "mean_logits", "mean_odds", "median", "nelder_mead", "slsqp", "slsqp_logits", "temperature", "scaling",
    "neighbours", "mlp", "cells", "lightgbm", "xgboost", "stack", "weighted",
    "multipliers", "severe_scaled", "mlp_raw", "lightgbm_raw", "xgboost_raw", "stack_raw",
]  # fmt: skip
KNOWN_METHODS: Final[tuple[MethodName, ...]] = get_args(MethodName)
#: The one that takes its weights from a recipe; see `by_hand`.
WEIGHTED: Final = "weighted"
#: Other teams' own ways, which are fitted where they are asked for and never chosen among: the second place's factors
#: around the plain mean, and the fourth place's stackers on raw probabilities.
AS_ASKED: Final[tuple[MethodName, ...]] = (
    "multipliers", "severe_scaled", "mlp_raw", "lightgbm_raw", "xgboost_raw", "stack_raw",
)  # fmt: skip
#: Those that need tables and labels, and nothing else, and are chosen among.
METHOD_NAMES: Final[tuple[MethodName, ...]] = tuple(
    name for name in KNOWN_METHODS if name != WEIGHTED and name not in AS_ASKED
)
#: Those whose fit has a pace.
PACED: Final[tuple[MethodName, ...]] = ("xgboost_raw", "stack_raw")
#: XGBoost on raw probabilities learns at so many times the published rate, in so many times fewer rounds: a tenth of
#: the time, and models of a tenth of the size, 3.3 MB for 1,000 rounds.
PACE: Final = 10
MOST_PACE: Final = 100
#: Where a weight or a part is given, what it averages.
On = Literal["probabilities", "logits", "odds"]
Group = Literal["spinal", "foraminal", "subarticular"]
#: Kinds of files that a fit may have: tensors, LightGBM's text, XGBoost's JSON. Nothing that can run.
SUFFIXES: Final = (".safetensors", ".txt", ".json")
#: On the command line: a method chosen anew for each fold on the others; all methods at once.
CHOSEN, ALL = "chosen", "all"
CHOICES: Final = (*KNOWN_METHODS, CHOSEN, ALL)
