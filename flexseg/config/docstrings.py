"""Parses the `Args:` and `Attributes:` of docstrings, for the help texts of flags and the reference pages.

Usage:
    documented(function.__doc__)                     # {"rate": "of the learning, in steps.", ...}
    sentences_of(TrainSettings)["epochs"]            # those of the base classes too
"""

import inspect
import re

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Example|Examples|Usage|Shapes?|Note):\s*(.*)")
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


def documented(docstring: str) -> dict[str, str]:
    """{name: text} of the entries `name: text` and `a, b: text`; lines that are indented further continue an entry."""
    found: dict[str, str] = {}
    names: tuple[str, ...] = ()
    inside = False
    for line in inspect.cleandoc(docstring).splitlines():
        if section := _SECTION.fullmatch(line):
            inside, names = section[1] in ("Args", "Attributes") and not section[2], ()
        elif not inside or not line.strip():
            names = ()
        elif entry := _ENTRY.fullmatch(line[2:]) if line.startswith("  ") and line[2:3].strip() else None:
            names = tuple(entry[1].split(", "))
            found |= dict.fromkeys(names, entry[2])
        elif line.startswith("   ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            inside = line.startswith(" ")
    return found


def introduction(docstring: str) -> str:
    """The docstring up to its first section."""
    lines = []
    for line in inspect.cleandoc(docstring).splitlines():
        if _SECTION.fullmatch(line):
            break
        lines.append(line)
    return "\n".join(lines).strip()


def sentences_of(source: object) -> dict[str, str]:
    """{parameter: sentence} from the docstring of a function, or of a class and its bases."""
    owners = [owner for owner in reversed(source.__mro__) if owner is not object] if inspect.isclass(source) else [source]
    return {name: text for owner in owners for name, text in documented(owner.__doc__ or "").items()}
