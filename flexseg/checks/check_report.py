"""Writes the report of `flexseg check`: check.json for programs, check.html for people, and example images.

    write_report("checked", findings, table, entries, label_map, max_pixels=150_000_000)

The page loads nothing from the network and has no script; names in it are escaped.
"""

import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from flexseg.checks.findings import Finding, classes_of
from flexseg.checks.survey import Surveyed
from flexseg.files.atomic import replace_file
from flexseg.files.images import read_mask, read_pixels
from flexseg.files.label_map import LabelMap
from flexseg.files.own_folder import make_own_folder_at
from flexseg.pictures.panels import panel, save_png

_COLUMNS = ("height", "width", "mode", "bits", "image_sha256", "mask_sha256", "problem")
_SAMPLES = 6  # cases a sheet
_SPLITS = ("all", "train", "valid", "test")
_FILES = ("check.json", "check.html", "splits.png", "classes.png", "sizes.png", *(f"samples_{split}.png" for split in _SPLITS))
_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }
table { border-collapse: collapse }
td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
.error { color: #b00020; font-weight: bold }
.warning { color: #8a5a00; font-weight: bold }
.note, details { color: #555 }
img { max-width: 100% }
"""


def table_of(entries: Sequence[Surveyed], label_map: LabelMap | None) -> dict[str, dict]:
    """{split, or "all" without splits: cases, groups and the share of each class}."""
    found: dict[str, dict] = {}
    for split in dict.fromkeys(entry.case.split or "all" for entry in entries):
        mine = [entry for entry in entries if (entry.case.split or "all") == split]
        shares: dict[str, float] = {}
        if label_map:
            pixels: Counter = Counter()
            for entry in mine:
                pixels.update(classes_of(entry, label_map) if not entry.problem else {})
            every = max(1, sum(pixels.values()))
            shares = {name: pixels[class_id] / every for class_id, name in enumerate(label_map.class_names)}
        found[split] = {"cases": len(mine), "groups": len({entry.case.group for entry in mine}), "shares": shares}
    return found


def write_report(
    folder: str | Path,
    findings: Sequence[Finding],
    table: dict[str, dict],
    entries: Sequence[Surveyed],
    label_map: LabelMap | None,
    *,
    source: str,
    max_pixels: int,
) -> Path:
    """Writes check.json, check.html and PNG files, and returns the path of the page."""
    folder = make_own_folder_at(Path(folder), flag="--output", unmarked=_FILES)
    sound = [entry for entry in entries if not entry.problem]
    content = {
        "source": source,
        "splits": table,
        "label_map": label_map.to_json() if label_map else None,
        "findings": [{"severity": f.severity, "code": f.code, "text": f.text, "names": list(f.names)} for f in findings],
        "cases": [
            {"case": entry.case.case_id, "split": entry.case.split, "group": entry.case.group, **{name: getattr(entry, name) for name in _COLUMNS}}
            for entry in entries
        ],
    }
    replace_file(folder / "check.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold a dollar sign
        pictures = [("Images a split", _bars(folder / "splits.png", {split: row["cases"] for split, row in table.items()}, "images"))]
        if label_map:
            pictures.append(("Share of each class", _shares(folder / "classes.png", table, label_map)))
        if sound:
            pictures.append(("Height and width", _sizes(folder / "sizes.png", sound)))
        for split in table:
            chosen = _spread([entry for entry in sound if (entry.case.split or "all") == split])
            if chosen and label_map:
                pictures.append((f"Samples: {split}", _samples(folder / f"samples_{split}.png", chosen, label_map, max_pixels)))
    replace_file(folder / "check.html", _page(source, findings, table, pictures).encode())
    return folder / "check.html"


def _page(source: str, findings: Sequence[Finding], table: dict[str, dict], pictures: Sequence[tuple[str, Path]]) -> str:
    def row(finding: Finding) -> str:
        names = "".join(f"<br>{html.escape(name)}" for name in finding.names[:200])
        details = f"<details><summary>{len(finding.names)} names</summary>{names}</details>" if len(finding.names) > 1 else ""
        return f'<tr><td class="{finding.severity}">{finding.severity}</td><td>{html.escape(finding.text)}{details}</td></tr>'

    classes = list(next(iter(table.values()))["shares"]) if table else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("split", "images", "groups", *classes))
    body = "".join(
        f"<tr><td>{html.escape(split)}</td><td>{row_['cases']}</td><td>{row_['groups']}</td>"
        + "".join(f"<td>{row_['shares'][name]:.2%}</td>" for name in classes)
        + "</tr>"
        for split, row_ in table.items()
    )
    shown = "".join(f"<h2>{html.escape(title)}</h2><img src='{html.escape(path.name)}' alt='{html.escape(title)}'>" for title, path in pictures)
    rows = "".join(map(row, findings)) or '<tr><td class="note">nothing</td><td>nothing was found</td></tr>'
    title = html.escape(source)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>flexseg check: {title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<table><tr>{head}</tr>{body}</table><h2>Findings</h2><table>{rows}</table>{shown}\n"
    )


def _spread(entries: Sequence[Surveyed]) -> list[Surveyed]:
    """Some of the entries, evenly spaced from first to last."""
    indices = np.unique(np.linspace(0, len(entries) - 1, min(_SAMPLES, len(entries))).round().astype(int))
    return [entries[index] for index in indices]


def _samples(path: Path, entries: Sequence[Surveyed], label_map: LabelMap, max_pixels: int) -> Path:
    """Image, mask and overlay of each case, one below the other."""
    rows = []
    for entry in entries:
        pixels = read_pixels(entry.case.image, max_pixels=max_pixels)
        if pixels.dtype != np.uint8:
            low, high = float(pixels.min()), float(pixels.max())
            pixels = np.rint((pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
        ids = label_map.encode(read_mask(entry.case.mask_path, max_pixels=max_pixels), entry.case.mask)
        image = pixels[..., None] if pixels.ndim == 2 else pixels
        rows.append(Image.fromarray(panel(image, None, ids, label_map, caption=entry.case.case_id, title="mask", max_side=256)))
    canvas = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height
    return save_png(path, np.asarray(canvas))


def _figure(width: float = 6.0, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(path: Path, figure: Figure) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return replace_file(path, content.getvalue())


def _bars(path: Path, values: dict[str, int], label: str) -> Path:
    figure, axes = _figure()
    bars = axes.bar(list(values), list(values.values()), color="#0072B2", width=0.6)
    axes.bar_label(bars)
    axes.set_ylabel(label)
    axes.margins(y=0.15)
    return _save(path, figure)


def _shares(path: Path, table: dict[str, dict], label_map: LabelMap) -> Path:
    names, splits = list(label_map.class_names), list(table)
    figure, axes = _figure(max(6.0, 0.5 * len(names) * len(splits)))
    for index, (split, color) in enumerate(zip(splits, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False)):
        positions = np.arange(len(names)) + (index - (len(splits) - 1) / 2) * 0.8 / len(splits)
        axes.bar(positions, [100 * table[split]["shares"][name] for name in names], 0.8 / len(splits), label=split, color=color)
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 4 else 0, ha="right" if len(names) > 4 else "center")
    axes.set_ylabel("% of all pixels")
    axes.legend()
    return _save(path, figure)


def _sizes(path: Path, entries: Sequence[Surveyed]) -> Path:
    counts = Counter((entry.width, entry.height) for entry in entries)
    figure, axes = _figure(5.0, 4.0)
    widths, heights = zip(*counts, strict=True)
    axes.scatter(widths, heights, s=[20 + 200 * number / max(counts.values()) for number in counts.values()], color="#0072B2", alpha=0.6)
    axes.set_xlabel("width in pixels")
    axes.set_ylabel("height in pixels")
    axes.set_xlim(0, 1.1 * max(widths))
    axes.set_ylim(0, 1.1 * max(heights))
    return _save(path, figure)
