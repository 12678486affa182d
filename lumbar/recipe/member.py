"""What one trained network of the ensemble is, whichever stage it belongs to.

The same models describe a member in a recipe (what to train) and in a bundle's manifest (what was trained), so a member
can be rebuilt and run from its entry alone. Nothing here imports torch.
"""

import re
from typing import Annotated, Final

from pydantic import Field

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec

#: A member's name is its file's name, too.
MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
#: Folds are numbered from 0 to this.
LAST_FOLD: Final = 99
MemberSpec = Annotated[DetectorSpec | GraderSpec, Field(discriminator="stage")]
