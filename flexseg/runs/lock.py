"""FolderLock: one writer at a time in a folder, on one host or on several that share a file system.

    with FolderLock(run.lock_file, what="flexseg train") as lock:
        ...
        lock.check()          # raises when another process took over the lock

The lock is a file that names its holder and appears whole. The holder renews its modification time. A lock is stale when its holder is known to be
dead (same machine, no such process) or when it was not renewed for `STALE_SECONDS`; then it is taken over, with a message. A start that finds a lock
of another machine waits that long: a scheduler may have moved a killed job, which is no mistake of the user's. Ages are differences of two times of
the file system, so clocks need not agree. An advisory `flock` is not used, because many network file systems keep it to one host.
"""

import contextlib
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from flexseg.console import say
from flexseg.errors import UserError
from flexseg.files.json_files import read_json

RENEW_SECONDS = 10.0
STALE_SECONDS = 120.0  # a holder that missed a dozen renewals is gone, or as good as gone
_LOOK_SECONDS = 1.0  # between two looks while waiting
_MOST_BYTES = 2**16  # of a lock: a holder writes a few hundred


def _machine() -> str:
    """Identifies the numbering of processes: the boot of the kernel and the pid namespace. Two containers of one host are two machines."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return f"unknown {uuid.uuid4()}"  # equal to no other: only age decides


def _started(pid: int) -> int | None:
    """The start of a process in clock ticks since the boot; None where there is no such process.

    A zombie (state Z, in containers whose first process does not reap) counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


class FolderLock:
    """An exclusive lock, held as a context manager.

    Args:
      path: of the lock file; its folder exists.
      what: the program that locks, for messages.
      flag: the flag that names another folder, for messages.

    Raises:
      UserError: on entering, when a living process holds the lock; `check` when it was taken over.
    """

    def __init__(self, path: Path, *, what: str, flag: str = "--workdir"):
        self._flag = flag
        self._path, self._token, self._lost, self._done = Path(path), uuid.uuid4().hex, threading.Event(), threading.Event()
        self._holder = {
            "what": what, "host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "process_started": _started(os.getpid()),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"), "token": self._token,
        }  # fmt: skip

    def __enter__(self) -> "FolderLock":
        self._began = time.monotonic()
        self._refuse_other_kinds()
        while not self._create():
            self._refuse_other_kinds()
            self._take_over()
        self._renewer = threading.Thread(target=self._renew, name="flexseg lock", daemon=True)
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._renewer.join()
        with contextlib.suppress(OSError):  # a lock that stays is stale as soon as this process is gone
            if self._read() == self._holder:
                self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises a UserError when another process holds the lock."""
        if self._lost.is_set():
            cure = "one of the two must go; what this one did since its last checkpoint is lost"
            raise UserError(self._path, expected="the lock of this process", found="that of another, which thought this one dead", cure=cure)

    def _refuse_other_kinds(self) -> None:
        """Raises a UserError where something else than a file has the name of the lock; a link may lead nowhere, so it is never followed."""
        try:
            mode = os.lstat(self._path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise UserError(self._path, expected="the lock of a run, a file", found=kind, cure="remove it, if no trainer works in this directory")

    @contextlib.contextmanager
    def _written(self) -> Iterator[Path]:
        """The lock of this process under a temporary name."""
        mine = self._path.with_name(f"{self._path.name}.{self._token}")
        try:
            mine.write_text(json.dumps(self._holder))
            yield mine
        finally:
            mine.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Creates the lock; false where there is one."""
        with self._written() as mine:
            try:
                os.link(mine, self._path)  # whole at once, and never over another
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                try:
                    descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                except FileExistsError:
                    return False
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(json.dumps(self._holder))
        return True

    def _read(self) -> dict | None:
        """The holder of the lock; an empty dictionary for a cut-off file, None where there is no lock."""
        try:
            found = read_json(self._path, most_bytes=_MOST_BYTES)
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _take_over(self) -> None:
        """Removes a stale lock. Of several processes that want to, one at a time does."""
        holder = self._read()
        if holder is None:
            return
        name = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('started', '?')}"
        if not (reason := self._stale(holder, name)):
            raise UserError(
                self._path.parent, expected="no other process that writes there", found=f"{holder.get('what', 'one')}, {name}",
                cure=f"wait for it or stop it, or name another {self._flag}",
            )  # fmt: skip
        guard = self._path.with_name(f"{self._path.name}.takeover")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            # Its process was killed within the next three lines, or it is dated in the future.
            if self._age(guard) > STALE_SECONDS or time.monotonic() - self._began > STALE_SECONDS:
                guard.unlink(missing_ok=True)
            time.sleep(0.05)
            return
        try:
            if self._read() == holder:
                self._path.unlink()
                say("the lock of %s is taken over: %s", name, reason)
        finally:
            guard.unlink(missing_ok=True)

    def _stale(self, holder: dict, name: str) -> str:
        """Why a lock is stale; empty where it is not. Waits for a renewal where only the age can tell."""
        pid = holder.get("pid")
        if holder.get("machine") == self._holder["machine"] and type(pid) is int:
            started = _started(pid)
            if started is None:
                return "that process is gone"
            return "" if started == holder.get("process_started") else "that process is gone, its number belongs to another"
        first, said, began = self._modified(self._path), False, time.monotonic()
        # A lock may be dated in the future: without a renewal the wait ends by this process's own clock.
        while (age := max(self._age(self._path), time.monotonic() - began)) <= STALE_SECONDS:
            if self._read() != holder:
                return "it was given back"
            if self._modified(self._path) != first:
                return ""
            if not said:
                say("waiting up to %.0f s for a sign of life of %s, which holds the lock", STALE_SECONDS - age, name)
                said = True
            time.sleep(_LOOK_SECONDS)
        return f"not heard of for {age:.0f} s"

    @staticmethod
    def _modified(path: Path) -> float | None:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _age(self, path: Path) -> float:
        """Seconds since `path` was modified, by the file system's own clock; 0 where it is gone."""
        probe = self._path.with_name(f"{self._path.name}.{self._token}.now")
        try:
            probe.touch()
            modified = self._modified(path)
            return 0.0 if modified is None else probe.stat().st_mtime - modified
        finally:
            probe.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._done.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # a file system that is away for a moment
                if self._read() != self._holder:
                    self._lost.set()
                    return
                os.utime(self._path)
