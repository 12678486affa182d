"""Which of SPIDER's patients are trained on, and which only measured on."""

from typing import Final, Literal

Part = Literal["train", "held_out", "images"]
#: Patients whose number leaves this remainder by `HELD_OUT_OF` are held out: no study of theirs is trained on.
HELD_OUT_OF, HELD_OUT_REMAINDER = 5, 2
#: Patients whose foramina others have set by hand: what foramina are measured on, so that nothing is trained on them.
MEASURED: Final = frozenset({106, 108})


def is_held_out(patient: int) -> bool:
    """Whether a patient's studies belong to the part that is never trained on."""
    return patient % HELD_OUT_OF == HELD_OUT_REMAINDER


def in_part(patient: int, part: Part, *, foramina: bool = False) -> bool:
    """Whether a patient's slices belong to a part; those with points of foramina are held out of `MEASURED` as well.

    No other slice of `MEASURED` is in either part: they are not trained on, and other figures stay what they were.
    """
    if part == "held_out":
        return is_held_out(patient) or (foramina and patient in MEASURED)
    return not is_held_out(patient) and patient not in MEASURED
