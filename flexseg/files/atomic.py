"""Writes a file atomically: a reader sees the old content or the new, never a part of it.

    replace_file("evaluation/report.json", text.encode())
    with open_to_append("log.txt") as stream: ...       # never through a link
    make_folder("masks", flag="--output")               # checked before hours of work

The content must fit in memory. An `OSError` (a full disk) reaches the caller and leaves the old file as it was.
"""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from flexseg.errors import UserError


def replace_file(path: str | os.PathLike, content: bytes) -> Path:
    """Writes `content` to a temporary file beside `path`, flushes it and renames it. Makes missing folders. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes 0600; a report gets the user's default permissions
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def open_to_append(path: str | os.PathLike) -> BinaryIO:
    """Opens a file to append bytes, and makes it where it is missing.

    Raises:
      UserError: it is a link, a folder, a pipe or a device.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a reader would block
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        found = {errno.ELOOP: "a link", errno.ENXIO: "a pipe or a device", errno.EISDIR: "a folder"}[error.errno]
        raise UserError(path, expected="a file to write to", found=found, cure="remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(path, expected="a file to write to", found="a pipe or a device", cure="remove it")
    return os.fdopen(descriptor, "ab")


def make_folder(path: str | os.PathLike, *, flag: str) -> Path:
    """Makes the folder that `flag` names, with its parents; a UserError where it cannot be made or written to."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        raise UserError(f"{flag}={path}", expected="a folder that can be made", found=error.strerror or str(error), cure="name another") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{flag}={path}", expected="a folder that can be written to", found="no permission", cure="name another")
    return Path(path)
