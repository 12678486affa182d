"""From the members' probabilities to one table: averages, fitted weights, temperatures, stackers.

`average` blends without labels; `methods` holds every method by name; `nested` says honestly how good each is; `store`
keeps a fitted blend. What needs scipy, LightGBM or XGBoost is imported from where it lies, and nothing imports torch.
"""

from lumbar.ensemble.average import BLEND_METHODS, SMALLEST, BlendMethod, blend
from lumbar.ensemble.cells import Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.names import METHOD_NAMES, MethodName

__all__ = ["BLEND_METHODS", "METHOD_NAMES", "SMALLEST", "BlendMethod", "Cells", "Fit", "MethodName", "blend"]
