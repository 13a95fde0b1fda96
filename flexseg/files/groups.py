"""Groups: finds which files show the same patient, slide or tile, so that no group is in two splits.

    groups, warnings = find_groups(source, [("1010", Path("set/images/1010.png")), ...], pattern=None, column="group")

Groups come from `groups.csv` in the source folder or from a regular expression on the stem. Without either, leaks cannot be detected; a warning says
so. Where names look like derivations of one image (`barrdistorted_1001_0.3_0.3_1034`, `1034`), it suggests a `--group_pattern`.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from flexseg.errors import UserError, suggest

# In augmented data of the reference system, the last number of a name is that of the source image.
LAST_NUMBER = r"(\d+)$"


def find_groups(source: Path, files: Sequence[tuple[str, Path]], *, pattern: str | None, column: str = "group") -> tuple[list[str] | None, list[str]]:
    """The group of each file.

    Args:
      source: the folder that may hold `groups.csv` (UTF-8, commas, a header row with `image` and `column`). The column `image` holds file names,
        stems, or paths relative to `source` (needed where two files have one name).
      files: (stem, image file) of each case; the stem is without extension and without the rest of `--image_pattern`.
      pattern: a regular expression with one capturing group, searched in the stem. None: use `groups.csv`.
      column: the column of `groups.csv` that holds the group.

    Returns:
      (one group for each file, or None where groups are not known; warnings).

    Raises:
      UserError: both pattern and column given, an invalid pattern, a file without a group or with two.
    """
    table = source / "groups.csv"
    header = _header(table) if table.is_file() else None
    if pattern is not None:
        if header is not None and column in header:
            raise UserError(
                "--group_pattern",
                expected="groups from one place",
                found=f"a pattern and the column {column!r} of {table}",
                cure="leave out --group_pattern, or move groups.csv away.",
            )
        return _by_pattern(files, pattern), []
    if header is not None and column in header:
        return _by_table(source, table, files, column, header), []
    return None, [_unseen(table, header, column, [stem for stem, _ in files])]


def some(names: Iterable[object], limit: int = 5) -> str:
    """`a, b, c … (12 in all)`: up to `limit` names of a list, for messages."""
    distinct = list(dict.fromkeys(str(name) for name in names))
    return ", ".join(distinct[:limit]) + (f" … ({len(distinct)} in all)" if len(distinct) > limit else "")


def _by_pattern(files: Sequence[tuple[str, Path]], pattern: str) -> list[str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(
            "--group_pattern", expected="a regular expression", found=f"{pattern!r} ({error})", cure=f"for example '{LAST_NUMBER}'."
        ) from None
    if regex.groups != 1:
        raise UserError(
            "--group_pattern", expected="one group in parentheses", found=f"{pattern!r} with {regex.groups}", cure=f"for example '{LAST_NUMBER}'."
        )
    groups = [match[1] if (match := regex.search(stem)) else "" for stem, _ in files]
    missing = [stem for (stem, _), group in zip(files, groups, strict=True) if not group]
    if missing:
        raise UserError(
            "--group_pattern",
            expected=f"every name (without its ending) to match {pattern!r}",
            found=f"{len(missing)} of {len(files)} that do not: {some(missing)}",
            cure="widen the pattern, e.g. with an alternative |.",
        )
    return groups


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not blank."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(table, expected="a CSV file in UTF-8", found=str(error), cure="save it again as CSV in UTF-8.") from None


def _header(table: Path) -> list[str]:
    rows = _rows(table)
    return rows[0][1] if rows else []


def _by_table(source: Path, table: Path, files: Sequence[tuple[str, Path]], column: str, header: list[str]) -> list[str]:
    if "image" not in header:
        raise UserError(
            table,
            expected="a column `image` with the file names",
            found=f"the columns {', '.join(header)}",
            cure="rename the column of the file names.",
        )
    name_at, group_at = header.index("image"), header.index(column)
    groups: dict[str, str] = {}
    for number, row in _rows(table)[1:]:
        if len(row) <= max(name_at, group_at) or not row[name_at] or not row[group_at]:
            raise UserError(
                table, expected=f"an image and a {column} in every row", found=f"line {number}: {','.join(row)}", cure="fill the row or remove it."
            )
        name = row[name_at].replace("\\", "/")
        if name in groups:
            raise UserError(table, expected="one row for each image", found=f"two for {name}", cure="remove one of them.")
        groups[name] = row[group_at]
    answer, missing = [], []
    for stem, path in files:
        rows = [name for name in dict.fromkeys((path.relative_to(source).as_posix(), path.name, path.stem, stem)) if name in groups]
        if len(rows) > 1:
            raise UserError(table, expected="one row for each image", found=f"{' and '.join(rows)} for {path.name}", cure="remove one of them.")
        answer.append(groups[rows[0]] if rows else "")
        if not rows:
            missing.append(path.name)
    if missing:
        raise UserError(
            table, expected="a row for each image", found=f"none for {len(missing)} of {len(files)}: {some(missing)}", cure="add the rows."
        )
    return answer


def _unseen(table: Path, header: list[str] | None, column: str, stems: list[str]) -> str:
    """The warning that leaks cannot be detected, with flags that might help."""
    if header is None:
        why = f"no groups are known (no {table.name} in {table.parent}, no --group_pattern)"
        how = f"name the patient, slide or tile of each image in {table.name} (columns image,{column}) or with --group_pattern."
    else:
        why = f"no groups are known: {table} has no column {column!r}, only {', '.join(header)}"
        how = f"build with --group_column= and the column that names the patient, slide or tile, if there is one.{suggest(column, header)}"
    text = f"{why}. Every image counts as a group of its own, and a leak between the splits cannot be seen. To see it, {how}"
    alike = _derivations(stems)
    if alike:
        text += (
            f" {sum(map(len, alike))} names end in the number of another (such as {alike[0][0]} and {alike[0][1]}): "
            f"if they derive from one picture, build with --group_pattern='{LAST_NUMBER}' (and --overwrite where it is built already)."
        )
    return text


def _derivations(stems: list[str]) -> list[list[str]]:
    """Lists of names that end in one number, shortest name first; empty where numbers merely restart (left_1, left_2, right_1, right_2)."""
    families = defaultdict(set)
    for stem in stems:
        if match := re.search(LAST_NUMBER, stem):
            families[match[1]].add(stem)
    alike = [sorted(family, key=lambda stem: (len(stem), stem)) for family in families.values() if len(family) > 1]
    prefixes = Counter(re.sub(LAST_NUMBER, "", stem) for family in alike for stem in family)
    # A bare number is a source image. Otherwise the parameters of derivations (barrdistorted_1001_0.3_0.3_) make most prefixes unique.
    derived = "" in prefixes or 2 * list(prefixes.values()).count(1) > len(prefixes)
    return alike if derived else []
