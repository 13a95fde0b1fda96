"""RunDirectory: the files of one run, and what a second start may find there.

    run = RunDirectory("runs/my_run")
    run.make()                               # the folder and log.txt
    run.checkpoints, run.best, run.tensorboard, run.losses_csv, ...

Nothing of the user's is ever deleted here.
"""

import contextlib
import json
import logging
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from flexseg.errors import UserError, suggest
from flexseg.files.atomic import make_folder, replace_file

if TYPE_CHECKING:
    from flexseg.training.remote_run import RemoteRun


class _Log(logging.FileHandler):
    """A log on a disk that may be full: a line less is no reason to stop, nor to print a traceback; the next checkpoint tells."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        pass


class RunDirectory:
    """Paths of a run directory (`--workdir`).

    Args:
      path: of the directory, which need not exist.
      remote: the bucket that it is a copy of, if it is one (see remote_run.py).
    """

    def __init__(self, path: str | Path, *, remote: "RemoteRun | None" = None):
        self.path, self.remote = Path(path).absolute(), remote
        self.config = self.path / "config.gin"
        self.operative_config = self.path / "operative_config.gin"
        self.environment = self.path / "environment.json"
        self.label_map = self.path / "label_map.json"
        self.manifest = self.path / "manifest.json"
        self.summary = self.path / "summary.txt"
        self.log = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.tensorboard = self.path / "tensorboard"
        self.losses_csv = self.path / "train_losses.csv"
        self.metrics_csv = self.path / "train_metrics.csv"
        self.pictures = self.path / "epoch_change_infer"
        self.picture_sheet = self.path / "epoch_change_infer.png"
        self.finished = self.path / "finished.json"
        self.stop_file = self.path / "break_training"
        self.lock_file = self.path / "run.lock"

    @property
    def started(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    @property
    def beginning(self) -> frozenset[str]:
        """Names of what a start writes before config.gin."""
        return frozenset(path.name for path in (self.manifest, self.label_map, self.environment, self.summary, self.operative_config))

    def name_of(self, path: Path) -> str:
        """What the user calls a path of this run."""
        return f"{self.remote.url}/{path.relative_to(self.path).as_posix()}".removesuffix("/.") if self.remote else str(path)

    def refuse_foreign_files(self) -> None:
        """Refuses a directory that holds files but no run, with a UserError."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir={self.path}", expected="a directory", found="a file")
        entries = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        self.refuse_foreign_names(entries - {path.name for path in self._leftovers()}, where=self.path)

    def refuse_foreign_names(self, names: Set[str], *, where: object) -> None:
        """The same for a directory of which only the names are known."""
        # A log of refusals is no run, nor is what a lock leaves behind when its process is killed, nor a start that was cut off before config.gin.
        names = {name for name in names if name != self.log.name and not name.startswith(self.lock_file.name)}
        if self.config.name not in names and names and not (self.manifest.name in names and names <= self.beginning):
            raise UserError(
                f"--workdir={where}",
                expected="an empty directory or a run to resume",
                found="other files and no config.gin",
                cure="name another --workdir",
            )

    def _leftovers(self) -> list[Path]:
        """What `replace_file` leaves when its process is killed."""
        names = [path.name for path in vars(self).values() if isinstance(path, Path) and path.suffix]
        return [path for path in self.path.glob(".*") if path.is_file() and any(path.name.startswith(f".{name}.") for name in names)]

    def remove_leftovers(self) -> None:
        """Removes half-written files of a start that was killed; only for who holds the lock."""
        for path in self._leftovers():
            path.unlink(missing_ok=True)

    def make(self) -> None:
        """Makes the directory and sends the log to `log.txt` too."""
        make_folder(self.path, flag="--workdir")
        handler = _Log(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        log = logging.getLogger("flexseg")
        log.handlers = [other for other in log.handlers if not isinstance(other, logging.FileHandler)]
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # absl would print every line a second time

    def remove_log(self) -> None:
        """Takes `log.txt` back, for a start that was refused before it wrote anything of a run."""
        log = logging.getLogger("flexseg")
        for handler in [other for other in log.handlers if isinstance(other, logging.FileHandler)]:
            log.removeHandler(handler)
            handler.close()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # refused before there was one
            self.log.unlink()

    def remove_if_empty(self) -> None:
        """Takes the directory back, unless it holds a run, or files of somebody else."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def write_environment(self, environment: dict) -> None:
        """Writes `environment.json`: versions, devices, the dataset's place, what `auto` became."""
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
            environment = json.loads(self.environment.read_text())
            if isinstance(environment.get("user_modules"), list):  # runs of the first months know names alone
                environment["user_modules"] = {module: [] for module in environment["user_modules"]}
            return environment
        except ValueError as error:
            cure = "put it back, or train into another --workdir"
            raise UserError(self.environment, expected="what `flexseg train` wrote", found=f"no JSON ({error})", cure=cure) from error

    def refuse_other_dataset(self, dataset_directory: Path) -> None:
        """Refuses a dataset other than the one that the run was begun on, or another build of it, with a UserError."""
        source = Path(dataset_directory) / "manifest.json"
        if self.manifest.is_file() and self.manifest.read_bytes() != source.read_bytes():
            raise UserError(
                self.manifest,
                expected=f"the manifest of {dataset_directory}",
                found="another one: the run was begun on another dataset, or it was built again",
                cure="train into another --workdir",
            )

    def copy_dataset_facts(self, dataset_directory: Path, label_map: dict) -> None:
        """Copies the manifest and the LabelMap, so that prediction needs the run alone."""
        replace_file(self.manifest, (Path(dataset_directory) / "manifest.json").read_bytes())
        replace_file(self.label_map, json.dumps(label_map, indent=1).encode())
