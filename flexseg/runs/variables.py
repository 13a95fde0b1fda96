"""Variables of a model or an optimizer as the named arrays of a checkpoint, and back.

    write_checkpoint(run.best, {"model": named_arrays(replicas, model_variables(model))}, {"epoch": 12})
    arrays, facts = read_checkpoint(run.best)
    assign(replicas, model_variables(model), arrays["model"], where=run.best)

Variables are matched by their index and checked by name and shape, because Keras numbers unnamed layers anew whenever a model is built a second
time in one process.
"""

import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError
from flexseg.runs.checkpoint_format import array_name, variable_path


def model_variables(model: keras.Model) -> list:
    """The variables that make up a model: weights and moving statistics; dropout seeds are functions of the step, no state."""
    return [v for v in model.variables if not v.path.endswith("seed_generator_state")]


def named_arrays(replicas: Replicas, variables: Sequence) -> dict[str, np.ndarray]:
    """{"0000 encoder_0_conv_a/kernel": array, …} in the variables' order."""
    return {array_name(index, getattr(v, "path", v.name)): replicas.read(v) for index, v in enumerate(variables)}


def assign(replicas: Replicas, variables: Sequence, arrays: Mapping[str, np.ndarray], *, where: object, other_shapes: bool = False) -> list[str]:
    """Assigns arrays to variables in their order.

    Args:
      variables: as many as there are arrays.
      arrays: from `named_arrays`.
      where: for the error's text.
      other_shapes: leave a variable of another shape as it is, instead of refusing.

    Returns:
      The names of the variables left as they are.

    Raises:
      UserError: when number, name or shape differ: another model wrote the arrays; or a value is NaN or infinite.
    """
    names = [getattr(v, "path", v.name) for v in variables]
    if len(names) != len(arrays):
        raise UserError(
            where, expected=f"{len(names)} variables, as this model has", found=str(len(arrays)), cure="use the model it was written with"
        )
    left = []
    for variable, name, (found, array) in zip(variables, names, arrays.items(), strict=True):
        shape = tuple(variable.shape)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            wrong = f"{int((~np.isfinite(array)).sum())} values that are NaN or infinite in {found}"
            raise UserError(where, expected="finite numbers", found=wrong, cure="take another checkpoint: these weights predict nothing")
        same_kind = _kind(variable_path(found)) == _kind(name)
        if shape == array.shape and same_kind:
            replicas.write(variable, array)
        elif other_shapes and same_kind:
            left.append(name)
        else:
            raise UserError(
                where,
                expected=f"{name} of shape {list(shape)}",
                found=f"{found} of shape {list(array.shape)}",
                cure="use the model it was written with",
            )
    return left


def _kind(path: str) -> str:
    """The last part of a variable's path, without the numbers that Keras gives unnamed layers: an optimizer's slots carry these."""
    return re.sub(r"_?\d+", "", path.rsplit("/", 1)[-1])
