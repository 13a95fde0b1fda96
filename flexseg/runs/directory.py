"""RunDirectory: reads and writes the files of one run, and refuses directories of something else.

    run = RunDirectory("runs/my_run")
    run.make()                               # the folder and log.txt
    run.checkpoints, run.best, run.tensorboard, run.losses_csv, ...

No file of the user's is ever deleted.
"""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flexseg.errors import UserError, suggest
from flexseg.files.atomic import make_folder, open_to_append, replace_file
from flexseg.files.json_files import json_type, read_json
from flexseg.files.names import refuse_link_out_of
from flexseg.machine import onednn_by_default
from flexseg.runs.bucket import Bucket, is_bucket
from flexseg.runs.bucket_sync import BucketSync
from flexseg.runs.layout import RunLayout
from flexseg.user_modules import is_record

_PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")
_MOST_BYTES = 2**20  # of an environment.json: a run writes a few thousand


class _Log(logging.FileHandler):
    """A log that ignores a full disk: the next checkpoint reports it."""

    def _open(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(open_to_append(self.baseFilename), encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        pass


class RunDirectory(RunLayout):
    """A run directory (`--workdir`).

    Args:
      path: of the directory, which need not exist.
      remote: synchronizes a local copy with its bucket; None for a directory of this machine.
    """

    def __init__(self, path: str | Path, *, remote: BucketSync | None = None):
        super().__init__(path)
        self.remote = remote

    def name_of(self, path: Path) -> str:
        """A path of this run as the user knows it: in the bucket, where the run is in one."""
        return f"{self.remote.url}/{path.relative_to(self.path).as_posix()}".removesuffix("/.") if self.remote else str(path)

    def refuse_foreign_files(self) -> None:
        """Refuses a directory that holds files but no run, with a UserError."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir={self.path}", expected="a directory", found="a file")
        entries = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        self.refuse_foreign_names(entries - {path.name for path in self._leftovers()}, where=self.path)

    def _leftovers(self) -> list[Path]:
        """Temporary files that a killed `replace_file` left."""
        names = [path.name for path in vars(self).values() if isinstance(path, Path) and path.suffix]
        return [path for path in self.path.glob(".*") if path.is_file() and any(path.name.startswith(f".{name}.") for name in names)]

    def remove_leftovers(self) -> None:
        """Removes temporary files of a killed start; only the holder of the lock may call it."""
        for path in self._leftovers():
            path.unlink(missing_ok=True)

    def make(self) -> None:
        """Makes the directory and sends the log to `log.txt` too."""
        make_folder(self.path, flag="--workdir")
        self.refuse_links()
        handler = _Log(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        log = logging.getLogger("flexseg")
        log.handlers = [other for other in log.handlers if not isinstance(other, logging.FileHandler)]
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # absl would print every line a second time

    def refuse_links(self) -> None:
        """Refuses, with a UserError, pipes and devices below the directory, and links out of it: what is written there would be written elsewhere.

        The directory itself may be a link.
        """

        def unreadable(error: OSError) -> None:
            if isinstance(error, FileNotFoundError):  # a trainer may be at work
                return
            raise UserError(error.filename, expected="a folder of the run", found=error.strerror or "one that cannot be read") from error

        for folder, folders, files in os.walk(self.path, onerror=unreadable):  # which follows no link
            for name in (*folders, *files):
                path = Path(folder, name)
                refuse_link_out_of(self.path, path)
                with contextlib.suppress(FileNotFoundError):
                    kind = stat.S_IFMT(path.lstat().st_mode)
                    if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                        continue
                    raise UserError(path, expected="a file or a folder", found="a pipe, a socket or a device", cure="remove it")

    def remove_log(self) -> None:
        """Removes `log.txt`, for a start that was refused before it wrote anything else."""
        log = logging.getLogger("flexseg")
        for handler in [other for other in log.handlers if isinstance(other, logging.FileHandler)]:
            log.removeHandler(handler)
            handler.close()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # refused before there was one
            self.log.unlink()

    def remove_if_empty(self) -> None:
        """Removes the directory if it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def write_environment(self, environment: dict) -> None:
        """Writes `environment.json`: versions, devices, the dataset's directory, the values that `auto` took."""
        replace_file(self.environment, json.dumps(environment, indent=1, sort_keys=True).encode())

    def read_environment(self) -> dict:
        """`environment.json` of the run.

        Raises:
          UserError: when there is no run here.
        """
        if not self.environment.is_file():
            beside = [path.parent.name for path in self.path.parent.glob("*/environment.json")]
            raise UserError(
                f"--workdir={self.name_of(self.path)}",
                expected="a run directory written by `flexseg train`",
                found="no environment.json in it" if self.path.is_dir() else "no such directory",
                cure=f"name one that holds a run.{suggest(self.path.name, beside)}",
            )
        try:
            environment = read_json(self.environment, most_bytes=_MOST_BYTES)
            return _checked_environment(environment)
        except ValueError as error:
            cure = "put it back, or train into another --workdir"
            raise UserError(self.environment, expected="what `flexseg train` wrote", found=f"another file ({error})", cure=cure) from error

    def read_finished(self) -> dict | None:
        """`reason`, `epochs` and `step` of `finished.json`; None while the run is not finished.

        Raises:
          UserError: the file is another one.
        """
        if not self.finished.is_file():
            return None
        try:
            finished = read_json(self.finished, most_bytes=_MOST_BYTES)
            if not isinstance(finished, dict) or any(type(finished.get(name)) is not int or finished[name] < 0 for name in ("epochs", "step")):
                raise ValueError("no number of epochs and steps")
            if not isinstance(finished.get("reason"), str):
                raise ValueError("no reason")
        except ValueError as error:
            cure = "remove it to resume the run, or train into another --workdir"
            raise UserError(self.finished, expected="what `flexseg train` wrote", found=f"another file ({error})", cure=cure) from error
        return finished

    def refuse_other_dataset(self, dataset_directory: Path) -> None:
        """Refuses another dataset than the run began with, or another build of it, with a UserError."""
        source = Path(dataset_directory) / "manifest.json"
        if self.manifest.is_file() and self.manifest.read_bytes() != source.read_bytes():
            raise UserError(
                self.manifest,
                expected=f"the manifest of {dataset_directory}",
                found="another one: the run was begun on another dataset, or it was built again",
                cure="train into another --workdir",
            )

    def copy_dataset_facts(self, dataset_directory: Path, label_map: dict) -> None:
        """Copies the manifest and the LabelMap, so that prediction needs no dataset."""
        replace_file(self.manifest, (Path(dataset_directory) / "manifest.json").read_bytes())
        replace_file(self.label_map, json.dumps(label_map, indent=1).encode())


def _checked_environment(environment: object) -> dict:
    """`environment.json` with what its readers rely on; a ValueError for anything else."""
    if not isinstance(environment, dict):
        raise ValueError(f"it is {json_type(environment)}")
    if isinstance(names := environment.get("user_modules"), list) and all(isinstance(name, str) for name in names):
        environment["user_modules"] = {module: [] for module in names}  # runs of the first months know names alone
    for name, kind in {"precision": str, "dataset": str, "dataset_directory": str, "global_batch_size": int}.items():
        if type(environment.get(name)) is not kind:
            raise ValueError(f"{name} is {json_type(environment.get(name))}")
    if environment["precision"] not in _PRECISIONS or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", environment["dataset"]):
        raise ValueError(f"precision is none of {', '.join(_PRECISIONS)}, or dataset is no name of one")
    if not is_record(environment.setdefault("user_modules", {})):
        raise ValueError("user_modules are not names of modules with file and checksum")
    return environment


def recorded_onednn(workdir: str | None) -> bool | None:
    """Whether a run was trained with oneDNN, for `load_tensorflow`; None where no run can be read.

    What is wrong with the directory is reported later, by what opens it.
    """
    if not workdir:
        return None
    try:
        name = RunLayout(".").environment.name
        text: bytes | None = b""
        if is_bucket(workdir):
            text = Bucket(workdir, flag="--workdir").read(name)
        elif (path := Path(workdir, name)).is_file() and path.stat().st_size <= _MOST_BYTES:
            text = path.read_bytes()
        environment = json.loads(text or "null")
    except (UserError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(environment, dict):
        return None
    recorded = environment.get("onednn", onednn_by_default())  # runs of 0.1.0 recorded nothing, and TensorFlow decided
    return recorded if isinstance(recorded, bool) else None


@contextlib.contextmanager
def open_run_directory(workdir: str, *, flag: str = "--workdir") -> Iterator[RunDirectory]:
    """Opens a path, or the address of a bucket as a local copy in the folder for temporary files, empty until `remote.fetch()`.

    The copy is removed at the end, unless it holds something that the bucket did not take.

    Raises:
      UserError: for an address that is no bucket's.
    """
    if not is_bucket(workdir):
        yield RunDirectory(workdir)
        return
    bucket, folder = Bucket(workdir, flag=flag), Path(tempfile.mkdtemp(prefix="flexseg_"))
    here = folder / workdir.rstrip("/").rpartition("/")[2]
    remote = BucketSync(bucket, here)
    try:
        yield RunDirectory(here, remote=remote)
    finally:
        if not remote.behind:
            shutil.rmtree(folder, ignore_errors=True)
