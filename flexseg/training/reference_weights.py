"""Loads Keras 2 weights (.h5) of the reference into a FlexUNet: its `models/best_model.h5`.

    left = assign_reference(replicas, model, Path("best_model.h5"))

Reads arrays only, with h5py; the model config in the file is not deserialized. Arrays are matched by the order of the layers, and the kind and shape
of each are checked before it is read.
"""

from pathlib import Path

import h5py
import keras

from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError, first_line
from flexseg.runs.variables import model_variables

_ARCHITECTURE = "flex_unet"


def assign_reference(replicas: Replicas, model: keras.Model, path: Path) -> list[str]:
    """Assigns the arrays of an .h5 file to the variables of a model.

    Args:
      replicas: the devices.
      model: a flex_unet with the settings of the file; the number of classes may differ.
      path: a whole model or its weights, written by Keras 2 or by Keras 3's `save("….h5")`.

    Returns:
      Paths of the variables of the head that have another shape and keep their values.

    Raises:
      UserError: another architecture, other settings, or not such a file.
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
    except Exception as error:  # h5py raises many types for damaged files and other layouts
        raise UserError(where, expected="weights in Keras's .h5 layout", found=first_line(error)) from error
    return left


def _arrays(file: h5py.File, where: str) -> list[tuple[str, h5py.Dataset]]:
    """(name, array) in the order of Keras's attributes `layer_names` and `weight_names`."""
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
    """A list of names. Keras splits long lists into `layer_names0`, `layer_names1`, …, because HDF5 limits the size of an attribute."""
    split = (name for name in group.attrs if name.startswith(attribute) and name != attribute)
    parts = [attribute] if attribute in group.attrs else sorted(split, key=lambda name: int(name[len(attribute) :]))
    if not parts:
        raise KeyError(f"no {attribute} in {group.name}")
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in group.attrs[part]]


def _kind(name: str) -> str:
    """ "kernel" of "conv2d_3/kernel:0"."""
    return name.rsplit("/", 1)[-1].partition(":")[0]
