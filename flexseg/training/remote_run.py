"""RemoteRun: a run directory in a bucket, worked on in a copy here.

    with run_directory("gs://lab/runs/my_run") as run:      # a RunDirectory; one of this machine for a path of this machine
        run.remote.fetch(leave=("tensorboard",))
        ...
        run.remote.push()                                   # after every checkpoint

A bucket has no renames, no appending and no locks. So a push keeps an order that a start after a death at any moment finds whole: tables and
pictures, then the best weights (those before are kept beside them, as on a disk), then checkpoints, each with its checksums last, and only then what
is gone here is removed there. Who trains writes its name there and looks for it before every push: of two trainers the one that started last wins,
and the other ends before it overwrites anything. The stop file is looked for at every push.
"""

import contextlib
import errno
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexseg.console import say
from flexseg.errors import UserError
from flexseg.files.bucket import Bucket, is_bucket
from flexseg.training.run_directory import RunDirectory

_OWNER = "run.owner"
_SUMS = "SHA256SUMS"
_BEST, _BEST_BEFORE = "best", ".best.old"


class RemoteRun:
    """A bucket's side of a run directory.

    Args:
      bucket: where the run lives.
      here: the folder that is its copy on this machine; made by `fetch`.
    """

    def __init__(self, bucket: Bucket, here: Path):
        self._bucket, self._here = bucket, here
        self._there: dict[str, tuple[int, int]] = {}  # name: (bytes, modified) of the copy here when it was last equal
        self._owner, self._lost, self._best_kept = b"", False, False

    @property
    def url(self) -> str:
        """Where the run lives."""
        return self._bucket.url

    def fetch(self, *, leave: Sequence[str] = ()) -> None:
        """Brings everything here except what lies in the folders `leave`, which a push will not touch then.

        Raises:
          UserError: for a place that holds files but no run.
        """
        names = self._bucket.files()
        RunDirectory(self._here).refuse_foreign_names({name.partition("/")[0] for name in names} - {_OWNER}, where=self.url)
        for name in names:
            if name.partition("/")[0] not in leave and name != _OWNER:
                self._bucket.download(name, self._here / name)
                self._there[name] = _state(self._here / name)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """While this process trains the run, once `fetch` brought it; at the end comes the last push."""
        before = self._bucket.read(_OWNER)
        if before:
            say("the run in %s was not given back by %s: it is taken over", self.url, _name(before))
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "token": uuid.uuid4().hex}
        self._owner = json.dumps(facts).encode()
        self._bucket.write(_OWNER, self._owner)
        try:
            yield
        finally:
            if RunDirectory(self._here).started:
                self.push()
            if not self._lost:
                self._bucket.remove([_OWNER])

    def push(self, *, patient: bool = False) -> None:
        """Brings there what is new here.

        Args:
          patient: leave it to the next push where the bucket does not answer.

        Raises:
          UserError: when another process took the run.
          OSError: when the bucket does not answer.
        """
        if self._lost:
            return
        try:
            if self._owner:
                self._refuse_other_owner()
                self._take_stop_file()
            self._push()
        except UserError as error:
            if error.where == _OWNER:
                raise
            if not patient:
                raise OSError(errno.EIO, str(error)) from error
            say("%s The next checkpoint tries again.", error)

    def _refuse_other_owner(self) -> None:
        found = self._bucket.read(_OWNER)
        if found != self._owner:
            self._lost = True
            other = _name(found) if found else f"no {_OWNER}: it was removed"
            cure = "one of the two must go; what this one did since its last checkpoint is lost"
            raise UserError(_OWNER, expected=f"this process to be the one that writes {self.url}", found=other, cure=cure)

    def _take_stop_file(self) -> None:
        name = RunDirectory(self._here).stop_file.name
        if self._bucket.read(name) is not None:
            (self._here / name).touch()
            self._bucket.remove([name])

    def _push(self) -> None:
        present = {path.relative_to(self._here).as_posix(): path for path in self._here.rglob("*") if path.is_file()}
        present = {name: path for name, path in present.items() if _travels(name)}
        changed = sorted((name for name in present if self._there.get(name) != _state(present[name])), key=_place_in_order)
        if not self._best_kept and any(name.startswith(f"{_BEST}/") and name in self._there for name in changed):
            self._keep_best()  # once, however often a push fails behind it
        for name in changed:
            state = _state(present[name])
            self._bucket.upload(present[name], name)
            self._there[name] = state
        if not self._owner:  # a guest: it only adds
            return
        for name in sorted(set(self._there) - set(present)):
            self._bucket.remove([name])
            del self._there[name]
        self._best_kept = False

    def _keep_best(self) -> None:
        """The best weights there stay whole beside what is about to be written over them, until the checkpoint is there too."""
        names = [name for name in self._there if name.startswith(f"{_BEST}/")]
        for name in sorted(names, key=_place_in_order):
            kept = f"{_BEST_BEFORE}/{name.removeprefix(f'{_BEST}/')}"
            self._bucket.copy(name, kept)
            self._there.setdefault(kept, (0, 0))
        self._best_kept = True


def _name(owner: bytes) -> str:
    try:
        facts = json.loads(owner)
        return f"process {facts['pid']} on {facts['host']}, begun {facts['started']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def _state(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _travels(name: str) -> bool:
    """Not what is half-written, nor the lock of this machine's copy, nor what asks this copy to stop."""
    run = RunDirectory(".")
    top = name.partition("/")[0]
    hidden = any(part.startswith(".") for part in name.split("/"))
    return top == _BEST_BEFORE or not (hidden or top.startswith((run.lock_file.name, run.stop_file.name)))


def _place_in_order(name: str) -> tuple:
    run, top = RunDirectory("."), name.partition("/")[0]
    if top in run.beginning:
        rank = 0 if name == run.manifest.name else 1
    else:
        rank = {run.config.name: 2, _BEST_BEFORE: 4, run.best.name: 5, run.checkpoints.name: 6, run.finished.name: 7}.get(top, 3)
    return rank, name.rpartition("/")[0], name.endswith(_SUMS), name


@contextlib.contextmanager
def run_directory(workdir: str, *, flag: str = "--workdir") -> Iterator[RunDirectory]:
    """The run directory of a path, or for the address of a bucket a copy below the machine's folder for temporary files, empty until fetched.

    Raises:
      UserError: for an address that is no bucket's.
    """
    if not is_bucket(workdir):
        yield RunDirectory(workdir)
        return
    with tempfile.TemporaryDirectory(prefix="flexseg_") as folder:
        here = Path(folder) / workdir.rstrip("/").rpartition("/")[2]
        yield RunDirectory(here, remote=RemoteRun(Bucket(workdir, flag=flag), here))
