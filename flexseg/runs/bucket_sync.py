"""BucketSync: a run directory in a bucket, worked on in a copy here.

    with open_run_directory("gs://lab/runs/my_run") as run:      # a RunDirectory
        run.remote.fetch(leave=run.remote.large)            # enough to refuse another experiment
        with run.remote.owned():                            # the rest, and from now on this process trains it
            ...
            run.remote.push()                               # after every checkpoint

A bucket has no renames, no appending and no locks. So a push keeps an order that a start after a death at any moment finds whole: tables and
pictures, then the best weights, then checkpoints, each with its checksums last (best weights and a checkpoint that are written over stay beside
them meanwhile, as on a disk), and only then what is gone here is removed there: what flexseg may have written, and never another file of the user's.
Who trains writes its name there, takes what lies there after that, and looks for its name before it writes or removes anything: of two trainers the
one that started last wins, and the other ends; only what it was writing at that moment may still arrive, whole. For that the first push of a trainer
that took a run over writes the best weights anew; what arrives later still is not looked for. The stop file is looked for at every push.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from flexseg.console import say
from flexseg.errors import UserError
from flexseg.runs.bucket import Bucket
from flexseg.runs.checkpoint_format import (
    CHECKSUMS,
    FOLDERS,
    checkpoint_folders,
    damage,
    forget_replaced,
    name_replaced,
    read_facts,
    recover,
    replaced_name,
)
from flexseg.runs.layout import RunLayout

_OWNER = "run.owner"
_BEST = RunLayout(".").best.name
_BEST_BEFORE = replaced_name(_BEST)
_STEP, _STEP_BEFORE = (f"{RunLayout('.').checkpoints.name}/{name}" for name in (FOLDERS, replaced_name(FOLDERS)))
_UNKNOWN = (0, 0, 0)  # the state of no file
_LOOKS, _LOOK_AGAIN_SECONDS = 3, 1.0


class BucketSync:
    """A bucket's side of a run directory.

    Args:
      bucket: where the run lives.
      here: the folder that is its copy on this machine; made by `fetch`.
    """

    def __init__(self, bucket: Bucket, here: Path):
        self._bucket, self._here = bucket, here
        self._there: dict[str, tuple[int, int, int]] = {}  # name: state of the copy here when it was last equal
        self._fetched: dict[str, str] = {}  # name: version that came
        self._owner, self._lost, self._best_kept, self._behind = b"", False, False, False
        self._moved: Callable[[], None] = lambda: None

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
        run = RunLayout(self._here)
        return _BEST_BEFORE, *(path.name for path in (run.best, run.checkpoints, run.pictures, run.tensorboard))

    def fetch(self, *, leave: Sequence[str] = ()) -> None:
        """Brings everything here except what lies in the folders `leave`, which a push will not touch then.

        Whoever trains the run at this moment may remove a file that was just listed, or be halfway through new weights: then it looks again for what
        is new.

        Raises:
          UserError: for a place that holds files but no run, or whose files went while they were fetched, time and again.
        """
        for look in range(_LOOKS):
            if look:
                time.sleep(_LOOK_AGAIN_SECONDS)
            gone = self._fetch(leave)
            if not gone and not self._torn():
                return
        if gone:  # best weights that stay torn are left to who reads them: a first push that was cut off leaves such
            found, cure = f"{gone[0]} gone as soon as it was listed, {_LOOKS} times", "try again when whoever writes there is done"
            raise UserError(self.url, expected="files that stay while they are fetched", found=found, cure=cure)

    def _fetch(self, leave: Sequence[str]) -> list[str]:
        """Brings what is new or changed; returns what was gone before it came."""
        names, gone = self._bucket.files(), []
        RunLayout(self._here).refuse_foreign_names({name.partition("/")[0] for name in names} - {_OWNER}, where=self.url)
        found = {name for name in names if name.partition("/")[0] not in leave and name != _OWNER}
        for name in set(self._there) - found:
            (self._here / name).unlink(missing_ok=True)
            del self._there[name]
        for name in sorted(found):
            if name in self._there and self._fetched.get(name) == names[name]:
                continue
            try:
                self._bucket.download(name, self._here / name)
            except FileNotFoundError:
                (self._here / name).unlink(missing_ok=True)
                self._there.pop(name, None)
                gone.append(name)
                continue
            self._there[name], self._fetched[name] = _state(self._here / name), names[name]
        return gone

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
            self.fetch(leave=[RunLayout(self._here).tensorboard.name])
            self._mend_checkpoints()
            self._best_kept, fetched = self._goes_back(), True
            if before:
                say("the run in %s was not given back by %s: it is taken over", self.url, _name(before))
                # A file of best weights that the other was just writing may arrive after these came.
                self._there |= {name: _UNKNOWN for name in self._there if name.startswith(f"{_BEST}/")}
            yield
        except Exception as error:
            run = RunLayout(self._here)
            if run.started:  # now: the command writes it once the copy here is gone
                with contextlib.suppress(OSError), run.log.open("a", encoding="utf-8") as file:
                    file.write("".join(traceback.format_exception(error)))
            raise
        finally:
            if fetched and RunLayout(self._here).started:  # else half a file might lie here
                self.push()
            if self._bucket.read(_OWNER) == self._owner:
                self._bucket.remove([_OWNER])

    def _mend_checkpoints(self) -> None:
        """A push that was cut off is no damage: a checkpoint that it wrote over is as before, half a new one goes, there at the next push."""
        for old in list(self._here.glob(_STEP_BEFORE)):
            folder = old.with_name(name_replaced(old.name))
            recover(folder)
            forget_replaced(folder)
        for folder in list(self._here.glob(_STEP)):
            if not (folder / CHECKSUMS).is_file():
                shutil.rmtree(folder)

    def _goes_back(self) -> bool:
        """Whether a start goes back to the best weights before: those there must not be kept in their place (see BestCheckpoint.restored)."""
        run = RunLayout(self._here)
        if damage(self._here / _BEST_BEFORE):
            return False
        steps = [read_facts(folder)["step"] for folder in checkpoint_folders(run.checkpoints) if not damage(folder)]
        return bool(damage(run.best)) or read_facts(run.best)["step"] > max(steps, default=0)

    def push(self, *, patient: bool = False, moved: Callable[[], None] = lambda: None) -> None:
        """Brings there what is new here.

        Args:
          patient: leave it to the next push where the bucket does not answer.
          moved: called again and again while something moves.

        Raises:
          UserError: when another process took the run, or the bucket takes nothing from a guest, who only adds to a run.
          OSError: when the bucket does not answer its trainer, or the disk here is failing.
        """
        if self._lost:
            return
        self._behind, self._moved = True, moved
        try:
            self._refuse_other_owner()
            self._take_stop_file()
            self._push()
        except UserError as error:
            if error.where == _OWNER:
                raise
            if patient:
                say("%s The next checkpoint tries again.", error)
            elif self._owner:
                kept = f"The run lies whole in {self._here} too: --workdir={self._here} goes on with it"
                raise OSError(errno.EIO, f"{error} {kept}") from error
            else:
                cure = f"{error.cure}; until then what was written lies in {self._here}"
                raise UserError(error.where, expected="a bucket that takes what was written", found=error.found, cure=cure) from error
        else:
            self._behind = False

    def push_log(self) -> None:
        """Brings the log there, for a process that ends where it stands."""
        log = RunLayout(self._here).log
        self._change(self._bucket.upload, log, log.name)

    def _change(self, act: Callable[..., None], *arguments, **more) -> None:
        """One change there, if the run is still this process's."""
        self._refuse_other_owner()
        act(*arguments, **more)
        self._moved()

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
        name = RunLayout(self._here).stop_file.name
        if self._owner and self._bucket.read(name) is not None:
            (self._here / name).touch()
            self._bucket.remove([name])

    def _push(self) -> None:
        present = {path.relative_to(self._here).as_posix(): path for path in self._here.rglob("*") if path.is_file()}
        present = {name: path for name, path in present.items() if _travels(name)}
        changed = sorted((name for name in present if self._there.get(name) != _state(present[name])), key=_place_in_order)
        for folder in sorted({name.rpartition("/")[0] for name in changed if name in self._there}):
            if folder == _BEST and not self._best_kept:
                self._keep(folder)
                self._best_kept = True  # once, however often a push fails behind it
            # The same of a checkpoint, which is whole there only if its sums are: what is kept whole already stays.
            elif fnmatch(folder, _STEP) and f"{folder}/{CHECKSUMS}" in self._there and f"{_kept(folder)}/{CHECKSUMS}" not in self._there:
                self._keep(folder)
        for name in changed:
            state = _state(present[name])
            self._change(self._bucket.upload, present[name], name, moved=self._moved)
            self._there[name] = state
        if not self._owner:
            return
        for name in sorted(name for name in set(self._there) - set(present) if _travels(name)):
            self._change(self._bucket.remove, [name])
            del self._there[name]
        self._best_kept = False

    def _keep(self, folder: str) -> None:
        """A folder there stays whole beside what is about to be written over it, until the end of the push."""
        names = [name for name in self._there if name.startswith(f"{folder}/")]
        for name in sorted(names, key=_place_in_order):
            kept = f"{_kept(folder)}/{name.removeprefix(f'{folder}/')}"
            self._change(self._bucket.copy, name, kept)
            self._there.setdefault(kept, _UNKNOWN)


def _name(owner: bytes) -> str:
    try:
        facts = json.loads(owner)
        return f"process {facts['pid']} on {facts['host']}, begun {facts['started']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def _state(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino  # by the last a file put in the place of one of the same moment is told from it


def _kept(folder: str) -> str:
    """Where `write_checkpoint` keeps what was in a folder."""
    parent, slash, name = folder.rpartition("/")
    return f"{parent}{slash}{replaced_name(name)}"


def _travels(name: str) -> bool:
    """Not what is half-written, nor the lock of this machine's copy, nor what asks this copy to stop, nor a hidden file of the user's."""
    run = RunLayout(".")
    top = name.partition("/")[0]
    if top == _BEST_BEFORE or fnmatch(name, f"{_STEP_BEFORE}/*"):
        return True
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not (hidden or top.startswith((run.lock_file.name, run.stop_file.name)))


def _place_in_order(name: str) -> tuple:
    run, top = RunLayout("."), name.partition("/")[0]
    if top in run.beginning:
        rank = 0 if name == run.manifest.name else 1
    else:
        rank = {run.config.name: 2, _BEST_BEFORE: 4, run.best.name: 5, run.checkpoints.name: 6, run.finished.name: 7}.get(top, 3)
    return rank, name.rpartition("/")[0], name.endswith(CHECKSUMS), name
