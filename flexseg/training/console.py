"""What a run says while it works: a progress bar on a terminal, plain lines in a log, everything in `log.txt`.

    say("resumed at step %d", step)
    with progress("epoch 3/100", total=400) as bar: bar.update(lambda: {"loss": 0.12})
"""

import logging
import sys
from collections.abc import Callable

from tqdm import tqdm

_LOG = logging.getLogger("flexseg")


def say(message: str, *values) -> None:
    """Prints one line above any progress bar, and logs it."""
    text = message % values if values else message
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
    _LOG.info(text)


class progress:  # noqa: N801  (used like a function)
    """A bar on a terminal, nothing otherwise; a context manager.

    Args:
      label: in front of the bar.
      total: steps.
      done: steps done before.
    """

    def __init__(self, label: str, *, total: int, done: int = 0):
        self._bar = tqdm(desc=label, total=total, initial=done, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True, unit="step")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def update(self, figures: Callable[[], dict[str, float]]) -> None:
        """One step done; what `figures` returns is shown behind the bar, and asked for only there."""
        if not self._bar.disable:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures().items()}, refresh=False)
            self._bar.update()
