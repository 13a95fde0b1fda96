"""Processes that begin where TensorFlow and flexseg are imported already, for tests that start many.

    ended = processes.start("flexseg.commands.dispatcher:run", ["train", ...]).wait(600)
    ended.returncode, ended.stdout, ended.stderr

The import takes longer than most of these processes work. Python's fork server does it once, computes nothing, and every process is a fork of it: it
knows nothing of another one, and a signal ends it as it ends any. Its seed of hashes is the server's, and it leaves as a fork does, without what Python
does at exit: so what is about a start (flags, help, the console script) takes subprocess, and so does a case of each kind beside it.
"""

import contextlib
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = ["flexseg.training.session", "flexseg.commands.train", "flexseg.commands.evaluate", "flexseg.launch.data_service"]
_BEGINS = "TF_CPP_MIN_LOG_LEVEL"


class Started:
    """A running process; its output goes to files.

    Args:
      target, words, cwd: see `start`.
    """

    def __init__(self, target: str, words: Sequence[str], cwd: Path | None):
        self.args = [target, *words]
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        arguments = (target, list(words), dict(os.environ), str(cwd or Path.cwd()), [str(file) for file in self._files])
        self._process = _CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """As subprocess has it; None while it runs."""
        return self._process.exitcode

    def wait_for(self, start: str, seconds: float = 300) -> None:
        """Returns once a line of its standard output begins so."""
        deadline = time.monotonic() + seconds
        while True:
            last_look = self.returncode is not None or time.monotonic() > deadline
            if any(line.startswith(start) for line in self._files[0].read_text(errors="replace").splitlines()):
                return
            if last_look:
                raise AssertionError(f"no line that begins with {start!r}: {self.wait(0)}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal; nothing where it has ended."""
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self.send(signal.SIGKILL)

    def wait(self, seconds: float) -> subprocess.CompletedProcess:
        """What it came to.

        Raises:
          TimeoutError: with all that it said; it is killed.
        """
        self._process.join(seconds)
        late = self.returncode is None
        if late:
            self.kill()
            self._process.join()
        said = [file.read_text() for file in self._files]
        if late:
            raise TimeoutError(f"{self.args} took longer than {seconds} s:\n{said[0]}\n{said[1]}")
        return subprocess.CompletedProcess(self.args, self.returncode, *said)


def start(target: str, words: Sequence[str], *, cwd: Path | None = None) -> Started:
    """Starts `module:function(words)`, or `script.py` with these arguments, in the environment of this process; what TensorFlow reads when it is
    imported stays as it was for the first one.

    Args:
      target: the function returns the exit code.
      words: its arguments.
      cwd: where it runs; default here.
    """
    before = os.environ.get(_BEGINS)
    os.environ[_BEGINS] = "2"  # TensorFlow reads it in the server
    try:
        _CONTEXT.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    finally:
        os.environ.pop(_BEGINS)
        if before is not None:
            os.environ[_BEGINS] = before
    return Started(target, words, cwd)


def _run(target: str, words: list[str], environment: dict[str, str], cwd: str, files: list[str]) -> None:
    """In the new process."""
    import tensorflow as tf

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    tf.config.list_physical_devices()  # with the remarks that `load_tensorflow` puts aside
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(signal.Signals[name], signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    if target.endswith(".py"):
        sys.argv = [target, *words]
        runpy.run_path(target, run_name="__main__")
    else:
        module, _, name = target.partition(":")
        sys.argv = [module, *words]
        sys.exit(getattr(importlib.import_module(module), name)(words))
