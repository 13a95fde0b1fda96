"""Weights of a FlexUNet from the file that the reference's training wrote: `models/best_model.h5`, in Keras 2's layout.

    left = assign_reference(replicas, model, Path("best_model.h5"))

Only arrays are read, with h5py: the description of the network in the file, which Keras would deserialise, is not looked at. Layers without weights
are no matter; the others stand in the order of the network, and each array is compared by kind and shape before it is read.
"""

from pathlib import Path

import h5py
import keras

from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError, first_line
from flexseg.runs.variables import model_variables

_ARCHITECTURE = "flex_unet"


def assign_reference(replicas: Replicas, model: keras.Model, path: Path) -> list[str]:
    """Assigns the arrays of a file to a model's variables.

    Args:
      replicas: that hold the model.
      model: a flex_unet of the settings that the file was written with; its head may have other classes.
      path: a whole model or weights alone, as Keras 2 (or `save("….h5")` of Keras 3) writes them.

    Returns:
      The names of the variables of another shape, which are left as they are.

    Raises:
      UserError: for another architecture or other settings, and for a file that is none of these.
    """
    where = f"--init_from={path}"
    if model.name != _ARCHITECTURE:
        raise UserError(where, expected=f"the architecture {_ARCHITECTURE}, whose weights this file can hold", found=model.name)
    variables = model_variables(model)
    try:
        with h5py.File(path, "r") as file:
            stored = _arrays(file, where)
            settings = "the settings that it was trained with: flexseg import_config reads them from the reference's .config file"
            if len(stored) != len(variables):
                raise UserError(where, expected=f"{len(variables)} arrays, as this {_ARCHITECTURE} has", found=str(len(stored)), cure=settings)
            left = []
            for variable, (name, array) in zip(variables, stored, strict=True):
                kind = variable.path.rsplit("/", 1)[-1]
                if array.shape == tuple(variable.shape) and _kind(name) == kind:
                    replicas.write(variable, array[()])
                elif variable.path.startswith("logits/") and _kind(name) == kind:
                    left.append(variable.path)
                else:
                    expected = f"{variable.path} of shape {list(variable.shape)}"
                    raise UserError(where, expected=expected, found=f"{name} of shape {list(array.shape)}", cure=settings)
    except UserError:
        raise
    except Exception as error:  # h5py has many kinds for what is damaged or of another layout
        raise UserError(where, expected="weights in Keras's .h5 layout", found=first_line(error)) from error
    return left


def _arrays(file: h5py.File, where: str) -> list[tuple[str, h5py.Dataset]]:
    """(name, array) in the network's order: Keras's `layer_names` of the file, `weight_names` of each."""
    root = file.get("model_weights", file)
    arrays = []
    for layer in _names(root, "layer_names"):
        for name in _names(root[layer], "weight_names"):
            array = root[layer][name]
            if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external or array.file.filename != file.filename:
                raise UserError(where, expected="arrays in the same file", found=f"{name} refers to elsewhere")
            if array.dtype.kind != "f":
                raise UserError(where, expected="floating-point numbers", found=f"{name} of {array.dtype}")
            arrays.append((name, array))
    return arrays


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; Keras splits long ones into `layer_names0`, `layer_names1`, …, since HDF5 bounds an attribute's size."""
    split = (name for name in group.attrs if name.startswith(attribute) and name != attribute)
    parts = [attribute] if attribute in group.attrs else sorted(split, key=lambda name: int(name[len(attribute) :]))
    if not parts:
        raise KeyError(f"no {attribute} in {group.name}")
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in group.attrs[part]]


def _kind(name: str) -> str:
    """ "kernel" of "conv2d_3/kernel:0"."""
    return name.rsplit("/", 1)[-1].partition(":")[0]
