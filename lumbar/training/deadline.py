"""When a training has to stop, as a Kaggle session does: in time, at a checkpoint, so that the next one goes on."""

import time
from typing import Final

import torch
from accelerate import Accelerator

#: What is kept back of the time for what cannot be cut short, before anything was measured: a share, and at most so
#: many seconds.
_RESERVE: Final = 0.02
_MOST_RESERVED: Final = 300.0
#: How much longer than the longest stretch seen so far the next one may take.
_LONGER: Final = 1.25


class OutOfTimeError(Exception):
    """The time that training was given is used up; everything so far is on the disk."""


class Deadline:
    """The hours that one call of `train` may take; None: as many as it needs."""

    def __init__(self, hours: float | None = None) -> None:
        self.seconds = None if hours is None else 3600 * hours
        self.began = time.monotonic()
        self.alone = True
        self.reserve = 0.0 if self.seconds is None else min(_RESERVE * self.seconds, _MOST_RESERVED)

    def check(self) -> None:
        """OutOfTimeError where the next stretch might not end in time.

        In the middle of what one of several processes does, while the others wait, there is no stopping.
        """
        if self.alone and self._up():
            raise OutOfTimeError

    def up(self, accelerator: Accelerator) -> bool:
        """Whether to stop now; all processes of a training ask together and get one answer."""
        self.alone = accelerator.num_processes == 1
        if self.seconds is None or self.alone:
            return self._up()
        asked = torch.tensor(float(self._up()), device=accelerator.device)
        return bool(accelerator.reduce(asked, "sum") > 0)

    def took(self, seconds: float) -> None:
        """A stretch that cannot be cut short, such as a validation, took so long: as much is kept back for the next."""
        if self.seconds is not None:
            self.reserve = max(self.reserve, _LONGER * seconds)

    def _up(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.began > self.seconds - self.reserve
