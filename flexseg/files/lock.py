"""FolderLock: one writer at a time in a folder, on one host or on several that share a file system.

    with FolderLock(run.path / ".lock", what="flexseg train") as lock:
        ...
        lock.check()          # raises when another process took the lock over meanwhile (this one was suspended for minutes)

The lock is a file that names host, process and start, and whose modification time is renewed while the holder lives. It is stale, taken over
and reported when its holder is known to be dead (same host, no such process) or was not heard of for `STALE_SECONDS`. Ages are differences of
two times that the file system itself gave, so that clocks of hosts need not agree. An advisory `flock` is not used: it is the host's own
affair on many network file systems. Not promised: exclusion from programs that do not look at the lock.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

import psutil

from flexseg.console import say
from flexseg.errors import UserError

RENEW_SECONDS = 10.0
STALE_SECONDS = 120.0  # a holder that missed a dozen renewals is gone, or as good as gone


class FolderLock:
    """An exclusive lock, held as a context manager.

    Args:
      path: of the lock file; its folder exists.
      what: who locks, in words.

    Raises:
      UserError: on entering, when a living process holds the lock; `check` when it was taken over.
    """

    def __init__(self, path: Path, *, what: str):
        self._path, self._token, self._lost, self._done = Path(path), uuid.uuid4().hex, threading.Event(), threading.Event()
        process = psutil.Process()
        self._holder = {
            "what": what, "host": socket.gethostname(), "pid": process.pid, "process_started": process.create_time(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"), "token": self._token,
        }  # fmt: skip

    def __enter__(self) -> "FolderLock":
        while not self._create():
            self._take_over()
        self._renewer = threading.Thread(target=self._renew, name="flexseg lock", daemon=True)
        self._renewer.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._renewer.join()
        if self._read() == self._holder:
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises a UserError when another process holds the lock by now."""
        if self._lost.is_set():
            cure = "one of the two must go; what this one did since its last checkpoint is lost"
            raise UserError(self._path, expected="the lock of this process", found="that of another, which thought this one dead", cure=cure)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as stream:
            stream.write(json.dumps(self._holder))
        return True

    def _read(self) -> dict | None:
        """Who holds the lock; an empty dictionary for a file that was cut off, None where there is none."""
        try:
            found = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _take_over(self) -> None:
        holder = self._read()
        if holder is None:
            return
        name = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('started', '?')}"
        if not (reason := self._stale(holder)):
            raise UserError(
                self._path.parent, expected="no other process that writes there", found=f"{holder.get('what', 'one')}, {name}",
                cure="wait for it or stop it, or name another --workdir",
            )  # fmt: skip
        aside = self._path.with_name(f"{self._path.name}.{self._token}")
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return
        try:
            moved = json.loads(aside.read_text() or "{}")
        except ValueError:
            moved = {}
        if moved != holder:  # another start was quicker: what was moved is its fresh lock
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
        else:
            say("the lock of %s is taken over: %s", name, reason)
        aside.unlink()

    def _stale(self, holder: dict) -> str:
        """Why a lock is no longer anybody's; empty where it is."""
        if holder.get("host") == self._holder["host"] and "pid" in holder:
            try:
                started = psutil.Process(holder["pid"]).create_time()
            except psutil.NoSuchProcess:
                return "that process is gone"
            if abs(started - holder.get("process_started", started)) > 2:
                return "that process is gone, its number belongs to another"
            return ""  # alive: suspended perhaps, but it would go on
        age = self._age()
        return f"not heard of for {age:.0f} s" if age > STALE_SECONDS else ""

    def _age(self) -> float:
        """Seconds since the lock was renewed, by the file system's own clock."""
        probe = self._path.with_name(f"{self._path.name}.{self._token}.now")
        probe.touch()
        try:
            return probe.stat().st_mtime - self._path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink()

    def _renew(self) -> None:
        while not self._done.wait(RENEW_SECONDS):
            try:
                if self._read() == self._holder:
                    os.utime(self._path)
                else:
                    self._lost.set()
                    return
            except OSError:
                continue  # a file system that is away for a moment
