"""BestCheckpoint: the best weights of a run, `best/`, which evaluation and prediction read.

    best = BestCheckpoint(run.best, replicas, model)
    best.write({"epoch": 12, "step": 4800, "monitor": "val_loss", "value": 0.21})
    best.checkpointed()                 # a checkpoint was written after it
    best.restored(step=4400)            # the run returned to a checkpoint

Until the next checkpoint the replaced best weights are kept: a run that is killed before returns to a checkpoint that knows them, and without
`train.deterministic` it may never reach the newer ones again.
"""

from pathlib import Path

import keras

from flexseg.distribution.replicas import Replicas
from flexseg.runs.checkpoint_format import clear_leftovers, damage, forget_replaced, put_back_replaced, read_facts, recover, write_checkpoint
from flexseg.runs.variables import model_variables, named_arrays  # fmt: skip


class BestCheckpoint:
    """The best weights of a run; only the chief writes.

    Args:
      folder: `best/`.
      replicas: the devices.
      model: its weights are written.
    """

    def __init__(self, folder: Path, replicas: Replicas, model: keras.Model):
        self._folder, self._replicas, self._model = folder, replicas, model

    def write(self, facts: dict) -> None:
        """Writes the present weights of the model; `facts` holds at least `epoch` and `step`."""
        if not self._replicas.is_chief:
            return
        arrays = named_arrays(self._replicas, model_variables(self._model))
        write_checkpoint(self._folder, {"model": arrays}, facts, keep_replaced=True)

    def checkpointed(self) -> None:
        """A checkpoint was written: the replaced weights go."""
        if self._replicas.is_chief:
            forget_replaced(self._folder)

    def restored(self, *, step: int) -> None:
        """The run returned to `step`: weights of a later step give way to the replaced ones."""
        if not self._replicas.is_chief:
            return
        clear_leftovers(self._folder)
        recover(self._folder)
        if damage(self._folder):
            return
        if read_facts(self._folder).get("step", 0) > step:
            put_back_replaced(self._folder)
        forget_replaced(self._folder)
