"""Report: scores of a split per case, group and class, with their definitions.

    report = Report(label_map, leaked=manifest.leaked)
    for case in cases:
        report.add(case.case_id, case.group_id, truth, prediction)     # uint8 [H, W], at the case's own size
    report.fill(loss_name="bce_dice_loss", loss=0.21, metrics={"dice_coef": 0.88})
    print(report.table())
    report.write("runs/a/evaluation/test")                             # report.json, per_case.csv, evaluation.csv

D(i, c) is the Dice of case i and class c (see scores.py). Undefined values are left out of every mean.

    per_class.{c}.dice            mean of D(i, c) over the cases i
    per_class.{c}.pooled_dice     Dice over the pixels of all cases
    per_group.{g}.dice.{c}        D(g, c) = mean of D(i, c) over the cases i of group g
    per_group.{g}.mean_foreground_dice = mean of D(g, c) over the foreground classes c
    mean_foreground_dice          = mean of per_group.{g}.mean_foreground_dice over the groups g

IoU likewise. The order of cases does not matter. The caller computes loss and metrics and calls `fill`.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexseg.evaluation.intervals import LEVEL, MIN_GROUPS, RESAMPLES, SEED, bootstrap_groups
from flexseg.evaluation.scores import CaseCounts, count_case, mean_of_known, ratio
from flexseg.files.atomic import replace_file
from flexseg.files.label_map import LabelMap

SCORES = ("dice", "iou", "precision", "recall")
LEAKED = (
    "LEAKED: the dataset was built with split.allow_leak: images of one group stand in two of its splits. "
    "These scores do not say how the model does on new groups."
)
DEFINITIONS = (
    "Scores are counted on hard masks at each case's own size; pixels of value 255 in the truth count nowhere.",
    "Dice = 2tp/(2tp+fp+fn), IoU = tp/(tp+fp+fn), precision = tp/(tp+fp), recall = tp/(tp+fn), per case and class.",
    "A class that is in neither truth nor prediction of a case: the case does not enter that class's means and is counted as true_empty. "
    "Predicted without being in the truth it scores 0; in the truth without being predicted it scores 0.",
    "Precision is undefined where nothing is predicted, recall where the truth is empty: such cases do not enter that mean.",
    "per_class.dice, iou, precision and recall are means over cases; cases is the number that enters Dice and IoU; pixels are the truth's. "
    "pooled_dice counts the pixels of all cases together.",
    "per_group.dice is the mean over the group's cases; per_group.mean_foreground_dice its mean over the foreground classes; "
    "mean_foreground_dice is the mean of that over the groups. IoU likewise. What is undefined is left out.",
    f"Intervals: {LEVEL:.0%} bootstrap percentiles over groups ({RESAMPLES} resamples, seed {SEED}). "
    f"None is given where fewer than {MIN_GROUPS} groups have a value; another training run is not covered.",
)


class Report:
    """Scores of a set of cases.

    Args:
      label_map: the dataset's LabelMap, or a report of the same classes; gives `class_names` and `background` (class id or None).
      leaked: whether the dataset was built with `split.allow_leak`; all output then has a LEAKED stamp.
    """

    def __init__(self, label_map: "LabelMap | Report", *, leaked: bool = False):
        self.class_names: tuple[str, ...] = tuple(label_map.class_names)
        self.background: int | None = label_map.background
        self.leaked = leaked
        self.loss_name = "loss"
        self.loss: float | None = None
        self.metrics: dict[str, float] = {}
        self.notes: tuple[str, ...] = ()
        self._cases: dict[str, tuple[str, CaseCounts]] = {}

    def add(self, case_id: str, group_id: str | None, truth: np.ndarray, prediction: np.ndarray) -> CaseCounts:
        """Counts and adds a case; truth and prediction are class ids uint8 [H, W] at the case's own size.

        Raises:
          ValueError: as `count_case` and `add_counts`, with the name of the case.
        """
        try:
            counts = count_case(truth, prediction, len(self.class_names))
        except ValueError as error:
            raise ValueError(f"case {case_id}: {error}") from None
        self.add_counts(case_id, group_id, counts)
        return counts

    def add_counts(self, case_id: str, group_id: str | None, counts: CaseCounts) -> None:
        """Adds the counts of a case. A case without group_id (None or empty) is its own group.

        Raises:
          ValueError: the case was added before, or its number of classes differs.
        """
        if case_id in self._cases:
            raise ValueError(f"case {case_id} is counted twice")
        if counts.num_classes != len(self.class_names):
            raise ValueError(f"case {case_id} has counts of {counts.num_classes} classes, the report has {len(self.class_names)}")
        self._cases[case_id] = (group_id or case_id, counts)

    def __add__(self, other: "Report") -> "Report":
        """The report of the cases of both reports, which must be disjoint; without loss and metrics.

        Raises:
          ValueError: the classes differ, or a case is in both.
        """
        if (self.class_names, self.background) != (other.class_names, other.background):
            raise ValueError(f"the reports' classes differ: {self.class_names} and {other.class_names}")
        joined = Report(self, leaked=self.leaked or other.leaked)
        for report in (self, other):
            for case_id, (group_id, counts) in report._cases.items():
                joined.add_counts(case_id, group_id, counts)
        return joined

    def __len__(self) -> int:
        return len(self._cases)

    def fill(self, *, loss: float | None, metrics: Mapping[str, float], loss_name: str = "loss", notes: Sequence[str] = ()) -> None:
        """Sets loss and metrics, which are computed from logits.

        Args:
          loss: the loss, or None.
          metrics: {metric name: value}. `mean_foreground_dice` and `mean_foreground_iou` are replaced by the report's values.
          loss_name: name of the loss.
          notes: warnings about metrics with misleading names.
        """
        self.notes = tuple(notes)
        self.loss_name, self.loss = loss_name, None if loss is None else float(loss)
        self.metrics = {name: float(value) for name, value in metrics.items()}

    @property
    def foreground(self) -> list[int]:
        """Class ids without the background."""
        return [k for k in range(len(self.class_names)) if k != self.background]

    def result(self) -> dict:
        """The report as JSON values; undefined scores are None. The module's docstring defines the keys."""
        case_ids = sorted(self._cases)
        groups, member = np.unique([self._cases[i][0] for i in case_ids], return_inverse=True) if case_ids else (np.array([]), np.array([], int))
        counts = [self._cases[i][1] for i in case_ids]
        shape = (len(counts), len(self.class_names))
        scores = {name: np.array([getattr(c, name) for c in counts]).reshape(shape) for name in SCORES}
        sums = {name: np.array([getattr(c, name) for c in counts], np.int64).reshape(shape).sum(0) for name in ("tp", "fp", "fn", "true_empty")}
        size = np.bincount(member, minlength=len(groups))

        per_group = {}
        quotients = {}
        for name in ("dice", "iou"):
            total, known = np.zeros((len(groups), shape[1])), np.zeros((len(groups), shape[1]))
            np.add.at(total, member, np.nan_to_num(scores[name]))
            np.add.at(known, member, ~np.isnan(scores[name]))
            per_group[name] = ratio(total, known)
            foreground = mean_of_known(per_group[name][:, self.foreground], axis=1)
            per_group[f"mean_foreground_{name}"] = foreground
            quotients[name] = total, known
            quotients[f"mean_foreground_{name}"] = np.nan_to_num(foreground)[:, None], ~np.isnan(foreground)[:, None]
        intervals = _intervals(quotients)
        means = {name: mean_of_known(per_group[name]) for name in ("mean_foreground_dice", "mean_foreground_iou")}
        pooled = ratio(2 * sums["tp"], 2 * sums["tp"] + sums["fp"] + sums["fn"])

        return _without_nan(
            {
                "leaked": self.leaked,
                "cases": len(counts),
                "groups": len(groups),
                "ignored_pixels": sum(c.ignored for c in counts),
                "classes": list(self.class_names),
                "background": None if self.background is None else self.class_names[self.background],
                "loss_name": self.loss_name,
                "loss": self.loss,
                "metrics": {name: means.get(name, value) for name, value in self.metrics.items()},
                "mean_foreground_dice": means["mean_foreground_dice"],
                "mean_foreground_dice_interval": intervals["mean_foreground_dice"][0],
                "mean_foreground_iou": means["mean_foreground_iou"],
                "mean_foreground_iou_interval": intervals["mean_foreground_iou"][0],
                "interval_missing_because": None if len(groups) >= MIN_GROUPS else f"{len(groups)} groups: an interval needs {MIN_GROUPS} at least",
                "per_class": {
                    name: {
                        **{score: mean_of_known(scores[score][:, k]) for score in SCORES},
                        "dice_interval": intervals["dice"][k],
                        "iou_interval": intervals["iou"][k],
                        "pooled_dice": pooled[k],
                        "true_empty": sums["true_empty"][k],
                        "cases": len(counts) - sums["true_empty"][k],
                        "pixels": sums["tp"][k] + sums["fn"][k],
                    }
                    for k, name in enumerate(self.class_names)
                },
                "per_group": {
                    str(group): {
                        "mean_foreground_dice": per_group["mean_foreground_dice"][g],
                        "mean_foreground_iou": per_group["mean_foreground_iou"][g],
                        "cases": size[g],
                        "dice": dict(zip(self.class_names, per_group["dice"][g], strict=True)),
                        "iou": dict(zip(self.class_names, per_group["iou"][g], strict=True)),
                    }
                    for g, group in enumerate(groups)
                },
                "definitions": self.definitions(),
            }
        )

    def definitions(self) -> list[str]:
        """The definitions of the scores as sentences, with the LEAKED warning first if it applies."""
        if self.background is None:
            classes = "The label map names no background class: every class is foreground."
        else:
            classes = f"The background class {self.class_names[self.background]!r} is listed per class and enters no foreground mean."
        own = all(case_id == group for case_id, (group, _) in self._cases.items())
        return [
            *([LEAKED] if self.leaked else []),
            *DEFINITIONS,
            classes,
            *(["No groups are known: every case is its own group, and the interval takes cases for independent."] if own and self._cases else []),
            *self.notes,
        ]

    def table(self) -> str:
        """The report as text: one row per class, then the means. No final line break."""
        result = self.result()
        header = ("class", "Dice", "IoU", "precision", "recall", "pooled Dice", "cases", "true empty")
        rows = [header]
        for k, (name, row) in enumerate(result["per_class"].items()):
            numbers = (_number(row[key]) for key in (*SCORES, "pooled_dice"))
            rows.append((name + " *" * (k == self.background), *numbers, str(row["cases"]), str(row["true_empty"])))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        groups = f"{result['groups']} group{'s' * (result['groups'] != 1)}"
        for score in ("Dice", "IoU"):
            key = f"mean_foreground_{score.lower()}"
            interval = result[f"{key}_interval"]
            tail = f"   95 % over {groups}: {_number(interval[0])} to {_number(interval[1])}" if interval else f"   (no interval: {groups})"
            lines.append(f"mean foreground {score:4}  {_number(result[key])}{tail}")
        lines += ["* background: in no foreground mean"] * (self.background is not None)
        lines.append(f"{result['cases']} case{'s' * (result['cases'] != 1)}; means over cases per class, over groups for the foreground")
        named = self._named(result)
        width = max((len(name) for name, _ in named), default=0)
        lines += [f"{name.ljust(width)}  {value:.4f}" for name, value in named]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*([LEAKED, ""] if self.leaked else []), *lines])

    def write(self, directory: str | os.PathLike, *, provenance: Mapping[str, object] | None = None) -> dict:
        """Writes report.json, per_case.csv and evaluation.csv, each atomically, and returns the content of report.json.

        `provenance` (weights, epoch, overrides) is added to report.json.
        """
        directory = Path(directory)
        result = {**self.result(), "provenance": dict(provenance or {})}
        replace_file(directory / "report.json", (json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
        replace_file(directory / "per_case.csv", _csv(self._case_rows()))
        rows = [(name, f"{value:.4f}") for name, value in self._named(result)]  # the reference's format
        replace_file(directory / "evaluation.csv", _csv(rows + [("LEAKED", 1)] * self.leaked))
        return result

    def _named(self, result: dict) -> list[tuple[str, float]]:
        """(name, value) of the loss, if there is one, and of the metrics."""
        metrics = [(name, math.nan if value is None else value) for name, value in result["metrics"].items()]
        return metrics if self.loss is None else [(self.loss_name, self.loss), *metrics]

    def _case_rows(self) -> Iterator[list]:
        header = ["case_id", "group_id", "height", "width", *(f"{name}.{score}" for name in self.class_names for score in SCORES)]
        yield [*header, "mean_foreground_dice", *(["LEAKED"] if self.leaked else [])]
        for case_id in sorted(self._cases):
            group_id, counts = self._cases[case_id]
            values = [getattr(counts, score)[k] for k in range(len(self.class_names)) for score in SCORES]
            values.append(mean_of_known(counts.dice[self.foreground]))
            cells = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
            yield [case_id, group_id, counts.height, counts.width, *cells, *([1] if self.leaked else [])]


def _intervals(quotients: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, list]:
    """{name: [[low, high] or None for each column]}; None where fewer than MIN_GROUPS groups have a value."""
    numerators, denominators = (np.hstack(parts).astype(np.float64) for parts in zip(*quotients.values(), strict=True))
    pairs: list[list[float] | None] = [None] * numerators.shape[1]
    if len(numerators) >= MIN_GROUPS:
        enough = (denominators > 0).sum(0) >= MIN_GROUPS
        pairs = [pair.tolist() if ok else None for pair, ok in zip(bootstrap_groups(numerators, denominators), enough, strict=True)]
    left = iter(pairs)
    return {name: [next(left) for _ in range(values.shape[1])] for name, (values, _) in quotients.items()}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula, behind an apostrophe (OWASP, CSV Injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _without_nan(value: object) -> Any:
    """Converts NumPy scalars to Python numbers and non-finite numbers to None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
