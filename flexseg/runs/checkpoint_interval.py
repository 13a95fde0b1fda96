"""CheckpointInterval: when a checkpoint is due, and how long checkpoints take.

Usage:
    interval = CheckpointInterval(every_steps=500, every_minutes=15)
    if interval.due(step):
        with interval.saving():
            checkpoints.save(...)
    interval.take_seconds()          # of all checkpoints since the last call
"""

import contextlib
import time
from collections.abc import Iterator

_EPOCH_END_SHARE = 0.05  # of the time, at most, goes into the checkpoints at the ends of epochs


class CheckpointInterval:
    """Decides when to save a checkpoint.

    Args:
      every_steps, every_minutes: between two checkpoints; 0 for none.
    """

    def __init__(self, *, every_steps: int, every_minutes: float):
        self._every_steps, self._every_seconds = every_steps, 60 * every_minutes
        self._saved_at, self._took, self._seconds = time.monotonic(), 0.0, 0.0

    def due(self, step: int, *, epoch_end: bool = False) -> bool:
        """Whether a checkpoint is due after `step` steps.

        At the end of an epoch one is always due, unless the last one took more than a twentieth of the time since.
        """
        by_steps = self._every_steps and step % self._every_steps == 0
        waited = time.monotonic() - self._saved_at
        return bool(by_steps or (self._every_seconds and waited > self._every_seconds) or (epoch_end and waited > self._took / _EPOCH_END_SHARE))

    def next_by_steps(self, step: int) -> float:
        """The next step after `step` at which one is due by `every_steps`."""
        return (step // self._every_steps + 1) * self._every_steps if self._every_steps else float("inf")

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Measures the time of a save."""
        began = time.monotonic()
        yield
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began
        self._seconds += self._took

    def take_seconds(self) -> float:
        """Seconds spent in checkpoints since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
