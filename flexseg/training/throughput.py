"""Throughput: training images per second and the fraction of time spent waiting for input.

    throughput.add(examples=8, waited=0.001)     # after every call
    throughput.pause()                           # before validation, checkpoints, …
    throughput.facts()                           # {"images_per_second": 93.1, "input_wait_fraction": 0.01}

Times are wall-clock times of the host, per call of the step.
"""

import math
import time


class Throughput:
    """Times the steps of an epoch, without the first call after a start or a pause, which compiles or fills the input pipeline."""

    def __init__(self):
        self._last = None
        self.reset()

    def reset(self) -> None:
        """Starts a new epoch."""
        self._examples, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, *, examples: int, waited: float | None) -> None:
        """Adds a call over `examples` of all replicas, which waited `waited` seconds for input (None: unknown)."""
        now = time.perf_counter()
        if self._last is not None:
            self._examples += examples
            self._seconds += now - self._last
            self._waited += float("nan") if waited is None else waited
        self._last = now

    def pause(self) -> None:
        """Leaves out the time until the next call."""
        self._last = None

    def facts(self) -> dict[str, float]:
        """`images_per_second` over all replicas and, if known, `input_wait_fraction`; empty before the second call."""
        if not self._seconds:
            return {}
        waited = {} if math.isnan(self._waited) else {"input_wait_fraction": self._waited / self._seconds}
        return {"images_per_second": self._examples / self._seconds, **waited}
