"""Watchdog: ends a run that hangs, so that its launcher can start it again.

    with Watchdog(multiple=100, minutes=10, report_to=run.log) as watchdog:
        ...
        watchdog.beat()                 # after every step and every batch of the validation
        watchdog.alive()                # within something long that is not a step

A lost network, a hung driver or a silent file system leaves a process waiting inside a call that no exception reaches. The watchdog writes the stacks
of all threads to standard error and the log and ends the process with 75 ("run me again"). The last checkpoint is whole.
"""

import collections
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

EXIT_CODE = 75
_FIRST_SECONDS = 1800.0  # before the second beat, because the first step compiles
_TICKS = 20  # checks within the allowed time
_REPORT_SECONDS = 10.0  # for the stacks to be written and uploaded


class Watchdog:
    """A thread that expects beats.

    Args:
      multiple: times the median time between two beats that may pass without one; 0 for no watchdog.
      minutes: that may pass in any case, because reports, checkpoints and pictures are not steps.
      report_to: a log file, beside standard error.
      then: called after the stacks are written; it gets at most the same time.
    """

    def __init__(self, *, multiple: float, minutes: float, report_to: Path | None, then: Callable[[], None] | None = None):
        self._multiple, self._least, self._report_to, self._then = multiple, 60 * minutes, report_to, then
        self._times: collections.deque[float] = collections.deque(maxlen=101)
        self._last: float | None = None
        self._quiet, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._multiple:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def beat(self) -> None:
        """A step or a batch ended."""
        now = time.monotonic()
        if self._last is not None:
            self._times.append(now - self._last)
        self._last, self._quiet = now, 0.0

    def alive(self) -> None:
        """The run is alive; says nothing about the time of a step."""
        self._quiet = 0.0

    def seconds(self) -> float:
        """Seconds that may pass without a beat."""
        times = list(self._times)
        return max(self._least, self._multiple * statistics.median(times)) if times else max(self._least, _FIRST_SECONDS)

    def _watch(self) -> None:
        while True:
            tick = max(0.01, min(self._least or 1.0, 60.0) / _TICKS)
            if self._ended.wait(tick):
                return
            # Ticks are added up, not read from a clock: a suspended process that continues has not been quiet.
            self._quiet += tick
            if self._quiet > self.seconds():
                self._end()

    def _end(self) -> None:
        # In a thread of its own, with a limit: the file system may hang, or the disk be full.
        report = threading.Thread(target=self._report, daemon=True)
        report.start()
        report.join(_REPORT_SECONDS)
        os._exit(EXIT_CODE)

    def _report(self) -> None:
        said = f"watchdog: nothing moved for {self._quiet:.0f} s; the same command resumes from the last checkpoint. The stacks of all threads:\n"
        for path in [None, *([self._report_to] if self._report_to else [])]:
            # not by the logger, whose lock the hanging thread may hold
            stream = sys.__stderr__ if path is None else open(path, "a")  # noqa: SIM115  (the process ends here)
            if stream:  # a process may be without standard error
                stream.write(said)
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
        if self._then:
            self._then()
