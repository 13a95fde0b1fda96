"""CsvLog: a CSV file of metrics with one row per epoch.

    log = CsvLog("runs/a/train_losses.csv", ("epoch", "loss", "val_loss"))
    log.truncate_after(7)                                   # after a restore of epoch 7; 0 empties it
    log.append({"epoch": 8, "loss": 0.21, "val_loss": 0.24})

A row is on the disk when `append` returns. Epochs count from 1. Values have nine significant digits, which represent a float32 exactly, so files of
interrupted and uninterrupted runs can be compared as text. Only one process may write.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flexseg.errors import UserError
from flexseg.files.atomic import open_to_append, replace_file


class CsvLog:
    """An append-only table with a fixed header whose first column is `epoch`.

    Args:
      path: the file; made with its header if it is missing or empty. A last line that a crash cut off is dropped.
      columns: the header; the first must be "epoch".

    Raises:
      UserError: the file has another header, or holds something else than numbers.
    """

    last_epoch: int

    def __init__(self, path: str | os.PathLike, columns: Sequence[str]):
        self.path, self.columns = Path(path), tuple(columns)
        if self.columns[:1] != ("epoch",) or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"the columns must be distinct and start with 'epoch', got {self.columns}")
        rows: list[list[str]] = []
        if self.path.exists() and self.path.stat().st_size:
            try:
                found, rows = read_rows(self.path)
                for row in rows:
                    int(row[0]), [float(cell) for cell in row if cell]
            except (ValueError, csv.Error) as error:  # ValueError: no UTF-8 as well
                cure = "move this file away, or train into another --workdir"
                raise UserError(self.path, expected="a table of numbers, one row an epoch", found=str(error), cure=cure) from error
            if found != self.columns:
                raise UserError(
                    self.path,
                    expected=f"the header {','.join(self.columns)}",
                    found=",".join(found) or "none",
                    cure="train into another --workdir, or move this file away (the metrics of the run have changed)",
                )
        self._rewrite(rows)

    def append(self, row: Mapping[str, float | int | None]) -> None:
        """Appends one row and flushes it to the disk. A column that is missing or None stays empty (an epoch without validation).

        Raises:
          ValueError: an unknown column, or an epoch that is not later than the last one.
        """
        unknown = sorted(set(row) - set(self.columns))
        if unknown:
            raise ValueError(f"{self.path} has no column {', '.join(unknown)}; its columns are {', '.join(self.columns)}")
        epoch = row["epoch"]
        if epoch is None or epoch <= self.last_epoch:
            raise ValueError(f"{self.path} ends with epoch {self.last_epoch}; epoch {epoch} does not follow it")
        with open_to_append(self.path) as stream:
            stream.write(_encode([[_cell(row.get(column)) for column in self.columns]]))
            stream.flush()
            os.fsync(stream.fileno())
        self.last_epoch = int(epoch)

    def truncate_after(self, epoch: int) -> int:
        """Removes the rows of later epochs and returns their number."""
        _, rows = read_rows(self.path)
        kept = [row for row in rows if int(row[0]) <= epoch]
        if len(kept) < len(rows):
            self._rewrite(kept)
        return len(rows) - len(kept)

    def _rewrite(self, rows: list[list[str]]) -> None:
        content = _encode([self.columns, *rows])
        if not self.path.exists() or self.path.read_bytes() != content:
            replace_file(self.path, content)
        self.last_epoch = int(rows[-1][0]) if rows else 0


def read_rows(path: str | os.PathLike) -> tuple[tuple[str, ...], list[list[str]]]:
    """The header and the complete rows of a CSV file, cells stripped; a last line without newline is ignored.

    Also reads files of the reference system, with blanks after commas and a trailing comma in every line.
    """
    text = Path(path).read_text(encoding="utf-8")
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1]), skipinitialspace=True))
    header = tuple(cell.strip() for cell in lines[0]) if lines else ()
    width = len(header) - (header[-1:] == ("",))
    return header[:width], [[cell.strip() for cell in line[:width]] for line in lines[1:] if len(line) >= width]


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, int) else f"{float(value):.9g}"


def _encode(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
