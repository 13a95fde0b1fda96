"""Text in images: the font, text shortened to a width, a legend that wraps.

    rows = legend_rows([((0, 0, 0), "background"), ((213, 94, 0), "false positive")], width=512, size=13)
    draw_legend(draw, rows, left=6, top=300, size=13)

The font is matplotlib's DejaVu Sans, so that images are equal on every machine. It has no Chinese or Japanese characters.
"""

import functools
from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont

INK, PAPER = (30, 30, 30), (255, 255, 255)
_SPACE = 14  # pixels between two legend entries

Color = tuple[int, int, int]
Pattern = tuple[tuple[Color, ...], ...]  # square
Entry = tuple[Color | Pattern, str]  # fill of its box, name


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in `size` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def shorten(text: str, width: float, letters: ImageFont.FreeTypeFont) -> str:
    """`text` on one line; an ellipsis replaces its middle where it is wider than `width` pixels (ids often differ at their ends)."""
    text = " ".join(text.splitlines())
    kept = len(text)
    short = text
    while kept and letters.getlength(short) > width:
        kept -= 1
        short = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
    return short


def legend_rows(entries: list[Entry], width: int, size: int) -> list[list[Entry]]:
    """Wraps entries (colour, name) into rows of at most `width` pixels; shortens names that are too wide."""
    rows: list[list[Entry]] = []
    used = 0.0
    for color, name in entries:
        name = shorten(name, width - size - 6, font(size))
        needed = _entry_width(name, size)
        if not rows or used + needed - _SPACE > width:
            rows.append([])
            used = 0.0
        rows[-1].append((color, name))
        used += needed
    return rows


def draw_legend(draw: ImageDraw.ImageDraw, rows: list[list[Entry]], *, left: int, top: int, size: int) -> None:
    """Draws the rows, each `size + 8` pixels high, from (left, top) on."""
    for r, row in enumerate(rows):
        x: float = left
        y = top + r * (size + 8)
        for color, name in row:
            _draw_box(draw, color, x, y + 1, size)
            draw.text((x + size + 6, y + 1 + size / 2), name, fill=INK, font=font(size), anchor="lm")
            x += _entry_width(name, size)


def _draw_box(draw: ImageDraw.ImageDraw, color: Color | Pattern, x: float, y: float, size: int) -> None:
    pattern = color if isinstance(color[0], tuple) else ((color,),)
    cell = size / len(pattern)
    for row, colors in enumerate(pattern):
        for column, fill in enumerate(colors):
            draw.rectangle((x + column * cell, y + row * cell, x + (column + 1) * cell, y + (row + 1) * cell), fill=fill)
    draw.rectangle((x, y, x + size, y + size), outline=(90, 90, 90))


def _entry_width(name: str, size: int) -> float:
    return size + 6 + font(size).getlength(name) + _SPACE
