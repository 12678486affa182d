"""How far the work is: a bar, or a plain line each minute where nobody watches."""

import logging
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from tqdm import TqdmWarning, tqdm

from lumbar.issues import printable
from lumbar.terminal.voice import event, is_quiet, write

Item = TypeVar("Item")
#: Between two lines of progress where nobody watches a bar, seconds; and what such a line says.
A_MINUTE: Final = 60.0
_LINE: Final = "{desc}: {n_fmt} of {total_fmt} after {elapsed}, about {remaining} to go{postfix}"


# What libraries say when a machine meets them for the first time, in a notebook in pink, to nobody's help: that Jupyter
# has no widgets for a bar that is none of ours, and that matplotlib looks for fonts.
warnings.filterwarnings("ignore", "IProgress not found", TqdmWarning)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


class _Lines:
    """Standard error as a stream on which every state of a bar is a line of its own."""

    def write(self, text: str) -> None:
        if state := text.strip():
            write(state + "\n")

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar whose beginning, end and steps by name are events.

    Where it is drawn as lines, one comes each `mininterval` seconds also while a single step takes longer.
    """

    last_print_t: float
    start_t: float
    teller: threading.Thread | None

    def __init__(self, stage: str, **how: Any) -> None:
        self.stage, self.count, self.began, self.over = stage, how["initial"], time.monotonic(), False
        self.drawn = not isinstance(how["file"], _Lines)  # lines come when they are due
        super().__init__(desc=stage, **how)
        self.ended, self.teller = threading.Event(), None
        if not (self.drawn or self.disable):
            watched = weakref.ref(self), self.ended, self.mininterval / 4
            self.teller = threading.Thread(target=_say_on, args=watched, name=f"lines of {stage}", daemon=True)
            self.teller.start()
        event(f"{stage} begins{'' if self.total is None else f': {self.total}'}")

    def say_if_due(self) -> None:
        """Another line, where the last one is long ago."""
        now = self._time()
        if now - self.start_t >= self.delay and now - self.last_print_t >= self.mininterval:
            self.last_print_t = now
            self.refresh()

    def update(self, n: float | None = 1) -> bool | None:
        self.count += n or 0
        return super().update(n)

    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        event(desc or self.stage)
        super().set_description_str(desc, refresh and self.drawn)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        if refresh:  # what changes with each batch is none
            event(f"{self.stage}: {s}")
        super().set_postfix_str(s, refresh and self.drawn)

    def close(self) -> None:
        if not self.over:
            self.over = True
            self.ended.set()
            if self.teller is not None and self.teller is not threading.current_thread():
                self.teller.join(1.0)  # no line comes behind the end
            event(f"{self.stage} ends: {self.count} in {time.monotonic() - self.began:.1f} s")
        super().close()


def _say_on(bar: "weakref.ref[_Bar]", ended: threading.Event, pause: float) -> None:
    """Look after a bar until it ends or nobody holds it any more."""
    while not ended.wait(pause):
        shown = bar()
        if shown is None:
            return
        shown.say_if_due()
        del shown


def bar(
    stage: str,
    total: int | None,
    unit: str = "study",
    *,
    show: bool | None = None,
    initial: int = 0,
    every: float = A_MINUTE,
) -> Any:
    """A tqdm bar named after the current stage; a plain line each minute where standard error is no terminal.

    `show` True draws it all the same (a notebook is no terminal), False says nothing. `every`: seconds between lines.
    """
    watched = sys.stderr is not None and sys.stderr.isatty()
    how: dict[str, Any] = {"file": sys.stderr, "mininterval": 0.5, "dynamic_ncols": True}
    if not (watched or show):  # the first line comes after a while, so that short work says nothing
        how = {"file": _Lines(), "mininterval": every, "delay": every, "miniters": 1, "bar_format": _LINE}
        how["position"] = 0  # lines of several bars follow each other; nothing moves the cursor
    off = is_quiet() or show is False or sys.stderr is None
    return _Bar(stage, total=total, initial=initial, unit=unit, disable=off, **how)


def follow(
    items: Iterable[Item],
    stage: str,
    total: int | None,
    unit: str = "study",
    *,
    show: bool | None = None,
    name: Callable[[Item], str] | None = None,
) -> Iterator[Item]:
    """The items one by one, with a `bar` of how many have been worked on; `name` says which one is at work."""
    with bar(stage, total, unit, show=show) as shown:
        for item in items:
            if name is not None:
                shown.set_postfix_str(printable(name(item)))
            yield item
            shown.update()
