"""The format of a checkpoint: a folder that is written whole or not at all. The one file that knows its names and checksums.

    write_checkpoint(checkpoint_folder(run.checkpoints, 1200), {"model": arrays, "optimizer": more}, {"step": 1200})
    parts, facts = read_checkpoint(checkpoint_folders(run.checkpoints)[-1])

A folder holds one NumPy archive for each part (`model.npz`, `optimizer.npz`, `loss_scale.npz`, `averages.npz`: the exponential moving averages),
`facts.json` and `SHA256SUMS`. Arrays are named `0000 layer/kernel`: the index of the variable and its path. Nothing executes when it is read.

A write goes to `.step_000001200.writing` and is renamed. The folder that it replaces waits as `.step_000001200.old`.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flexseg.errors import UserError, printable
from flexseg.files.json_files import json_type, read_json

CHECKSUMS = "SHA256SUMS"
FOLDERS = "step_*"  # of the checkpoints in their directory
_FACTS, _MODEL = "facts.json", "model.npz"
_FACT_NAMES = {"epoch_metrics": "meter", "early_stopping": "best"}  # in the code: in facts.json, since 0.1
_FACT_TYPES = {"epoch": (int,), "epochs_done": (int,), "step": (int,), "skipped": (int,), "monitor": (str,), "value": (float, int)}
_PART_NAMES = {"ema": "averages"}  # in the code: the archive's name, since 0.1
_MOST_BYTES = 2**24  # of facts.json and of the list of checksums
_READS, _READ_AGAIN_SECONDS = 3, 0.2


def checkpoint_folder(directory: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return directory / f"step_{step:09d}"


def checkpoint_folders(directory: Path) -> list[Path]:
    """The folders of all checkpoints, oldest first; their names sort by step."""
    return sorted(path for path in directory.glob(FOLDERS) if re.fullmatch(r"step_\d{9,}", path.name))


def part_file(folder: Path, part: str) -> Path:
    """The archive of a part ("model", "optimizer", "loss_scale", "ema") in the folder of a checkpoint."""
    return folder / f"{_PART_NAMES.get(part, part)}.npz"


def facts_file(folder: Path) -> Path:
    """The file of the facts in the folder of a checkpoint."""
    return folder / _FACTS


def array_name(index: int, path: str) -> str:
    """The name of the array of variable number `index`, from 0."""
    return f"{index:04d} {path}"


def variable_path(name: str) -> str:
    """The variable's path in the name of an array."""
    return name.partition(" ")[2]


def replaced_name(name: str) -> str:
    """The name under which the folder `name` waits while it is replaced."""
    return _hidden(name, "old")


def name_replaced(replaced: str) -> str:
    """The inverse of `replaced_name`."""
    return replaced.removeprefix(".").removesuffix(".old")


def write_checkpoint(folder: Path, parts: Mapping[str, Mapping[str, np.ndarray]], facts: dict, *, keep_replaced: bool = False) -> None:
    """Writes arrays and facts to `folder`; replaces an older folder of that name once the new one is on the disk.

    Args:
      folder: to write.
      parts: {part: {array name: array}}.
      facts: JSON values.
      keep_replaced: keep the older folder until `forget_replaced` or `put_back_replaced`; one that is kept already stays.

    Raises:
      OSError: the disk is full or fails; nothing half-written stays.

    """
    clear_leftovers(folder)
    writing = _beside(folder, "writing")
    writing.mkdir(parents=True)
    try:
        for name, arrays in parts.items():
            with open(part_file(writing, name), "wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]  # no name of theirs is allow_pickle
        facts_file(writing).write_text(json.dumps({_FACT_NAMES.get(name, name): value for name, value in facts.items()}, indent=1))
        files = sorted(writing.iterdir(), key=lambda path: path.name == _FACTS)  # facts last, so that a list cut off at any line lacks them
        sums = "".join(f"{_digest(path)}  {path.name}\n" for path in files)
        (writing / CHECKSUMS).write_text(sums)
        for path in [*writing.iterdir(), writing]:
            _flush(path)
    except BaseException:  # on a full disk above all, half a checkpoint takes the room of the next
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
    """Puts the replaced folder back where `folder` is missing or damaged."""
    if damage(folder):
        put_back_replaced(folder)


def put_back_replaced(folder: Path) -> None:
    """Renames the replaced folder to `folder`, if it exists and is whole."""
    old = _beside(folder, "old")
    if not damage(old):
        _remove(folder)
        old.rename(folder)


def forget_replaced(folder: Path) -> None:
    """Removes the replaced folder."""
    _remove(_beside(folder, "old"))


def clear_leftovers(folder: Path) -> None:
    """Removes what a process left beside `folder` that was killed while it wrote or removed it."""
    for what in ("writing", "removing", "old.removing"):
        shutil.rmtree(_beside(folder, what), ignore_errors=True)


def recover_all(directory: Path) -> None:
    """`recover` for every checkpoint of a directory; half-written ones of killed saves are removed."""
    for replaced in directory.glob(replaced_name(FOLDERS)):
        recover(directory / name_replaced(replaced.name))
    for kind in ("writing", "removing"):
        for cut_off in directory.glob(_hidden(FOLDERS, kind)):
            shutil.rmtree(cut_off, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that it no longer counts, and returns its new path."""
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return aside


def whole_folder(folder: Path) -> Path:
    """`folder`, or the replaced folder where that alone is whole; for readers, which move nothing."""
    old = _beside(folder, "old")
    return old if damage(folder) and not damage(old) else folder


def read_whole(folder: Path) -> tuple[Path, dict[str, dict[str, np.ndarray]], dict]:
    """Reads `folder` while a trainer may be replacing it: (folder that was read, arrays by part and name, facts).

    Raises:
      UserError: neither it nor the replaced folder is whole, at each of several attempts.
    """
    for _ in range(_READS - 1):
        try:
            return (found := whole_folder(folder)), *read_checkpoint(found)
        except UserError:
            time.sleep(_READ_AGAIN_SECONDS)
    return (found := whole_folder(folder)), *read_checkpoint(found)


def _remove(folder: Path) -> None:
    """Removes a folder; a removal that is cut off leaves no half of it under its name."""
    removing = _beside(folder, "removing")
    shutil.rmtree(removing, ignore_errors=True)
    if folder.exists():
        folder.rename(removing)
        shutil.rmtree(removing, ignore_errors=True)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(_hidden(folder.name, what))


def _hidden(name: str, what: str) -> str:
    return f".{name.removeprefix('.')}.{what}"


def is_complete(folder: Path) -> bool:
    """Whether a write ended: its checksums, which come last, are there. What they say is not looked at; see `damage`."""
    return (folder / CHECKSUMS).is_file()


def damage(folder: Path) -> str:
    """What is wrong with a folder, in words; empty when every file has its checksum.

    Raises:
      OSError: it cannot be read, which says nothing about what is on the disk.
    """
    try:
        rows = [line.split("  ", 1) for line in _sums(folder).splitlines()]
        listed = {name for _, name in rows}
        # Only regular files: the list may come from somebody else and name a device.
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
    """(arrays by part and name, facts) of a folder.

    Raises:
      UserError: it is missing, damaged, or replaced at this moment (see `read_whole`).
    """
    parts, facts, names = {}, {}, {stored: name for name, stored in _PART_NAMES.items()}
    try:
        sums = _sums(folder)
        wrong = damage(folder)
        if not wrong:
            facts = _facts(folder)
            for path in sorted(folder.glob("*.npz")):
                _refuse_foreign_arrays(path)
                with np.load(path, allow_pickle=False) as archive:
                    parts[names.get(path.stem, path.stem)] = {name: archive[name] for name in archive.files}
            wrong = "" if _sums(folder) == sums else "others, which came while they were read"
    except (FileNotFoundError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
        wrong = str(error) if folder.is_dir() else "no such folder"
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged archive has positions before its begin; anything else is the disk's
            raise
        wrong = "positions outside of an archive"
    if wrong:
        raise UserError(folder, expected="whole weights written by flexseg", found=wrong)
    return parts, facts


def _refuse_foreign_arrays(path: Path) -> None:
    """Raises a ValueError unless an archive is one that `np.savez` wrote: plain numbers, uncompressed. So no array is larger than its file."""
    with zipfile.ZipFile(path) as archive:
        names = [member.filename for member in archive.infolist()]
        if len(set(names)) < len(names):
            raise ValueError(f"{path.name} holds an array twice")
        for member in archive.infolist():
            what = f"{member.filename.removesuffix('.npy')!r} of {path.name}"
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise ValueError(f"{what} is compressed or encrypted")
            try:
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read_header(stream)
            except (
                tokenize.TokenError,
                SyntaxError,
                TypeError,
                EOFError,
                RuntimeError,
                MemoryError,
            ) as error:  # NumPy reads a header as a Python literal
                raise ValueError(f"{what} has no header") from error
            if dtype.kind not in "fiub":
                raise ValueError(f"{what} holds {dtype}, not numbers")
            if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > min(member.file_size, path.stat().st_size):
                raise ValueError(f"{what} is said to have the shape {shape}, more than the file holds")


def read_facts(folder: Path) -> dict:
    """The facts of a folder, without its arrays; a UserError where they are something else."""
    try:
        return _facts(folder)
    except ValueError as error:
        raise UserError(folder, expected="whole weights written by flexseg", found=str(error)) from error


def _facts(folder: Path) -> dict:
    names, facts = {stored: name for name, stored in _FACT_NAMES.items()}, read_json(facts_file(folder), most_bytes=_MOST_BYTES)
    if not isinstance(facts, dict):
        raise ValueError(f"{_FACTS} is {json_type(facts)}")
    for name, kinds in _FACT_TYPES.items():
        if name in facts and type(facts[name]) not in kinds:
            raise ValueError(f"{name} in {_FACTS} is {json_type(facts[name])}")
    if printable(str(facts.get("monitor", ""))) != facts.get("monitor", ""):
        raise ValueError(f"monitor in {_FACTS} has control characters")
    return {names.get(name, name): value for name, value in facts.items()}


def _sums(folder: Path) -> str:
    if not is_complete(folder):
        raise FileNotFoundError(f"{CHECKSUMS} is not there")
    if (folder / CHECKSUMS).stat().st_size > _MOST_BYTES:
        raise ValueError(f"{CHECKSUMS} is larger than {_MOST_BYTES:,} bytes")
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
