"""The weights that an encoder starts from, read when a training begins and never when a model is made.

    encoder = encoder_of(model)                                 # None where the model has none
    arrays = learnt_weights(encoder)

"imagenet" is Keras's own download, checked by its hash and kept in its cache; a file has the layout of these (`.h5`), or Keras 3's (`.weights.h5`).
Both hold arrays alone.
"""

import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from flexseg.errors import UserError, first_line, suggest
from flexseg.models.layers.encoders import headless, network


def encoder_of(model: keras.Model) -> keras.Model | None:
    """The part of a model that `Encoder` made, whose `source` tells where its weights come from."""
    return next((layer for layer in model.layers if hasattr(layer, "source")), None)


def _refuse_larger_file(path: str, application: keras.Model) -> None:
    """Raises a ValueError where the arrays that an HDF5 file declares are more than the network's, before any is read."""
    declared = 0

    def look(name: str, item: object) -> None:
        nonlocal declared
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise ValueError(f"{name} refers to another file")
            declared += item.nbytes

    with h5py.File(path, "r") as file:
        file.visititems(look)
    needed = sum(int(np.prod(weight.shape)) * 8 for weight in application.weights)  # 8 bytes: some files hold doubles
    if declared > 2 * needed + 2**24:  # whole networks have a head as well
        raise ValueError(f"it declares arrays of {declared / 2**30:.1f} GiB, the network has {needed / 2**30:.1f}")


def learnt_weights(encoder: keras.Model) -> list[np.ndarray]:
    """The arrays of the encoder's weights and moving statistics in their order, from `encoder.source.weights`.

    Raises:
      UserError: the file is missing, damaged or of another network, or the download failed.
    """
    source, size = encoder.source, tuple(encoder.input.shape[1:3])
    where, download = f"{source.owner}.encoder_weights", source.weights == "imagenet"
    if not download and not Path(source.weights).is_file():
        cure = suggest(source.weights, ["imagenet"]).strip() or f"--gin_param=\"{where}='imagenet'\", which Keras downloads, or the path of a file"
        raise UserError(where, expected="'imagenet' or an existing .h5 file", found=repr(source.weights), cure=cure)
    if not download and not h5py.is_hdf5(source.weights):
        cure = "fetch it again: this is no HDF5 file"
        raise UserError(where, expected="an HDF5 file of weights, as Keras writes them", found=repr(source.weights), cure=cure)
    try:
        with tf.device("CPU"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a line for every array that does not fit; what Keras raises in the end says how many
            application = network(source.name, size, weights="imagenet" if download else None)
            if not download:
                _refuse_larger_file(source.weights, application)
                application.load_weights(source.weights)
    except Exception as error:  # Keras and h5py raise many kinds
        cure = f"copy the file (…notop.h5, of MobileNetV3 …no_top_v2.h5) here by other means, and --gin_param=\"{where}='FILE'\"" if download else (
            f"name the encoder that it is of: --gin_param=\"{source.owner}.{'efficientnet' if source.owner == 'efficient_unet' else 'encoder'}=…\""
        )  # fmt: skip
        expected = "a download from Keras's server" if download else f"weights of keras.applications.{source.name}(include_top=False)"
        raise UserError(where, expected=expected, found=f"{source.weights}: {first_line(error)}", cure=cure) from error
    core, _ = headless(application, source)
    return [v.numpy() for v in core.variables if not v.path.endswith("seed_generator_state")]
