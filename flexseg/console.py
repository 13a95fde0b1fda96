"""Prints messages and progress: a bar on a terminal, plain lines elsewhere; messages are also written to a run's `log.txt`.

Usage:
    say("resumed at step %d", step)
    with progress("epoch 3/100", total=400) as bar:
        bar.update(lambda: {"loss": 0.12})
"""

import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

from flexseg.errors import printable

_LOG = logging.getLogger("flexseg")
_silent = False
_SECONDS = 60.0  # between two lines without a terminal


def be_silent() -> None:
    """Suppresses all messages of this process except errors, on workers other than the chief."""
    global _silent
    _silent = True


def say(message: str, *values: object) -> None:
    """Prints one line above any progress bar, and logs it."""
    if _silent:
        return
    shown = tuple(printable(value) if isinstance(value, str) else value for value in values)  # a line break in a value would forge a line
    text = printable(message % shown if shown else message, keep="\n")
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
    _LOG.info(text)


class progress:  # noqa: N801  (used like a function)
    """A context manager with a progress bar on a terminal; elsewhere it prints one line a minute.

    Args:
      label: text in front of the bar.
      total: number of units; None if unknown.
      done: number of units already done.
      unit: name of the unit.
    """

    def __init__(self, label: str, *, total: int | None = None, done: int = 0, unit: str = "step"):
        self._label, self._unit, self._done, self._total, self._said_at = label, unit, done, total, time.monotonic()
        disable = _silent or not sys.stderr.isatty()
        self._bar = tqdm(desc=label, total=total, initial=done, leave=False, disable=disable, dynamic_ncols=True, unit=unit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, figures: Callable[[], dict[str, float]] = dict, *, count: int = 1) -> None:
        """Adds `count` units. `figures` returns values to display; it is called only when they are shown. NaN values are left out."""
        self._done += count
        if not self._bar.disable:
            self._bar.set_postfix(_known(figures), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._said_at >= _SECONDS:
            self._said_at = time.monotonic()
            of = "" if self._total is None else f" of {self._total}"
            say("%s: %d%s %ss%s", self._label, self._done, of, self._unit, "".join(f"  {name} {value}" for name, value in _known(figures).items()))

    def at(self, done: int, total: int) -> None:
        """Sets the number of units that are done, and the total."""
        self._total = self._bar.total = total
        self.update(count=done - self._done)


def _known(figures: Callable[[], dict[str, float]]) -> dict[str, str]:
    """Formats values, without NaN: the loss of a step is read during the next one, so there is none after the first step."""
    return {name: f"{value:.4g}" for name, value in figures().items() if not math.isnan(value)}
