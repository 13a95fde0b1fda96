"""BucketSync: a run directory in a bucket, with a local copy in which the trainer works.

    with open_run_directory("gs://lab/runs/my_run") as run:      # a RunDirectory, the local copy
        run.remote.fetch(leave=run.remote.large)                 # enough to refuse another experiment
        with run.remote.owned():                                 # the rest; this process now owns the run
            ...
            run.remote.push()                                    # after every checkpoint

A bucket has no renames, no appends and no locks. Two rules replace them.

Order. A push uploads tables and pictures, then the best weights, then checkpoints; of each folder the checksums last. A folder that is overwritten
keeps a copy until the push ends. Files that are gone locally are removed last; files of the user's never. So a start after a death at any moment
finds a whole run.

Ownership. The trainer writes an owner token, downloads the run, and rechecks the token before every write. Of two trainers the later one wins; the
other one ends, and at most the file that it was uploading arrives after that, whole. Therefore the first push of a trainer that took a run over
uploads the best weights again. A push also looks for the stop file.
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
    is_complete,
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
_UNKNOWN = (0, 0, 0)  # the state of a file whose remote copy is not known: it is uploaded again
_ATTEMPTS, _RETRY_SECONDS = 3, 1.0


class BucketSync:
    """Synchronizes a run in a bucket with its local copy.

    Args:
      bucket: of the run.
      here: the local folder; made by `fetch`.
    """

    def __init__(self, bucket: Bucket, here: Path):
        self._bucket, self._here = bucket, here
        self._there: dict[str, tuple[int, int, int]] = {}  # name: state of the local file when both were last equal
        self._fetched: dict[str, str] = {}  # name: version that was downloaded
        self._owner, self._lost, self._best_kept, self._behind = b"", False, False, False
        self._moved: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """The address of the run."""
        return self._bucket.url

    @property
    def behind(self) -> bool:
        """Whether the local copy holds something that the bucket did not take."""
        return self._behind

    @property
    def large(self) -> tuple[str, ...]:
        """Names of the folders that are not needed to tell one run from another."""
        run = RunLayout(self._here)
        return _BEST_BEFORE, *(path.name for path in (run.best, run.checkpoints, run.pictures, run.tensorboard))

    def fetch(self, *, leave: Sequence[str] = ()) -> None:
        """Downloads everything except the folders `leave`, which pushes then ignore too.

        A trainer may remove a file that was just listed, or be halfway through new weights. Then it lists again.

        Raises:
          UserError: the bucket holds files but no run, or files vanish at every attempt.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_RETRY_SECONDS)
            gone = self._fetch(leave)
            if not gone and not self._torn():
                return
        if gone:  # torn best weights are left to their reader: a first push that was cut off leaves such
            found, cure = f"{gone[0]} gone as soon as it was listed, {_ATTEMPTS} times", "try again when the other process is done"
            raise UserError(self.url, expected="files that stay while they are fetched", found=found, cure=cure)

    def _fetch(self, leave: Sequence[str]) -> list[str]:
        """Downloads what is new or changed; returns the files that vanished before."""
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
        """Whether best weights were downloaded of which neither the present nor the replaced ones are whole."""
        came = any(name.startswith(f"{_BEST}/") for name in self._there)
        return came and bool(damage(self._here / _BEST)) and bool(damage(self._here / _BEST_BEFORE))

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Owns the run while the context is open: writes the owner token, downloads the run, and pushes at the end."""
        before = self._bucket.read(_OWNER)
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "token": uuid.uuid4().hex}
        self._owner = json.dumps(facts).encode()
        self._bucket.write(_OWNER, self._owner)
        fetched = False
        try:
            self.fetch(leave=[RunLayout(self._here).tensorboard.name])
            self._repair_checkpoints()
            self._best_kept, fetched = self._returns_to_replaced(), True
            if before:
                say("the run in %s was not given back by %s: it is taken over", self.url, _name(before))
                # A file of best weights that the other trainer was uploading may arrive after this download.
                self._there |= {name: _UNKNOWN for name in self._there if name.startswith(f"{_BEST}/")}
            yield
        except Exception as error:
            run = RunLayout(self._here)
            if run.started:  # now: the command writes the traceback after the local copy is removed
                with contextlib.suppress(OSError), run.log.open("a", encoding="utf-8") as file:
                    file.write("".join(traceback.format_exception(error)))
            raise
        finally:
            if fetched and RunLayout(self._here).started:  # else the local copy may hold half a file
                self.push()
            if self._bucket.read(_OWNER) == self._owner:
                self._bucket.remove([_OWNER])

    def _repair_checkpoints(self) -> None:
        """Repairs what a cut-off push left: an overwritten checkpoint is restored, half a new one is removed (in the bucket by the next push)."""
        for old in list(self._here.glob(_STEP_BEFORE)):
            folder = old.with_name(name_replaced(old.name))
            recover(folder)
            forget_replaced(folder)
        for folder in list(self._here.glob(_STEP)):
            if not is_complete(folder):
                shutil.rmtree(folder)

    def _returns_to_replaced(self) -> bool:
        """Whether this start returns to the replaced best weights, so that the present ones are not kept (see BestCheckpoint.restored)."""
        run = RunLayout(self._here)
        if damage(self._here / _BEST_BEFORE):
            return False
        steps = [read_facts(folder).get("step", 0) for folder in checkpoint_folders(run.checkpoints) if not damage(folder)]
        return bool(damage(run.best)) or read_facts(run.best).get("step", 0) > max(steps, default=0)

    def push(self, *, patient: bool = False, moved: Callable[[], None] = lambda: None) -> None:
        """Uploads what is new in the local copy.

        Args:
          patient: leave it to the next push where the bucket does not answer.
          moved: called after every file.

        Raises:
          UserError: another process owns the run now, or the bucket takes nothing from a reader, which only adds to a run.
          OSError: the bucket does not answer its trainer, or the local disk fails.
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
        """Uploads the log, for a process that ends at once."""
        log = RunLayout(self._here).log
        self._change(self._bucket.upload, log, log.name)

    def _change(self, act: Callable[..., None], *arguments: object, **more: object) -> None:
        """One change in the bucket, if this process still owns the run."""
        self._refuse_other_owner()
        act(*arguments, **more)
        self._moved()

    def _refuse_other_owner(self) -> None:
        if not self._owner:  # a reader: it only adds
            return
        found = self._bucket.read(_OWNER)
        if found != self._owner:
            self._lost, self._behind = True, False
            other = _name(found) if found else f"no {_OWNER}: it was removed"
            cure = "stop one of the two; what this one did since its last checkpoint is lost"
            raise UserError(_OWNER, expected=f"this process to own {self.url}", found=other, cure=cure)

    def _take_stop_file(self) -> None:
        name = RunLayout(self._here).stop_file.name
        if self._owner and self._bucket.read(name) is not None:
            (self._here / name).touch()
            self._bucket.remove([name])

    def _push(self) -> None:
        present = {path.relative_to(self._here).as_posix(): path for path in self._here.rglob("*") if path.is_file()}
        present = {name: path for name, path in present.items() if _is_synced(name)}
        changed = sorted((name for name in present if self._there.get(name) != _state(present[name])), key=_upload_order)
        for folder in sorted({name.rpartition("/")[0] for name in changed if name in self._there}):
            if folder == _BEST and not self._best_kept:
                self._keep(folder)
                self._best_kept = True  # once, even where the push fails later
            # The same for a checkpoint, which is whole in the bucket only with its checksums; a copy that is whole already is kept.
            elif fnmatch(folder, _STEP) and f"{folder}/{CHECKSUMS}" in self._there and f"{_kept(folder)}/{CHECKSUMS}" not in self._there:
                self._keep(folder)
        for name in changed:
            state = _state(present[name])
            self._change(self._bucket.upload, present[name], name, moved=self._moved)
            self._there[name] = state
        if not self._owner:
            return
        for name in sorted(name for name in set(self._there) - set(present) if _is_synced(name)):
            self._change(self._bucket.remove, [name])
            del self._there[name]
        self._best_kept = False

    def _keep(self, folder: str) -> None:
        """Copies a folder in the bucket that is about to be overwritten; the copy is removed at the end of the push."""
        names = [name for name in self._there if name.startswith(f"{folder}/")]
        for name in sorted(names, key=_upload_order):
            kept = f"{_kept(folder)}/{name.removeprefix(f'{folder}/')}"
            self._change(self._bucket.copy, name, kept)
            self._there.setdefault(kept, _UNKNOWN)


def _name(owner: bytes) -> str:
    try:
        facts = json.loads(owner)
        return f"process {facts['pid']} on {facts['host']}, begun {facts['started']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "an unknown process"


def _state(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino  # the inode tells apart two files of one size and time


def _kept(folder: str) -> str:
    """Where `write_checkpoint` keeps what was in a folder."""
    parent, slash, name = folder.rpartition("/")
    return f"{parent}{slash}{replaced_name(name)}"


def _is_synced(name: str) -> bool:
    """Whether a file is synchronized: not half-written files, the local lock, the local stop file, or hidden files."""
    run = RunLayout(".")
    top = name.partition("/")[0]
    if top == _BEST_BEFORE or fnmatch(name, f"{_STEP_BEFORE}/*"):
        return True
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not (hidden or top.startswith((run.lock_file.name, run.stop_file.name)))


def _upload_order(name: str) -> tuple:
    run, top = RunLayout("."), name.partition("/")[0]
    if top in run.beginning:
        rank = 0 if name == run.manifest.name else 1
    else:
        rank = {run.config.name: 2, _BEST_BEFORE: 4, run.best.name: 5, run.checkpoints.name: 6, run.finished.name: 7}.get(top, 3)
    return rank, name.rpartition("/")[0], name.endswith(CHECKSUMS), name
