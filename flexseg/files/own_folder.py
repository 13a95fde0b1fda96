"""Folders that flexseg makes and removes: each holds a mark, and nothing without the mark is removed.

writing = make_own_folder(output.with_name(f".{output.name}.writing"))
...
writing.rename(output)                  # the mark stays: a later --overwrite finds it
remove_own_folder(old)
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from flexseg.errors import UserError
from flexseg.files.atomic import make_folder

_MARK = ".made_by_flexseg"


def is_own_folder(path: Path, *, unmarked: Collection[str] = ()) -> bool:
    """Whether `path` is a folder, not a link to one, with the mark; or, as before 0.2.0, one that holds `unmarked` names and no others."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / _MARK).is_file() or {entry.name for entry in path.iterdir()} <= set(unmarked)


def make_own_folder(path: Path, *, unmarked: Collection[str] = ()) -> Path:
    """Makes a new folder with the mark, and its parents; one that a killed call left is removed first.

    Raises:
      UserError: something stands there that flexseg did not make.
    """
    remove_own_folder(path, unmarked=unmarked)
    path.mkdir(parents=True)
    (path / _MARK).touch()
    return path


def remove_own_folder(path: Path, *, unmarked: Collection[str] = ()) -> None:
    """Removes a folder with the mark (see `is_own_folder`); nothing where there is none.

    Raises:
      UserError: something stands there that flexseg did not make.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not is_own_folder(path, unmarked=unmarked):
        raise UserError(path, expected="nothing of that name, or a folder that flexseg made", found="another", cure="move it away")
    shutil.rmtree(path)


def make_own_folder_at(path: Path, *, flag: str, unmarked: Collection[str] = ()) -> Path:
    """The folder that `flag` names, with the mark; one of flexseg's own is written to again.

    Raises:
      UserError: it holds files that flexseg did not write, or cannot be made.
    """
    if path.is_dir() and not is_own_folder(path, unmarked=unmarked):
        found = "one with other files"
        raise UserError(f"{flag}={path}", expected="a new folder, or one that flexseg wrote", found=found, cure="name another")
    make_folder(path, flag=flag)
    (path / _MARK).touch()
    return path
