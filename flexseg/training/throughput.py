"""Throughput: images per second of training, and the share of the time that was spent waiting for input.

Usage:
    throughput.add(examples=8, waited=0.001)     # once a step
    throughput.pause()                           # before anything that is no training
    throughput.facts()                           # {"images_per_second": 93.1, "input_wait_fraction": 0.01}
"""

import math
import time


class Throughput:
    """Times the steps of an epoch; the first step after a start or a pause is left out (it compiles, or fills the pipeline)."""

    def __init__(self):
        self._last = None
        self.reset()

    def reset(self) -> None:
        """Begins a new epoch."""
        self._examples, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, *, examples: int, waited: float | None) -> None:
        """A call over `examples` on all replicas has ended, `waited` seconds of it for batches; None where nobody can tell."""
        now = time.perf_counter()
        if self._last is not None:
            self._examples += examples
            self._seconds += now - self._last
            self._waited += float("nan") if waited is None else waited
        self._last = now

    def pause(self) -> None:
        """What follows is no training."""
        self._last = None

    def facts(self) -> dict[str, float]:
        """`images_per_second` over all replicas and, where it is known, `input_wait_fraction`; nothing before the second call."""
        if not self._seconds:
            return {}
        waited = {} if math.isnan(self._waited) else {"input_wait_fraction": self._waited / self._seconds}
        return {"images_per_second": self._examples / self._seconds, **waited}
