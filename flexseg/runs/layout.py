"""RunLayout: the names and paths of a run directory, and which names a run may hold. Opens no file.

Usage:
    layout = RunLayout("runs/my_run")
    layout.config, layout.checkpoints, layout.best, layout.tensorboard, ...
"""

from collections.abc import Set
from pathlib import Path

from flexseg.errors import UserError


class RunLayout:
    """Paths of a run directory (`--workdir`).

    Args:
      path: the directory, which need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
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
        self.evaluation = self.path / "evaluation"
        self.predictions = self.path / "predictions"
        self.finished = self.path / "finished.json"
        self.stop_file = self.path / "break_training"
        self.lock_file = self.path / "run.lock"

    @property
    def started(self) -> bool:
        """Whether a run was begun here: `config.gin` is written last."""
        return self.config.is_file()

    @property
    def beginning(self) -> frozenset[str]:
        """Names of the files that a start writes before `config.gin`."""
        return frozenset(path.name for path in (self.manifest, self.label_map, self.environment, self.summary, self.operative_config))

    def refuse_foreign_names(self, names: Set[str], *, where: object) -> None:
        """Refuses a directory whose top-level `names` are other files and no run.

        A log of refusals is allowed, and so are the lock of a killed process and a start that was cut off before `config.gin`.

        Raises:
          UserError: there are other files and no `config.gin`.
        """
        names = {name for name in names if name != self.log.name and not name.startswith(self.lock_file.name)}
        if self.config.name not in names and names and not (self.manifest.name in names and names <= self.beginning):
            raise UserError(
                f"--workdir={where}",
                expected="an empty directory or a run to resume",
                found="other files and no config.gin",
                cure="name another --workdir",
            )
