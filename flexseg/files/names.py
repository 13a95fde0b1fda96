"""Checks names that become folders: letters, digits, `_`, `-` and `.`, so that no name leads out of its directory.

Usage:
    check_name("--name", "my_set")
"""

import re

from flexseg.errors import UserError


def check_name(where: str, name: str) -> None:
    """Raises a UserError if a name is empty, starts with a dot, or holds other characters."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise UserError(where, expected="a name of letters, digits, '_', '-' and '.'", found=repr(name))
