"""Names that become folders: letters, digits, `_`, `-` and `.`, so that a name can never lead out of its directory.

Usage:
    check_name("--name", "my_set")
"""

import re

from flexseg.errors import UserError


def check_name(where: str, name: str) -> None:
    """Refuses a name that is empty, starts with a dot, or holds anything else, with a UserError."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise UserError(where, expected="a name of letters, digits, '_', '-' and '.'", found=repr(name))
