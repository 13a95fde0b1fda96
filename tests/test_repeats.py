"""The networks repeat little: a network's file shows its network, and what networks share stands in flexseg/models/layers."""

import ast
import collections
import io
import itertools
import keyword
import tokenize
from pathlib import Path

from flexseg import models

LINES = 6  # of a repeat
AT_MOST = 9  # pairs of places


def shapes(source: str) -> list[tuple[str, ...]]:
    """Each line of code as its tokens, with names, strings and numbers alike. Imports, docstrings, comments and lone brackets are left out."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    lines = collections.defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.STRING, tokenize.NUMBER, tokenize.OP) and token.start[0] not in skipped:
            lines[token.start[0]].append(shape_of(token))
    return [tuple(line) for _, line in sorted(lines.items()) if any(shape.isalpha() for shape in line)]


def shape_of(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return token.string if keyword.iskeyword(token.string) else "name"
    return {tokenize.STRING: "string", tokenize.NUMBER: "number"}.get(token.type, token.string)


def repeats(sources: dict[str, str]) -> list[tuple[str, str]]:
    """The pairs of files that share LINES consecutive lines, once for each run of them; a file may be paired with itself."""
    places = collections.defaultdict(list)
    for name, source in sources.items():
        lines = shapes(source)
        for start in range(len(lines) - LINES + 1):
            places[tuple(lines[start : start + LINES])].append((name, start))
    windows = {
        pair for at in places.values() for pair in itertools.combinations(at, 2) if pair[0][0] != pair[1][0] or pair[1][1] - pair[0][1] >= LINES
    }
    longer = {((one, a + 1), (other, b + 1)) for (one, a), (other, b) in windows}  # a run of seven lines is one repeat
    return sorted((one[0], other[0]) for one, other in windows - longer)


def test_networks_and_layers_repeat_little():
    folder = Path(models.__file__).parent
    found = repeats({str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.py"))})
    assert len(found) <= AT_MOST, found


PREAMBLE = """
def net(size, filters):
    check(size, "size", 2)
    check(filters, "filters", 1)
    style = ConvStyle(owner="net")
    x = unit(size, style)
    x = unit(x, style)
    x = unit(x, style)
    return x
"""


def test_a_planted_repeat_is_seen_once_under_other_names_strings_and_numbers():
    other = PREAMBLE.replace("net", "other").replace("size", "extent").replace("2", "4").replace("    style", "\n    # why\n    style")
    assert repeats({"a": PREAMBLE, "b": other}) == [("a", "b")]


def test_what_is_written_otherwise_is_no_repeat():
    assert repeats({"a": PREAMBLE, "b": PREAMBLE.replace("x = unit(size, style)", "x = unit(size)")}) == []
    assert repeats({"a": "import os\n" * 9, "b": "import os\n" * 9}) == []
