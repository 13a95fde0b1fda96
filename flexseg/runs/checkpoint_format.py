"""The format of a checkpoint: one folder that is there whole or not at all. The one file that knows its names and checksums.

    write_checkpoint(checkpoint_folder(run.checkpoints, 1200), {"model": arrays, "optimizer": more}, {"step": 1200})
    parts, facts = read_checkpoint(checkpoint_folders(run.checkpoints)[-1])

A folder holds one NumPy archive for each part (`model.npz`, `optimizer.npz`, `loss_scale.npz`, `averages.npz`: the exponential moving averages),
`facts.json` and `SHA256SUMS`. Arrays are named `0000 layer/kernel`: the index of the variable and its path. Nothing executes when it is read.

A write goes to `.step_000001200.writing` and is renamed. The folder that it replaces waits as `.step_000001200.old`.
"""

import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flexseg.errors import UserError

CHECKSUMS = "SHA256SUMS"
FOLDERS = "step_*"  # of the checkpoints in their directory
_FACTS, _MODEL = "facts.json", "model.npz"
_READS, _READ_AGAIN_SECONDS = 3, 0.2


def checkpoint_folder(directory: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return directory / f"step_{step:09d}"


def checkpoint_folders(directory: Path) -> list[Path]:
    """The folders of all checkpoints, oldest first; their names sort by step."""
    return sorted(directory.glob(FOLDERS))


def array_name(index: int, path: str) -> str:
    """The name of the array of variable number `index`, from 0."""
    return f"{index:04d} {path}"


def variable_path(name: str) -> str:
    """The variable's path in the name of an array."""
    return name.split(" ", 1)[1]


def replaced_name(name: str) -> str:
    """The name under which the folder `name` waits while it is replaced."""
    return _hidden(name, "old")


def name_replaced(replaced: str) -> str:
    """The inverse of `replaced_name`."""
    return replaced.removeprefix(".").removesuffix(".old")


def write_checkpoint(folder: Path, parts: Mapping[str, Mapping[str, np.ndarray]], facts: dict, *, keep_replaced: bool = False) -> None:
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
        (writing / CHECKSUMS).write_text(sums)
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


def recover_all(directory: Path) -> None:
    """`recover` for every checkpoint of a directory; what killed saves left half-written is removed."""
    for replaced in directory.glob(replaced_name(FOLDERS)):
        recover(directory / name_replaced(replaced.name))
    for kind in ("writing", "removing"):
        for cut_off in directory.glob(_hidden(FOLDERS, kind)):
            shutil.rmtree(cut_off, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that it no longer counts as one of the latest, and returns its new path."""
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return aside


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
            return (found := whole_folder(folder)), *read_checkpoint(found)
        except UserError:
            time.sleep(_READ_AGAIN_SECONDS)
    return (found := whole_folder(folder)), *read_checkpoint(found)


def _remove(folder: Path) -> None:
    """Removes a folder that stands whole under its name until it is gone: a removal that is cut off must leave no half of it there."""
    removing = _beside(folder, "removing")
    shutil.rmtree(removing, ignore_errors=True)
    if folder.exists():
        folder.rename(removing)
        shutil.rmtree(removing, ignore_errors=True)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(_hidden(folder.name, what))


def _hidden(name: str, what: str) -> str:
    return f".{name.removeprefix('.')}.{what}"


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


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict]:
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


def _sums(folder: Path) -> str:
    if not (folder / CHECKSUMS).is_file():
        raise FileNotFoundError(f"{CHECKSUMS} is not there")
    return (folder / CHECKSUMS).read_text()


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
