"""UserError: a mistake of the user as one line: what was expected, what was found, and the cure.

    raise UserError("masks/a.png", expected="the values 0 and 255", found="76 (12 pixels)",
                    cure='add --gin_param="label_map.off_map='nearest'"')

The dispatcher prints the line and exits with 1; the traceback is written to the run's `log.txt` only.
"""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct.

    Args:
      where: the file, flag, binding or directory that is wrong.
      expected: what flexseg needs there.
      found: the offending value.
      cure: what to type or change, as a full sentence or command; may be empty where `expected` suffices.
    """

    def __init__(self, where: object, *, expected: str, found: str, cure: str = ""):
        self.where, self.expected, self.found, self.cure = str(where), expected, found, cure
        super().__init__(f"{where}: expected {expected}, found {found}." + (f" To fix it: {cure}" if cure else ""))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; the name of its class if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def choose(name: str, known: Iterable[str]) -> str:
    """A cure for an unknown name: the nearest of `known`, or all of them if none is near."""
    return suggest(name, known).strip() or f"Use one of {', '.join(known)}."


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of `known`, or an empty string."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
