"""What all checked data here has in common, and how much a spec may ask for. No torch."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from lumbar.issues import cut, few, numbered

#: Bounds of what a manifest may ask for, far above what any network here uses: inputs of more would fill the memory.
MAX_SIDE, MAX_SLICES = 2048, 256
#: Numbers in one input or output of one sample: 67 MB in float32, as 64 slices of 512 x 512 pixels.
MAX_PIXELS: Final = 2**24
#: Numbers in maps with a slice axis: 10 names on 192 slices of 256 x 256 pixels, the fifth place's largest.
MAX_VOLUMES: Final = 2**27
#: Bounds of what a spec may hand to a network's constructor, where numbers become layers and channels.
MAX_NUMBER, MAX_ITEMS, MAX_LETTERS, MAX_DEPTH = 2**16, 64, 200, 4


#: In the context of a validation: rules between keys are not asked, see `Strict.rules`.
LENIENT: Final = "lenient"


class Strict(BaseModel):
    """Frozen data of finite numbers that refuses unknown keys and names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    #: Fields that came after the first release. They are not written while they hold their default, so that what was
    #: made before they came keeps its fingerprint, and older versions read what does not use them.
    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_unused(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if name not in self.LATER or self._differs(name)}

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True))

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if isinstance(values, dict):
            strange = [key for key in values if key not in cls.model_fields]
            if strange:
                raise UnknownKeysError(strange, list(cls.model_fields), [cls._unknown(str(key)) for key in strange])
        return values

    def rules(self) -> Iterator[str]:
        """What does not go together in it, whatever stands around it: a sentence each, with the remedy."""
        yield from ()

    @model_validator(mode="after")
    def _keep_rules(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get(LENIENT):
            refuse(self.rules())
        return self

    @classmethod
    def _unknown(cls, key: str) -> str:
        near = difflib.get_close_matches(key, cls.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {few(list(cls.model_fields), 5)}"
        return f"unknown key {cut(key, 40)!r}; {hint}"


def _modest(value: Any, depth: int = 0) -> Any:
    """The arguments of a constructor; ValueError where they are no plain values, or ask for more than a network has."""
    if isinstance(value, dict | list | tuple):
        if depth >= MAX_DEPTH or len(value) > MAX_ITEMS:
            raise ValueError(f"tables and lists hold at most {MAX_ITEMS} values and {MAX_DEPTH - 1} more within them")
        for each in (*value, *value.values()) if isinstance(value, dict) else value:
            _modest(each, depth + 1)
    elif isinstance(value, str):
        if len(value) > MAX_LETTERS:
            raise ValueError(f"a word of {len(value)} letters; at most {MAX_LETTERS} are taken")
    elif isinstance(value, int | float):
        if not abs(value) <= MAX_NUMBER:  # not a number, too
            raise ValueError(f"{value!r:.30} is not a number from -{MAX_NUMBER} to {MAX_NUMBER}")
    elif value is not None:
        raise ValueError(f"{type(value).__name__} is no number, word, list or table")
    return value


#: Arguments of a network's constructor.
Arguments = Annotated[dict[str, Any], AfterValidator(_modest)]
#: The name of a network.
NetworkName = Annotated[str, Field(min_length=1, max_length=MAX_LETTERS)]
#: Distance in mm from the middle of a series: no spine is wider.
OffsetMm = Annotated[float, Field(ge=0, le=100)]


def many_pixels(what: str, count: int, side: int, most: int = MAX_PIXELS) -> Iterator[str]:
    """A sentence where so many square images hold more than `most` numbers."""
    if count * side**2 > most:
        yield f"{what} = {count} and image_size = {side} together are more than {most} numbers; make them smaller"


class FaultsError(ValueError):
    """Several things that are wrong with one piece of data; `args` are their sentences."""

    def __str__(self) -> str:
        return numbered(self.args)


class UnknownKeysError(FaultsError):
    """Keys that some data does not have: `keys` are they, `known` those that it has."""

    def __init__(self, keys: Sequence[Any], known: Sequence[str], faults: Sequence[str]) -> None:
        super().__init__(*faults)
        self.keys, self.known = keys, known


def refuse(faults: Iterable[str]) -> None:
    """Raise `FaultsError` with these sentences, if there are any."""
    if wrong := list(dict.fromkeys(faults)):
        raise FaultsError(*wrong)
