"""Variables on disk: one folder that is there whole or not at all, arrays only, nothing that executes when it is read.

    write_folder(run.best, {"model": named_arrays(replicas, model_variables(model))}, {"epoch": 12})
    arrays, facts = read_folder(run.best)
    assign(replicas, model_variables(model), arrays["model"], where=run.best)

A folder holds one NumPy archive a part (`model.npz`), `facts.json` and SHA256SUMS. Variables are matched by their place and checked
by name and shape, because Keras numbers unnamed layers anew whenever a model is built a second time in one process.
"""

import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError

_SUMS, _FACTS, _MODEL = "SHA256SUMS", "facts.json", "model.npz"
_READS, _READ_AGAIN_SECONDS = 3, 0.2


def model_variables(model: keras.Model) -> list:
    """The variables that make up a model: weights and moving statistics; dropout seeds are functions of the step, no state."""
    return [v for v in model.variables if not v.path.endswith("seed_generator_state")]


def named_arrays(replicas: Replicas, variables: Sequence) -> dict[str, np.ndarray]:
    """{"0000 encoder_0_conv_a/kernel": array, …} in the variables' order."""
    return {f"{place:04d} {getattr(v, 'path', v.name)}": replicas.read(v) for place, v in enumerate(variables)}


def write_folder(folder: Path, parts: Mapping[str, Mapping[str, np.ndarray]], facts: dict, *, keep_replaced: bool = False) -> None:
    """Writes arrays and facts to `folder`; an older folder of that name is replaced once the new one is safe on the disk.

    With `keep_replaced`, the older folder stays beside it, hidden, until `forget_replaced` or `put_back_replaced`; where one stays already,
    it is that one which goes on staying.
    """
    clear_leftovers(folder)
    writing = _beside(folder, "writing")
    writing.mkdir(parents=True)
    try:
        for name, arrays in parts.items():
            with open(writing / f"{name}.npz", "wb") as stream:
                np.savez(stream, **arrays)
        (writing / _FACTS).write_text(json.dumps(facts, indent=1))
        files = sorted(writing.iterdir(), key=lambda path: path.name == _FACTS)  # the facts last: a list cut off at any line lacks them
        sums = "".join(f"{_digest(path)}  {path.name}\n" for path in files)
        (writing / _SUMS).write_text(sums)
        for path in [*writing.iterdir(), writing]:
            _flush(path)
    except BaseException:  # a full disk most of all: what is half-written takes the room of what is to come
        shutil.rmtree(writing, ignore_errors=True)
        raise
    old = _beside(folder, "old")
    if folder.exists() and keep_replaced and old.exists():
        _remove(folder)
    elif folder.exists():
        forget_replaced(folder)
        folder.rename(old)
    writing.rename(folder)
    _flush(folder.parent)
    if not keep_replaced:
        forget_replaced(folder)


def recover(folder: Path) -> None:
    """Puts back the older folder where a replacement was cut off, or what replaced it is damaged."""
    if damage(folder):
        put_back_replaced(folder)


def put_back_replaced(folder: Path) -> None:
    """Puts the older folder, if it is still there and whole, in the place of `folder`."""
    old = _beside(folder, "old")
    if not damage(old):
        _remove(folder)
        old.rename(folder)


def forget_replaced(folder: Path) -> None:
    """Removes the older folder."""
    _remove(_beside(folder, "old"))


def clear_leftovers(folder: Path) -> None:
    """Removes what a process that was killed while it wrote or removed `folder` left beside it."""
    for what in ("writing", "removing", "old.removing"):
        shutil.rmtree(_beside(folder, what), ignore_errors=True)


def whole_folder(folder: Path) -> Path:
    """Where the newest whole arrays of `folder` lie, for a reader, who must move nothing while another process may be writing."""
    old = _beside(folder, "old")
    return old if damage(folder) and not damage(old) else folder


def read_whole(folder: Path) -> tuple[Path, dict[str, dict[str, np.ndarray]], dict]:
    """(where they lie, arrays, facts) of the newest whole arrays of `folder`, which a trainer may be replacing at this moment.

    Raises:
      UserError: when there are none, however often one looks.
    """
    for _ in range(_READS - 1):
        try:
            return (place := whole_folder(folder)), *read_folder(place)
        except UserError:
            time.sleep(_READ_AGAIN_SECONDS)
    return (place := whole_folder(folder)), *read_folder(place)


def _remove(folder: Path) -> None:
    """Removes a folder that stands whole under its name until it is gone: a removal that is cut off must leave no half of it there."""
    removing = _beside(folder, "removing")
    shutil.rmtree(removing, ignore_errors=True)
    if folder.exists():
        folder.rename(removing)
        shutil.rmtree(removing, ignore_errors=True)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name.removeprefix('.')}.{what}")


def damage(folder: Path) -> str:
    """What is wrong with a folder, in words; empty when every checksum holds, and what is read has one.

    Raises:
      OSError: when it cannot be read: a disk that fails today says nothing about what is on it.
    """
    try:
        rows = [line.split("  ", 1) for line in _sums(folder).splitlines()]
        listed = {name for _, name in rows}
        # Files of this folder, and no device that never ends: the list may be somebody else's.
        held = {path.name for path in folder.iterdir() if path.is_file() and (path.suffix == ".npz" or path.name == _FACTS)}
        for name in sorted((listed ^ held) | ({_FACTS, _MODEL} - listed)):
            return f"{name} is {'not listed' if name in held else 'not there'}"
        for expected, name in rows:
            if _digest(folder / name) != expected:
                return f"{name} does not have its checksum"
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        return str(error)
    return ""


def read_folder(folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict]:
    """Arrays by part and name, and the facts.

    Raises:
      UserError: when the folder is missing or damaged, or replaced at this moment: see `read_whole`.
    """
    parts, facts = {}, {}
    try:
        sums = _sums(folder)
        wrong = damage(folder)
        if not wrong:
            facts = read_facts(folder)
            for path in sorted(folder.glob("*.npz")):
                with np.load(path, allow_pickle=False) as archive:
                    parts[path.stem] = {name: archive[name] for name in archive.files}
            wrong = "" if _sums(folder) == sums else "others, which came while they were read"
    except (FileNotFoundError, ValueError, zipfile.BadZipFile) as error:
        wrong = str(error) if folder.is_dir() else "no such folder"
    if wrong:
        raise UserError(folder, expected="whole weights written by flexseg", found=wrong)
    return parts, facts


def read_facts(folder: Path) -> dict:
    """The facts of a whole folder, without its arrays."""
    return json.loads((folder / _FACTS).read_text())


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
      UserError: when number, name or shape differ: another model wrote the arrays.
    """
    names = [getattr(v, "path", v.name) for v in variables]
    if len(names) != len(arrays):
        raise UserError(
            where, expected=f"{len(names)} variables, as this model has", found=str(len(arrays)), cure="use the model it was written with"
        )
    left = []
    for variable, name, (found, array) in zip(variables, names, arrays.items(), strict=True):
        shape = tuple(variable.shape)
        same_kind = _kind(found.split(" ", 1)[1]) == _kind(name)
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


def _sums(folder: Path) -> str:
    if not (folder / _SUMS).is_file():
        raise FileNotFoundError(f"{_SUMS} is not there")
    return (folder / _SUMS).read_text()


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
