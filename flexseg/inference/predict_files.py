"""Predicts masks of image files.

    predict_files(predictor, paths, folder, manifest=manifest, label_map=label_map, max_pixels=150_000_000)

Conversion, decoding, resizing and forward pass are those of a case of the dataset.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from flexseg.console import progress
from flexseg.data.images import decode_image
from flexseg.errors import UserError
from flexseg.files.atomic import make_folder, replace_file
from flexseg.files.headers import Header, read_header
from flexseg.files.images import stored_bytes
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest
from flexseg.files.names import below
from flexseg.inference.predictor import Predictor


def load_image(path: Path, *, manifest: Manifest, max_pixels: int) -> np.ndarray:
    """Reads an image file as uint8 [h, w, C], converted as `flexseg build` converts a case of the dataset.

    Raises:
      UserError: the file cannot be read, is too large, or has more than 8 bits although the dataset recorded no window.
    """
    _check_depth(path, read_header(path, max_pixels=max_pixels), manifest)
    stored = stored_bytes(path, channels=manifest.channels, window=manifest.window, max_pixels=max_pixels)
    return decode_image(tf.constant(stored.data), channels=manifest.channels).numpy()


def _check_depth(path: Path, header: Header, manifest: Manifest) -> None:
    if manifest.window is None and header.needs_window:
        raise UserError(
            path,
            expected="8 bits a channel, as in the dataset",
            found="more, and the dataset recorded no window for them",
            cure="convert it as the training images were converted, or train on images of this depth",
        )


def encode_mask(ids: np.ndarray, label_map: LabelMap) -> bytes:
    """Encodes class ids uint8 [h, w] as a PNG in the colours of the LabelMap; one channel if all colours are grey."""
    colors = label_map.decode(ids)
    grey = all(r == g == b for r, g, b in label_map.colors)
    return cv2.imencode(".png", colors[..., 0] if grey else colors[..., ::-1])[1].tobytes()


def predict_files(
    predictor: Predictor, paths: Sequence[Path], folder: Path, *, manifest: Manifest, label_map: LabelMap, max_pixels: int
) -> list[Path]:
    """Predicts images and writes `<stem>.png` to `folder`; returns the written files in order.

    Raises:
      UserError: an image cannot be read or predicted; all headers are checked before the first file is written.
    """
    for path in paths:
        header = read_header(path, max_pixels=max_pixels)
        _check_depth(path, header, manifest)
        predictor.check_size((header.height, header.width), where=path)
        below(folder, f"{path.stem}.png")
    fresh = not folder.exists()
    make_folder(folder, flag="--output")
    written = []
    group = predictor.replicas.count
    try:
        with progress("predicting", total=len(paths), unit="image") as bar:
            for start in range(0, len(paths), group):
                part = paths[start : start + group]
                images = [load_image(path, manifest=manifest, max_pixels=max_pixels) for path in part]
                for path, ids in zip(part, predictor.predict(images), strict=True):
                    written.append(replace_file(below(folder, f"{path.stem}.png"), encode_mask(ids, label_map)))
                    bar.update()
    finally:
        if fresh and not written:
            with contextlib.suppress(OSError):  # the folder has other files
                folder.rmdir()
    return written
