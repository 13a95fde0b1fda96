"""Reads a JSON file that somebody else may have made.

environment = read_json(run.environment, most_bytes=2**20)
"""

import json
import os
import stat
from typing import Any


def read_json(path: str | os.PathLike, *, most_bytes: int) -> Any:
    """The content of a JSON file.

    Args:
      path: the file; a link is followed.
      most_bytes: a larger file is refused before it is read.

    Raises:
      FileNotFoundError: there is none.
      OSError: it cannot be read.
      ValueError: it is no regular file, too large, no UTF-8, no JSON, or nested too deep.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > most_bytes:
            raise ValueError(f"it has {found.st_size:,} bytes, more than {most_bytes:,}")
        text = file.read(most_bytes + 1)
    try:
        return json.loads(text.decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def json_type(value: object) -> str:
    """The name of a value's type in JSON."""
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
