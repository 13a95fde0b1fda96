"""Pretrained weights for a fresh run: those of another run, of the reference's .h5 file, or of a pretrained encoder.

    load_starting_weights(assembly.model, replicas, init_from="runs/other")        # or "best_model.h5", or None

--init_from comes first, then the pretrained weights of the encoder; otherwise the model keeps its random initialization. A resumed run restores its
own checkpoint and does not come here.
"""

from pathlib import Path

import keras

from flexseg.console import say
from flexseg.distribution.agreement import agree
from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError
from flexseg.models.pretrained import encoder_of, learnt_weights
from flexseg.runs.chosen_weights import read_weights
from flexseg.runs.directory import open_run_directory
from flexseg.runs.variables import assign, model_variables
from flexseg.training.reference_weights import assign_reference


def load_starting_weights(model: keras.Model, replicas: Replicas, *, init_from: str | None) -> None:
    """Loads pretrained weights into a model on every worker and prints their source. All workers must call it.

    Args:
      model: a fresh model.
      replicas: the devices; the chief reads the files.
      init_from: a run directory or the reference's best_model.h5; None for the weights of a pretrained encoder, if there is one.

    Raises:
      UserError: the weights cannot be read or belong to another model.
    """
    encoder = encoder_of(model)
    if not init_from and (encoder is None or encoder.source.weights is None):
        return
    refusal, said = None, ""
    if replicas.is_chief:
        try:
            if not init_from:
                said = _from_encoder(encoder, replicas)
            elif Path(init_from).suffix == ".h5":
                said = f"weights from {init_from}{_left(assign_reference(replicas, model, Path(init_from)))}"
            else:
                said = _from_run(model, replicas, init_from)
        except UserError as error:
            refusal = error
    agree(replicas, {}, refusal=refusal)
    replicas.take_from_chief(model_variables(model))
    if said:
        say("%s", said)


def _from_encoder(encoder: keras.Model, replicas: Replicas) -> str:
    source = encoder.source
    for variable, array in zip(model_variables(encoder), learnt_weights(encoder), strict=True):
        replicas.write(variable, array)
    return f"encoder {source.name} starts from {source.weights}; {len(encoder.trainable_variables)} of its {len(encoder.weights)} arrays are trained"


def _from_run(model: keras.Model, replicas: Replicas, init_from: str) -> str:
    with open_run_directory(init_from, flag="--init_from") as other:
        if other.remote:
            other.remote.fetch(leave=[path.name for path in (other.tensorboard, other.checkpoints, other.pictures)])
        _, arrays, facts = read_weights(other, "best", cure="train it for an epoch first")
    left = assign(replicas, model_variables(model), arrays["model"], where=f"--init_from={init_from}", other_shapes=True)
    return f"weights from {init_from} (epoch {facts.get('epoch')}){_left(left)}"


def _left(names: list[str]) -> str:
    return f"; of another shape and therefore new: {', '.join(names)}" if names else ""
