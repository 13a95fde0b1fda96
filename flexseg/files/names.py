"""Checks names before they become parts of paths, so that no name leads out of its folder.

check_name("--name", "my_set")                                         # typed by the user: letters, digits, `_`, `-` and `.`
check_part(manifest_path, case_id, what="a case id")                   # read from a file that somebody else may have made
below(run.pictures, "epoch_0001", f"{case_id}.png")                    # again, where it is written
"""

import re
from collections.abc import Iterable
from pathlib import Path

from flexseg.errors import UserError, printable

_LONGEST = 200  # bytes of UTF-8 of a name that was read; file systems allow 255, and suffixes are added
_LONGEST_FILE = 255


def check_name(where: str, name: str) -> None:
    """Raises a UserError if a name is empty, starts with a dot, or holds other characters."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise UserError(where, expected="a name of letters, digits, '_', '-' and '.'", found=repr(name))


def unusable(name: object, *, longest: int = _LONGEST) -> str:
    """Why `name` cannot be one part of a path or a line of a log, of at most `longest` bytes; empty if it can."""
    if not isinstance(name, str) or not name:
        return "no text"
    if name in (".", ".."):
        return "a folder above"
    if "/" in name or "\\" in name:
        return "with a separator of folders"
    if printable(name) != name:
        return "with control characters"
    return "" if len(name.encode()) <= longest else f"of more than {longest} bytes"


def check_parts(where: object, names: Iterable[object], *, what: str, cure: str = "") -> None:
    """Raises a UserError at the first name that is `unusable`, or stands there twice."""
    seen = set()
    for name in names:
        if reason := unusable(name):
            raise UserError(where, expected=f"{what} that can be the name of a file", found=f"{_shown(name)}, {reason}", cure=cure)
        if name in seen:
            raise UserError(where, expected=f"every {what.partition(' ')[2]} once", found=f"{_shown(name)} twice", cure=cure)
        seen.add(name)


def below(folder: Path, *parts: str) -> Path:
    """The path of `parts` below `folder`.

    Raises:
      UserError: a part cannot be a name, or a folder on the way is a link out of `folder`.
    """
    path = Path(folder)
    for part in parts:
        if reason := unusable(part, longest=_LONGEST_FILE):
            raise UserError(path, expected="the name of a file", found=f"{_shown(part)}, {reason}")
        path = path / part
        refuse_link_out_of(folder, path)
    return path


def refuse_link_out_of(folder: Path, path: Path) -> None:
    """Raises a UserError if `path`, which lies below `folder`, is a link that leads out of it."""
    try:
        leads_out = path.is_symlink() and not path.resolve().is_relative_to(Path(folder).resolve())
    except (RuntimeError, OSError):  # a loop of links
        leads_out = True
    if leads_out:
        raise UserError(path, expected="a file or folder, or a link to one beside it", found="a link that leads elsewhere", cure="remove the link")


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}…"
