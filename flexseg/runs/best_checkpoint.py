"""BestCheckpoint: `best/` of a run directory, which evaluation and prediction read.

    best = BestCheckpoint(run.best, replicas, model)
    best.write({"epoch": 12, "step": 4800, "monitor": "val_loss", "value": 0.21})
    best.checkpointed()                 # a checkpoint is written that knows of them
    best.restored(step=4400)            # the run went back to a checkpoint

Between the two, the best weights before stay on the disk: a run that is cut off there goes back to a checkpoint of which they are part, and
may, unless it is deterministic, never see the abandoned ones again.
"""

from pathlib import Path

import keras

from flexseg.distribution.replicas import Replicas
from flexseg.runs.checkpoint_format import clear_leftovers, damage, forget_replaced, put_back_replaced, read_facts, recover, write_checkpoint
from flexseg.runs.variables import model_variables, named_arrays  # fmt: skip


class BestCheckpoint:
    """The best weights of a run; only the chief touches the disk.

    Args:
      folder: where they lie.
      replicas: the devices.
      model: whose weights.
    """

    def __init__(self, folder: Path, replicas: Replicas, model: keras.Model):
        self._folder, self._replicas, self._model = folder, replicas, model

    def write(self, facts: dict) -> None:
        """Replaces them by the model's present weights; `facts` holds `epoch` and `step` and goes beside them."""
        if not self._replicas.is_chief:
            return
        arrays = named_arrays(self._replicas, model_variables(self._model))
        write_checkpoint(self._folder, {"model": arrays}, facts, keep_replaced=True)

    def checkpointed(self) -> None:
        """A checkpoint was written that these weights belong to."""
        if self._replicas.is_chief:
            forget_replaced(self._folder)

    def restored(self, *, step: int) -> None:
        """The run stands at `step` again: weights of a later one give way to those before, where these are still there."""
        if not self._replicas.is_chief:
            return
        clear_leftovers(self._folder)
        recover(self._folder)
        if damage(self._folder):
            return
        if read_facts(self._folder)["step"] > step:
            put_back_replaced(self._folder)
        forget_replaced(self._folder)
