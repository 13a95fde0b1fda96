"""Which weights of a run a reader gets: the one place that decides between best and last, and between weights and their EMA.

    folder, arrays, facts = read_weights(run, "best")
    facts = load_weights(run, "last", replicas, model)

`best`: the weights of the best epoch by `train.monitor`; they are the EMA where the run keeps one. `last`: the newest whole checkpoint, with the EMA
in the place of the weights where it holds one, because validation and pictures used it. The run may be training at this moment.
"""

from pathlib import Path

import keras
import numpy as np

from flexseg.console import say
from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError
from flexseg.runs.checkpoint_format import checkpoint_folders, damage, read_checkpoint, read_whole, whole_folder
from flexseg.runs.layout import RunLayout
from flexseg.runs.variables import assign, model_variables

Parts = dict[str, dict[str, np.ndarray]]


def read_weights(run: RunLayout, checkpoint: str, *, cure: str = "--checkpoint=last takes the last checkpoint") -> tuple[Path, Parts, dict]:
    """Reads the arrays of `best` or `last`.

    Args:
      run: where they lie.
      checkpoint: `best` or `last`.
      cure: what the user may do where there are no best weights yet.

    Returns:
      (folder, arrays by part and name, facts: `epoch` or `epochs_done`, `step`, …).

    Raises:
      UserError: there are none, or they are damaged.
    """
    if checkpoint == "best":
        try:
            return read_whole(run.best)
        except UserError:
            if whole_folder(run.best).is_dir() or not run.started:
                raise
        raise UserError(run.best, expected="the best weights", found="none yet: no epoch has ended", cure=cure)
    for folder in reversed(checkpoint_folders(run.checkpoints)):
        if not (wrong := damage(folder)):
            return folder, *read_checkpoint(folder)
        say("%s is damaged (%s): the checkpoint before it is taken", folder, wrong)
    raise UserError(f"--workdir={run.path}", expected="a whole checkpoint", found="none")


def load_weights(run: RunLayout, checkpoint: str, replicas: Replicas, model: keras.Model) -> dict:
    """Assigns `best` or `last` to a model and returns the facts; raises as `read_weights` and `assign` do."""
    folder, parts, facts = read_weights(run, checkpoint)
    assign(replicas, model_variables(model), parts["model"], where=folder)
    if "ema" in parts:
        averages = sorted(parts["ema"].items())
        for weight, (name, average) in zip(model.trainable_variables, averages, strict=False):
            if average.shape != tuple(weight.shape) or not np.isfinite(average).all():
                raise UserError(folder, expected=f"the EMA of {weight.path}, finite numbers of shape {list(weight.shape)}", found=name)
            replicas.write(weight, average)
        if len(averages) != len(model.trainable_variables):
            raise UserError(folder, expected=f"the EMA of {len(model.trainable_variables)} weights", found=str(len(averages)))
    return facts
