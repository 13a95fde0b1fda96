"""Throughput: images per second of training, and the share of the time that was spent waiting for input.

    throughput.add(examples=8, waited=0.001)     # once a step
    throughput.pause()                           # before anything that is no training
    throughput.facts()                           # {"images_per_second": 93.1, "input_wait_fraction": 0.01}
"""

import time


class Throughput:
    """Times the steps of an epoch; the first step after a start or a pause is left out (it compiles, or fills the pipeline)."""

    def __init__(self):
        self._last = None
        self.reset()

    def reset(self) -> None:
        """Begins a new epoch."""
        self._examples, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, *, examples: int, waited: float) -> None:
        """A step of `examples` over all replicas has ended, `waited` seconds of it for its batch."""
        now = time.perf_counter()
        if self._last is not None:
            self._examples += examples
            self._seconds += now - self._last
            self._waited += waited
        self._last = now

    def pause(self) -> None:
        """What follows is no training."""
        self._last = None

    def facts(self) -> dict[str, float]:
        """`images_per_second` over all replicas and `input_wait_fraction`; nothing before the second step."""
        if not self._seconds:
            return {}
        return {"images_per_second": self._examples / self._seconds, "input_wait_fraction": self._waited / self._seconds}
