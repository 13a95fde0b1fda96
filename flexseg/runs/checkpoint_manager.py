"""CheckpointManager: saves and restores the checkpoints of a run.

    state = CheckpointManager(run.checkpoints, replicas, model=model, optimizer=optimizer, loss_scale=loss_scale, keep=2)
    host = state.restore()                     # None in a fresh run
    state.save(step=1200, host={...})

A checkpoint is a folder `step_000001200` of arrays with checksums (see checkpoint_format.py). If the newest one is damaged, a message says so and the
one before is restored.
"""

import json
import shutil
from pathlib import Path

import keras

from flexseg.console import say
from flexseg.distribution.agreement import agree
from flexseg.distribution.ema import ExponentialMovingAverage
from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError
from flexseg.runs.checkpoint_format import (
    checkpoint_folder,
    checkpoint_folders,
    damage,
    read_checkpoint,
    recover_all,
    set_aside,
    write_checkpoint,
)
from flexseg.runs.variables import assign, model_variables, named_arrays


class CheckpointManager:
    """The checkpoints of one run. Only the chief reads and writes them; it sends the other workers what it read.

    Args:
      directory: of the checkpoints.
      replicas: the devices.
      model, optimizer, loss_scale, ema: hold the variables; the optimizer is built.
      keep: number of checkpoints; older ones are removed.
    """

    def __init__(
        self,
        directory: Path,
        replicas: Replicas,
        *,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale,
        ema: ExponentialMovingAverage | None = None,
        keep: int,
    ):
        self._directory, self._replicas, self._keep = Path(directory), replicas, keep
        self._parts = {"model": model_variables(model), "optimizer": optimizer.variables, "loss_scale": [loss_scale.scale, loss_scale.good_steps]}
        if ema:
            self._parts["ema"] = ema.variables

    def folders(self) -> list[Path]:
        """The folders of all checkpoints, oldest first."""
        return checkpoint_folders(self._directory)

    def save(self, *, step: int, host: dict) -> Path:
        """Writes the checkpoint of `step` (steps done so far), removes those beyond `keep`, and returns its folder."""
        folder = checkpoint_folder(self._directory, step)
        if not self._replicas.is_chief:
            return folder
        self._directory.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, {name: named_arrays(self._replicas, variables) for name, variables in self._parts.items()}, {"step": step, **host})
        for old in [other for other in self.folders() if other <= folder][: -self._keep]:
            shutil.rmtree(old)
        return folder

    def restore(self) -> dict | None:
        """Restores the newest whole checkpoint and returns its host state; None where there is none. All workers call it.

        Raises:
          UserError: when every checkpoint is damaged, or another model wrote it.
        """
        host, refusal = None, None
        try:
            host = self._read() if self._replicas.is_chief else None
        except UserError as error:
            refusal = error
        agree(self._replicas, {}, refusal=refusal)
        host = json.loads(self._replicas.from_chief(json.dumps(host).encode()))
        if host is not None:
            for variables in self._parts.values():
                self._replicas.take_from_chief(variables)
        return host

    def _read(self) -> dict | None:
        recover_all(self._directory)
        folders, damaged = self.folders(), []
        for folder in reversed(folders):
            wrong = damage(folder)
            if wrong:
                say("%s is damaged (%s)", folder, wrong)
                damaged.append(folder)
                continue
            arrays, host = read_checkpoint(folder)
            for name, variables in self._parts.items():
                assign(self._replicas, variables, arrays[name], where=folder)
            for other in damaged:  # a damaged one would count as one of the latest and push out a whole one
                say("it is kept as %s, and the checkpoint before it is taken: %s", set_aside(other).name, folder)
            return host
        if folders:
            raise UserError(
                self._directory, expected="a whole checkpoint", found=f"{len(folders)} damaged ones", cure="start again in another --workdir"
            )
        return None
