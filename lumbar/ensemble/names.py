"""The names of all ways to blend: what recipes, manifests and the command line may say. Loads nothing."""

from typing import Final, Literal, get_args

MethodName = Literal[
    "mean", "mean_logits", "median", "nelder_mead", "slsqp", "slsqp_logits", "temperature", "scaling", "neighbours",
    "mlp", "lightgbm", "xgboost", "stack",
]  # fmt: skip
METHOD_NAMES: Final[tuple[MethodName, ...]] = get_args(MethodName)
#: Kinds of files that a fit may have: tensors, LightGBM's text, XGBoost's JSON. Nothing that can run.
SUFFIXES: Final = (".safetensors", ".txt", ".json")
#: On the command line: a method chosen anew for each fold on the others; all methods at once.
CHOSEN, ALL = "chosen", "all"
CHOICES: Final = (*METHOD_NAMES, CHOSEN, ALL)
