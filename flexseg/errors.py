"""UserError: a mistake of the user as one line: what was expected, what was found, and the cure.

    raise UserError("masks/a.png", expected="the values 0 and 255", found="76 (12 pixels)",
                    cure='add --gin_param="label_map.off_map='nearest'"')

The dispatcher prints the line and exits with 1; the traceback is written to the run's `log.txt` only.
"""

import re
from collections.abc import Iterable

# Control characters, marks that reverse the direction of text (Unicode bidirectional algorithm, UAX #9), and bytes that were no UTF-8.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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
        message = f"{where}: expected {expected}, found {found}." + (f" To fix it: {cure}" if cure else "")
        super().__init__(printable(" ".join(message.splitlines())))


def printable(text: str, *, keep: str = "") -> str:
    """The text with escapes such as `\\x1b` for characters that steer a terminal or a log, but for those in `keep`."""
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def gin_param(binding: str) -> str:
    """`--gin_param="train.epochs=3"`, quoted for a shell."""
    for special in '\\"$`':  # special in double quotes in bash; the backslash first
        binding = binding.replace(special, "\\" + special)
    return f'--gin_param="{binding}"'


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
