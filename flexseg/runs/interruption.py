"""Interruption: stops a run on a signal or a stop file, after a checkpoint.

    with Interruption(run.stop_file) as interruption:
        ...                                 # a signal ends this at once: nothing is trained yet
        with interruption.deferred():
            interruption.check()            # after every step and every batch of the validation

While a run trains, a signal takes effect at the next `check`. The trainer writes a checkpoint and ends with the exit code that schedulers know: 75
after SIGUSR1 (Slurm's warning: "run me again"), 143 after SIGTERM, 130 after SIGINT (Ctrl-C). A second Ctrl-C does not wait for the checkpoint. A
signal after the last step has no effect. The stop file ends the run with 0; it is removed once the checkpoint is written.

With several workers, stop requests travel with the gradients, so that all workers stop after the same step.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_EXIT_CODES = {signal.SIGUSR1: 75, signal.SIGTERM: 143, signal.SIGINT: 130}
STOP_REQUESTS = (*_EXIT_CODES, None)  # None: the stop file
_LOOK_SECONDS = 1.0  # between two checks of the stop file, which may be on a slow file system


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; `exit_code` is that of the command."""

    def __init__(self, message: str, *, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopRequested(Exception):  # noqa: N818  (it is no error)
    """Raised by `check`: the run shall write a checkpoint and end. `signal` is None for the stop file."""

    def __init__(self, requested: signal.Signals | None):
        super().__init__(requested.name if requested else "the stop file")
        self.signal = requested


class Interruption:
    """Listens for signals, and for the stop file while a run trains.

    Args:
      stop_file: its existence ends the run.
    """

    def __init__(self, stop_file: Path):
        self._stop_file, self._looked_at = Path(stop_file), float("-inf")
        self._before: dict[signal.Signals, Any] = {}
        self._signal: signal.Signals | None = None
        self._deferred = self._agreed = self._stop_file_seen = False
        self._decided: tuple[signal.Signals | None] | None = None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread install handlers
            # What is ignored stays so: a shell starts `flexseg train &` with SIGINT ignored, and Ctrl-C is meant for another program then.
            heard = [kind for kind in _EXIT_CODES if signal.getsignal(kind) not in (signal.SIG_IGN, None)]
            self._before = {kind: signal.signal(kind, self._note) for kind in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    @contextlib.contextmanager
    def deferred(self, *, agreed: bool = False) -> Iterator[None]:
        """Signals wait for `check`, with `agreed` for the stop requests of all workers too."""
        self._deferred, self._agreed = True, agreed  # and for good: what follows only ends the run
        yield

    def stop_requests(self) -> list[float]:
        """The stop requests of this process: for each of STOP_REQUESTS 1 where it came, else 0."""
        return [float(self._wanted() == (kind,)) for kind in STOP_REQUESTS]

    def agree(self, stop_requests: Iterable[float]) -> None:
        """Takes the sum of the stop requests of all workers: the first kind that any worker has is decided for all."""
        for kind, count in zip(STOP_REQUESTS, stop_requests, strict=True):
            if count and self._decided is None:
                self._decided = (kind,)

    def _note(self, number: int, frame: FrameType | None) -> None:
        came = signal.Signals(number)
        if not self._deferred:
            self._signal = came  # Python drops what is raised inside a destructor: `check` will find it
            said = f"{came.name}: there is nothing new to save, the same command resumes"
            raise Interrupted(said, exit_code=_EXIT_CODES[came])
        if self._signal == signal.SIGINT == came:
            said = "SIGINT twice: the steps since the last checkpoint are lost, the same command resumes from it"
            raise Interrupted(said, exit_code=_EXIT_CODES[came])
        self._signal = came

    def check(self) -> None:
        """Raises StopRequested after a signal, when the stop file exists, or when the workers agreed to stop."""
        decided = self._decided if self._agreed else self._wanted()
        if decided is not None:
            raise StopRequested(decided[0])

    def _wanted(self) -> tuple[signal.Signals | None] | None:
        if self._signal is not None:
            return (self._signal,)
        now = time.monotonic()
        if not self._stop_file_seen and now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._stop_file_seen = self._stop_file.exists()
        return (None,) if self._stop_file_seen else None

    def end(self, requested: signal.Signals | None, *, step: int) -> str:
        """Ends the run once the checkpoint of `step` is written: removes the stop file and returns the reason.

        Raises:
          Interrupted: after a signal.
        """
        if requested is not None:
            raise Interrupted(
                f"{requested.name}: checkpoint of step {step} written, the same command resumes from there", exit_code=_EXIT_CODES[requested]
            )
        self._stop_file.unlink(missing_ok=True)
        return f"{self._stop_file.name} was found; checkpoint of step {step} written, the same command resumes from there"
