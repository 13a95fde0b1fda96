"""RemoteRun: a run directory in a bucket, worked on in a copy here.

    with run_directory("gs://lab/runs/my_run") as run:      # a RunDirectory; one of this machine for a path of this machine
        run.remote.fetch(leave=run.remote.large)            # enough to refuse another experiment
        with run.remote.owned():                            # the rest, and from now on this process trains it
            ...
            run.remote.push()                               # after every checkpoint

A bucket has no renames, no appending and no locks. So a push keeps an order that a start after a death at any moment finds whole: tables and
pictures, then the best weights (those before are kept beside them, as on a disk), then checkpoints, each with its checksums last, and only then what
is gone here is removed there. Who trains writes its name there, takes what lies there after that, and looks for its name before it writes or removes
anything: of two trainers the one that started last wins, and the other ends; only what it was writing at that moment may still arrive, whole. The
stop file is looked for at every push.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexseg.console import say
from flexseg.errors import UserError
from flexseg.files.bucket import Bucket, is_bucket
from flexseg.inference.weights import damage, read_facts
from flexseg.training.run_directory import RunDirectory

_OWNER = "run.owner"
_SUMS = "SHA256SUMS"
_BEST, _BEST_BEFORE = "best", ".best.old"
_LOOKS, _LOOK_AGAIN_SECONDS = 3, 1.0


class RemoteRun:
    """A bucket's side of a run directory.

    Args:
      bucket: where the run lives.
      here: the folder that is its copy on this machine; made by `fetch`.
    """

    def __init__(self, bucket: Bucket, here: Path):
        self._bucket, self._here = bucket, here
        self._there: dict[str, tuple[int, int]] = {}  # name: (bytes, modified) of the copy here when it was last equal
        self._owner, self._lost, self._best_kept, self._behind = b"", False, False, False

    @property
    def url(self) -> str:
        """Where the run lives."""
        return self._bucket.url

    @property
    def behind(self) -> bool:
        """Whether something here is not there because the bucket did not take it."""
        return self._behind

    @property
    def large(self) -> tuple[str, ...]:
        """Folders that tell nothing of what a run is."""
        run = RunDirectory(self._here)
        return _BEST_BEFORE, *(path.name for path in (run.best, run.checkpoints, run.pictures, run.tensorboard))

    def fetch(self, *, leave: Sequence[str] = ()) -> None:
        """Brings everything here except what lies in the folders `leave`, which a push will not touch then.

        Whoever trains the run at this moment may remove a file that was just listed, or be halfway through new weights: then all is looked at again.

        Raises:
          UserError: for a place that holds files but no run.
        """
        for look in range(_LOOKS):
            if look:
                time.sleep(_LOOK_AGAIN_SECONDS)
            if self._fetch(leave) and not self._torn():
                return

    def _fetch(self, leave: Sequence[str]) -> bool:
        names = self._bucket.files()
        RunDirectory(self._here).refuse_foreign_names({name.partition("/")[0] for name in names} - {_OWNER}, where=self.url)
        found = {name for name in names if name.partition("/")[0] not in leave and name != _OWNER}
        for name in set(self._there) - found:
            (self._here / name).unlink(missing_ok=True)
            del self._there[name]
        for name in sorted(found):
            try:
                self._bucket.download(name, self._here / name)
            except FileNotFoundError:
                (self._here / name).unlink(missing_ok=True)
                return False
            self._there[name] = _state(self._here / name)
        return True

    def _torn(self) -> bool:
        """Whether best weights came, and neither these nor those before them are whole."""
        came = any(name.startswith(f"{_BEST}/") for name in self._there)
        return came and bool(damage(self._here / _BEST)) and bool(damage(self._here / _BEST_BEFORE))

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """While this process trains the run, which it brings here; at the end comes the last push."""
        before = self._bucket.read(_OWNER)
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "token": uuid.uuid4().hex}
        self._owner = json.dumps(facts).encode()
        self._bucket.write(_OWNER, self._owner)
        fetched = False
        try:
            self.fetch(leave=[RunDirectory(self._here).tensorboard.name])
            self._best_kept, fetched = self._goes_back(), True
            if before:
                say("the run in %s was not given back by %s: it is taken over", self.url, _name(before))
            yield
        finally:
            if fetched and RunDirectory(self._here).started:  # else half a file might lie here
                self.push()
            if self._bucket.read(_OWNER) == self._owner:
                self._bucket.remove([_OWNER])

    def _goes_back(self) -> bool:
        """Whether a start goes back to the best weights before: those there must not be kept in their place (see BestWeights.restored)."""
        run = RunDirectory(self._here)
        if damage(self._here / _BEST_BEFORE):
            return False
        steps = [read_facts(folder)["step"] for folder in run.checkpoints.glob("step_*") if not damage(folder)]
        return bool(damage(run.best)) or read_facts(run.best)["step"] > max(steps, default=0)

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
        self._behind = True
        try:
            self._refuse_other_owner()
            self._take_stop_file()
            self._push()
        except UserError as error:
            if error.where == _OWNER:
                raise
            if not patient:
                kept = f"The run lies whole in {self._here} too: --workdir={self._here} goes on with it"
                raise OSError(errno.EIO, f"{error} {kept}") from error
            say("%s The next checkpoint tries again.", error)
        else:
            self._behind = False

    def _refuse_other_owner(self) -> None:
        if not self._owner:  # a guest: it only adds
            return
        found = self._bucket.read(_OWNER)
        if found != self._owner:
            self._lost, self._behind = True, False
            other = _name(found) if found else f"no {_OWNER}: it was removed"
            cure = "one of the two must go; what this one did since its last checkpoint is lost"
            raise UserError(_OWNER, expected=f"this process to be the one that writes {self.url}", found=other, cure=cure)

    def _take_stop_file(self) -> None:
        name = RunDirectory(self._here).stop_file.name
        if self._owner and self._bucket.read(name) is not None:
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
            self._refuse_other_owner()
            self._bucket.upload(present[name], name)
            self._there[name] = state
        if not self._owner:
            return
        for name in sorted(set(self._there) - set(present)):
            self._refuse_other_owner()
            self._bucket.remove([name])
            del self._there[name]
        self._best_kept = False

    def _keep_best(self) -> None:
        """The best weights there stay whole beside what is about to be written over them, until the checkpoint is there too."""
        names = [name for name in self._there if name.startswith(f"{_BEST}/")]
        for name in sorted(names, key=_place_in_order):
            kept = f"{_BEST_BEFORE}/{name.removeprefix(f'{_BEST}/')}"
            self._refuse_other_owner()
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

    The copy goes at the end, unless it holds what the bucket did not take.

    Raises:
      UserError: for an address that is no bucket's.
    """
    if not is_bucket(workdir):
        yield RunDirectory(workdir)
        return
    bucket, folder = Bucket(workdir, flag=flag), Path(tempfile.mkdtemp(prefix="flexseg_"))
    here = folder / workdir.rstrip("/").rpartition("/")[2]
    remote = RemoteRun(bucket, here)
    try:
        yield RunDirectory(here, remote=remote)
    finally:
        if not remote.behind:
            shutil.rmtree(folder, ignore_errors=True)
