"""What a command says while it works: a progress bar on a terminal, plain lines elsewhere, and everything in a run's `log.txt`.

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

_LOG = logging.getLogger("flexseg")
_silent = False
_SECONDS = 60.0  # between two lines where there is no terminal


def be_silent() -> None:
    """From here on this process says nothing but its errors: it is one of several workers, and the chief speaks for all."""
    global _silent
    _silent = True


def say(message: str, *values: object) -> None:
    """Prints one line above any progress bar, and logs it."""
    if _silent:
        return
    text = message % values if values else message
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
    _LOG.info(text)


class progress:  # noqa: N801  (used like a function)
    """A bar on a terminal; elsewhere a line a minute, so that short work says nothing. A context manager.

    Args:
      label: in front of the bar.
      total: how much there is to do; None while nobody knows.
      done: how much was done before.
      unit: what is counted.
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
        """`count` more are done; what `figures` returns is shown behind, and asked for only when something is shown. NaN: not known yet."""
        self._done += count
        if not self._bar.disable:
            self._bar.set_postfix(_known(figures), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._said_at >= _SECONDS:
            self._said_at = time.monotonic()
            of = "" if self._total is None else f" of {self._total}"
            say("%s: %d%s %ss%s", self._label, self._done, of, self._unit, "".join(f"  {name} {value}" for name, value in _known(figures).items()))

    def at(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        self._total = self._bar.total = total
        self.update(count=done - self._done)


def _known(figures: Callable[[], dict[str, float]]) -> dict[str, str]:
    """Without the means of nothing: a step's loss is read while the next one runs, so that behind the first there is none."""
    return {name: f"{value:.4g}" for name, value in figures().items() if not math.isnan(value)}
