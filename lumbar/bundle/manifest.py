"""What a bundle's `manifest.json` holds, as checked data. No torch."""

from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from lumbar.ensemble.average import BLEND_METHODS
from lumbar.ensemble.method_names import MethodName
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES
from lumbar.recipe.blend import Around
from lumbar.recipe.card import Card
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.member import LAST_FOLD, MEMBER_NAME, MemberSpec
from lumbar.recipe.strict import Strict

#: Name of the file in the bundle's folder.
MANIFEST: Final = "manifest.json"

#: Members of one bundle; the full ninth-place ensemble has 75.
MAX_MEMBERS: Final = 1000


class LikenessFile(Strict):
    """What a grader's regions looked like in training: a file in the bundle's folder, see `lumbar.bundle.likeness`."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+\.likeness\.safetensors$", max_length=255)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Member(Strict):
    """One trained network: what it is and which file holds its weights."""

    LATER = frozenset({"began", "likeness"})

    name: Annotated[str, Field(max_length=100)]
    spec: MemberSpec
    #: The fold whose studies it has not seen; None: trained on all.
    fold: Annotated[int, Field(strict=True, ge=0, le=LAST_FOLD)] | None = None
    file: Annotated[str, Field(max_length=255)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: Place among the graders by value, 1 the most valuable; None: by the order of members. A run short of time drops
    #: the least valuable first.
    rank: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] | None = None
    #: What data it was trained on, in a few words.
    saw: str = ""
    #: What its training began with: random weights, or pretrained ones by their tag.
    began: str = ""
    scores: dict[str, float] = {}
    #: Of a grader, by which it tells regions that look like nothing seen in training. None: it does not.
    likeness: LikenessFile | None = None

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of its weights and, where there is one, of its likeness, by the file's name."""
        return {one.file: one.sha256 for one in (self, self.likeness) if one is not None}

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not MEMBER_NAME.fullmatch(name):
            raise ValueError(f"member name {name!r} may hold letters, digits, '.', '_' and '-' only")
        return name

    @field_validator("file")
    @classmethod
    def _plain_file(cls, file: str) -> str:
        if not file.isprintable():
            raise ValueError("a file's name may hold no control characters")
        return file


class BlendFile(Strict):
    """A model that belongs to a fitted blend: its file in the bundle's folder."""

    file: Annotated[str, Field(pattern=r"^blend\.[A-Za-z0-9._-]+\.(safetensors|txt|json)$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Blend(Around):
    """How the members' probabilities become one table, see `lumbar.ensemble`.

    An average needs nothing but its name. What was fitted, or weighed by hand, speaks of tables: `tables` names them in
    their order, and for each the graders whose mean it is (one a fold); behind them come `inner` blends, each of
    graders of its own. `params` and `files` are what the method learned or was told.
    """

    LATER = Around.LATER | {"inner", "prior"}

    method: MethodName = "mean"
    tables: dict[str, tuple[str, ...]] = {}
    #: Whole blends whose tables this one blends, by name.
    inner: dict[str, "Blend"] = {}
    #: Of an inner blend: the prior that it was fitted with, (5, 5, 3).
    prior: tuple[tuple[tuple[float, ...], ...], ...] = ()
    params: dict[str, Any] = {}
    files: dict[str, BlendFile] = {}

    @model_validator(mode="after")
    def _complete(self) -> "Blend":
        if self.method not in BLEND_METHODS and not (self.tables or self.inner):
            raise ValueError(f"the blend {self.method} is a fitted one and names no tables")
        if not all(self.tables.values()):
            raise ValueError("a table of the blend names no member")
        for name, each in self.inner.items():
            if not (each.tables or each.inner):
                raise ValueError(f"the inner blend {name!r} names no tables")
            if each.prior:
                distributions(each.prior)
        return self

    @property
    def every_file(self) -> list["BlendFile"]:
        """Its own files and those of inner blends."""
        return [*self.files.values(), *(file for each in self.inner.values() for file in each.every_file)]

    @property
    def every_table(self) -> list[tuple[str, tuple[str, ...]]]:
        """Its own tables and those of inner blends, with their members."""
        return [*self.tables.items(), *(table for each in self.inner.values() for table in each.every_table)]


def distributions(prior: Any) -> None:
    """ValueError where a prior is no table of 5 x 5 distributions."""
    try:
        array = np.asarray(prior, dtype=np.float64)
    except ValueError as error:
        raise ValueError("the prior is not a table of 5 x 5 x 3 numbers") from error
    if array.shape != (len(CONDITIONS), len(LEVELS), len(SEVERITIES)):
        raise ValueError(f"the prior has shape {array.shape}, not (5 conditions, 5 levels, 3 severities)")
    if not (array > 0).all() or not np.allclose(array.sum(axis=-1), 1.0, atol=1e-6):
        raise ValueError("every row of the prior must be positive and sum to 1")


class Manifest(Strict):
    """Everything about a bundle but the weights themselves."""

    LATER = frozenset({"sets"})

    version: Literal[1] = 1
    description: str = ""
    members: tuple[Member, ...] = Field(min_length=1, max_length=MAX_MEMBERS)
    blend: Blend = Blend()
    #: Several sets of keypoints: names of detectors, all folds, by the set's name. None: all detectors find one.
    sets: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    #: Stands in where no member speaks: (5 conditions, 5 levels, 3 severities), each row sums to 1.
    prior: tuple[tuple[tuple[float, ...], ...], ...]
    #: What a reader must know beside: data, licences, commands, figures, limits.
    card: Card = Card()

    @field_validator("prior")
    @classmethod
    def _distributions(cls, prior: Any) -> Any:
        distributions(prior)
        return prior

    # A manifest holds members of both stages in one list: here they part, and nobody asks again.
    @property
    def detectors(self) -> dict[str, DetectorSpec]:
        """Members of stage 1 by name."""
        return {member.name: member.spec for member in self.members if isinstance(member.spec, DetectorSpec)}

    @property
    def graders(self) -> dict[str, GraderSpec]:
        """Members of stage 2 by name."""
        return {member.name: member.spec for member in self.members if isinstance(member.spec, GraderSpec)}

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of every file of the bundle but the manifest, by its name."""
        found = {file: digest for member in self.members for file, digest in member.files.items()}
        return found | {model.file: model.sha256 for model in self.blend.every_file}

    @model_validator(mode="after")
    def _distinct(self) -> "Manifest":
        files = [file for member in self.members for file in member.files]
        for what, values in (("name", [m.name for m in self.members]), ("file", files)):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"two members have the {what} {twice!r}")
        if blind := [m.name for m in self.members if m.likeness and m.name not in self.graders]:
            raise ValueError(f"{blind[0]!r} has a likeness of regions, and is no grader")
        for table, names in self.blend.every_table:
            if strangers := [name for name in names if name not in self.graders]:
                raise ValueError(f"the blend's table {table!r} is made of {strangers[0]!r}, which is no grader here")
        return self
