"""Draws masks: a panel for one case, a sheet for several epochs.

    picture = panel(image, truth, prediction, label_map, caption="slide_3 / tile_07   Dice 0.913")
    save_png("epoch_change_infer/epoch_0001/tile_07.png", picture)

    left, top, right, bottom = tile_boxes(height, width, truth=True)[-1]     # the error tile of a saved panel
    sheet([("epoch 1", [picture[top:bottom, left:right], ...]), ...], columns=["tile_07", ...], label_map=label_map)

A panel shows input | truth | prediction | errors, or without a truth input | prediction | overlay. Masks are resampled to the size of the tile, so
structures thinner than one of its pixels may be missing. Scores are computed elsewhere, at the size of the case.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from flexseg.files.atomic import replace_file
from flexseg.files.label_map import IGNORE, LabelMap
from flexseg.pictures.lettering import INK, PAPER, Color, Entry, Pattern, draw_legend, font, legend_rows, shorten

# Okabe and Ito's colours (2008), distinct for colour-blind readers, on a darkened grayscale image.
ERROR_COLORS = {"false positive": (213, 94, 0), "false negative": (86, 180, 233), "wrong class": (240, 228, 66)}
_OTHER_WRONG = ((204, 121, 167), (0, 158, 115))  # for "wrong class" where a class has a similar yellow
_ALIKE = 80  # RGB distance below which two colours look alike in a legend
CORRECT_OUTLINE = (255, 255, 255)
_IGNORED = ((105, 105, 105), (150, 150, 150))  # the two greys of the hatch pattern
_GAP = 6
_SMALLEST_SLOT = 110  # pixels reserved for a narrow tile, so that its title fits
_SMALLEST_TILE = 192  # a smaller image is enlarged, so that the text fits


def panel(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    label_map: LabelMap,
    *,
    caption: str,
    title: str = "prediction",
    max_side: int = 512,
) -> np.ndarray:
    """One case: tiles side by side under a caption, with a legend below.

    Args:
      image: uint8 [H, W, C]; the first three channels are shown, or the first one if there are two.
      truth: uint8 [H, W] class ids, 255 = ignore; or None.
      prediction: uint8 [H, W] class ids.
      label_map: the LabelMap of the dataset.
      caption: one line, e.g. the case id and its Dice; shortened in the middle.
      title: heading of the prediction tile.
      max_side: longest side of a tile in pixels.

    Returns:
      uint8 [h, w, 3]. Panels of cases of one size have one size.

    Raises:
      ValueError: masks and image differ in size.
    """
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f"the {name} is {list(mask.shape)}, the image {list(image.shape[:2])}")
    height, width = image.shape[:2]
    boxes = tile_boxes(height, width, truth=truth is not None, max_side=max_side)
    tile = (boxes[0][2] - boxes[0][0], boxes[0][3] - boxes[0][1])
    shown = _sample_image(image, tile)
    shown_prediction = _sample_mask(prediction, tile)
    if truth is None:
        tiles = {"input": shown, title: _colored(shown_prediction, label_map), "overlay": _overlay(shown, shown_prediction, label_map)}
    else:
        shown_truth = _sample_mask(truth, tile)
        tiles = {
            "input": shown,
            "truth": _colored(shown_truth, label_map),
            title: _colored(shown_prediction, label_map),
            "errors": _errors(shown, shown_truth, shown_prediction, label_map),
        }
    size = _letter_size(tile)
    total = boxes[-1][0] + max(tile[0], _SMALLEST_SLOT) + _GAP
    legend = legend_rows(_entries(label_map, [m for m in (truth, prediction) if m is not None], errors=truth is not None), total - 2 * _GAP, size)
    canvas = Image.new("RGB", (total, boxes[0][3] + _GAP + len(legend) * _line(size) + _GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _GAP), shorten(caption, total - 2 * _GAP, font(size + 2, bold=True)), fill=INK, font=font(size + 2, bold=True))
    for (name, pixels), (left, top, right, bottom) in zip(tiles.items(), boxes, strict=True):
        draw.text((left, top - _line(size)), name, fill=INK, font=font(size))
        draw.rectangle((left - 1, top - 1, right, bottom), outline=(160, 160, 160))
        canvas.paste(Image.fromarray(pixels), (left, top))
    draw_legend(draw, legend, left=_GAP, top=boxes[0][3] + _GAP, size=size)
    return np.asarray(canvas)


def tile_boxes(height: int, width: int, *, truth: bool, max_side: int = 512) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each tile in a panel of an image of `height` x `width`; right and bottom are exclusive."""
    longest = max(height, width)
    scale = min(max_side, max(longest, min(_SMALLEST_TILE, max_side))) / longest
    tile = (max(1, round(width * scale)), max(1, round(height * scale)))
    size = _letter_size(tile)
    top = _GAP + _line(size + 2) + _line(size)
    slot = max(tile[0], _SMALLEST_SLOT) + _GAP
    return [(left, top, left + tile[0], top + tile[1]) for left in range(_GAP, _GAP + slot * (4 if truth else 3), slot)]


def sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray | None]]], *, columns: Sequence[str], label_map: LabelMap | None = None, max_side: int = 4000
) -> np.ndarray:
    """A labelled grid, e.g. epochs as rows and cases as columns.

    Args:
      rows: (label, images) each; one uint8 [h, w, 3] per column, None for an empty cell.
      columns: a label per column, e.g. the case ids; shortened to the width of the cell.
      label_map: adds a legend of its classes and of the error colours.
      max_side: longest side of the sheet in pixels; cells are shrunk, never enlarged.

    Returns:
      uint8 [h, w, 3].

    Raises:
      ValueError: no image, or a row whose length differs from `columns`.
    """
    if any(len(pictures) != len(columns) for _, pictures in rows):
        raise ValueError(f"every row needs {len(columns)} pictures, got {[len(pictures) for _, pictures in rows]}")
    shapes = [[(p.shape[0], p.shape[1]) for p in column if p is not None] for column in zip(*(pictures for _, pictures in rows), strict=True)]
    heights = [height for column in shapes for height, _ in column]
    if not heights:
        raise ValueError("a sheet needs one picture at least")
    # All cells have the median height, so that one tall image does not leave the sheet mostly blank.
    cell_height = int(np.median(heights))
    widths = [max((width * min(1.0, cell_height / height) for height, width in column), default=1.0) for column in shapes]
    size = int(np.clip(min(max_side, max(sum(widths), len(rows) * cell_height)) // 130, 12, 26))
    labels = min(max_side // 4, math.ceil(max(font(size, bold=True).getlength(label) for label, _ in rows)) + 2 * _GAP)
    top = _line(size) + _GAP
    entries = [] if label_map is None else _entries(label_map, [], errors=True)
    foot = 3 * _line(size)
    scale = min(
        1.0,
        (max_side - labels - len(widths) * _GAP) / sum(widths),
        (max_side - top - foot - len(rows) * _GAP) / (len(rows) * cell_height),
    )
    cell_height = max(1, int(cell_height * scale))
    widths = [max(1, int(width * scale)) for width in widths]
    lefts = labels + np.cumsum([0, *(width + _GAP for width in widths)])
    legend = legend_rows(entries, int(lefts[-1]) - 2 * _GAP, size)
    bottom = top + len(rows) * (cell_height + _GAP)
    canvas = Image.new("RGB", (int(lefts[-1]), bottom + len(legend) * _line(size) + _GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for left, width, name in zip(lefts, widths, columns, strict=False):
        draw.text((left, _GAP), shorten(name, width, font(size)), fill=INK, font=font(size))
    for r, (label, pictures) in enumerate(rows):
        y = top + r * (cell_height + _GAP)
        text = shorten(label, labels - 2 * _GAP, font(size, bold=True))
        draw.text((_GAP, y + cell_height // 2), text, fill=INK, font=font(size, bold=True), anchor="lm")
        for left, width, picture in zip(lefts, widths, pictures, strict=False):
            if picture is not None:
                shrunk = min(scale, cell_height / picture.shape[0], width / picture.shape[1])
                fitted = (max(1, round(picture.shape[1] * shrunk)), max(1, round(picture.shape[0] * shrunk)))
                canvas.paste(Image.fromarray(picture).resize(fitted, Image.Resampling.BOX), (int(left), y))
    draw_legend(draw, legend, left=_GAP, top=bottom, size=size)
    canvas.thumbnail((max_side, max_side))  # only if the legend is higher than reserved, or there are very many columns
    return np.asarray(canvas)


def save_png(path: str | os.PathLike, array: np.ndarray) -> Path:
    """Writes uint8 [H, W] or [H, W, 3] as PNG, atomically."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return replace_file(path, content.getvalue())


def _sample_image(image: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    rgb = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(tile, Image.Resampling.BILINEAR))


def _sample_mask(mask: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(tile, Image.Resampling.NEAREST))


def _colored(mask: np.ndarray, label_map: LabelMap) -> np.ndarray:
    ignored = mask == IGNORE
    return _hatch(label_map.decode(np.where(ignored, 0, mask).astype(np.uint8)), ignored)


def _overlay(image: np.ndarray, prediction: np.ndarray, label_map: LabelMap) -> np.ndarray:
    """The colours of the prediction over the image, each region outlined; the background is unchanged."""
    colors = label_map.decode(prediction)
    shown = prediction != label_map.background if label_map.background is not None else np.ones(prediction.shape, bool)
    mixed = np.where(shown[..., None], (image.astype(np.uint16) + colors) // 2, image).astype(np.uint8)
    mixed[shown & _edge(prediction)] = CORRECT_OUTLINE
    return mixed


def _errors(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, label_map: LabelMap) -> np.ndarray:
    """The error colours over the darkened grayscale image; correct foreground is outlined."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    out = np.repeat((25 + 0.6 * grey)[..., None], 3, axis=-1)
    ignored = truth == IGNORE
    wrong = (truth != prediction) & ~ignored
    background = label_map.background
    nothing = np.zeros(truth.shape, bool)
    positive = truth == background if background is not None else nothing
    negative = prediction == background if background is not None else nothing
    colors = error_colors(label_map)
    kinds = {"false positive": wrong & positive, "false negative": wrong & negative, "wrong class": wrong & ~positive & ~negative}
    for name, where in kinds.items():
        out[where] = 0.25 * out[where] + 0.75 * np.array(colors[name], np.float32)
    out = out.round().astype(np.uint8)
    right = (truth == prediction) & ~negative
    out[right & _edge(np.where(right, prediction, IGNORE))] = CORRECT_OUTLINE
    return _hatch(out, ignored)


def error_colors(label_map: LabelMap) -> dict[str, tuple[int, int, int]]:
    """ERROR_COLORS, with another colour for "wrong class" where a class of the LabelMap has a similar one."""

    def distance(color: tuple[int, int, int]) -> float:
        return min(math.dist(color, other) for other in label_map.colors)

    candidates = (ERROR_COLORS["wrong class"], *_OTHER_WRONG)
    wrong = next((color for color in candidates if distance(color) >= _ALIKE), max(candidates, key=distance))
    return ERROR_COLORS | {"wrong class": wrong}


def _edge(mask: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels with a 4-neighbour of another value; the border of the image is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_or.reduce([neighbour != mask for neighbour in around])


def _hatch(picture: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(ignored.shape)
    stripes = np.array(_IGNORED, np.uint8)[((rows + columns) // 4) % 2]
    return np.where(ignored[..., None], stripes, picture)


def _entries(label_map: LabelMap, masks: list[np.ndarray], *, errors: bool) -> list[Entry]:
    """Legend entries: all classes, or if there are many those in the masks; then the error colours."""
    classes = list(range(label_map.num_classes))
    if len(classes) > 20:
        present = set().union(*(np.unique(mask).tolist() for mask in masks))
        classes = [k for k in classes if k in present]
    entries = [(tuple(label_map.colors[k]), label_map.class_names[k]) for k in classes]
    if errors:
        possible = set(ERROR_COLORS)
        if label_map.background is None:
            possible = {"wrong class"}
        elif label_map.num_classes == 2:
            possible -= {"wrong class"}
        entries += [(color, name) for name, color in error_colors(label_map).items() if name in possible]
        entries.append((_framed(CORRECT_OUTLINE, (60, 60, 60)), "white outline: correct"))
        if label_map.ignore:
            entries.append((tuple(tuple(_IGNORED[(row + column) // 2 % 2] for column in range(6)) for row in range(6)), "ignored"))
    return entries


def _framed(frame: Color, inner: Color) -> Pattern:
    """A framed square of `inner`, for a legend."""
    return tuple(tuple(inner if 0 < row < 4 and 0 < column < 4 else frame for column in range(5)) for row in range(5))


def _letter_size(tile: tuple[int, int]) -> int:
    return int(np.clip(tile[0] // 20, 11, 18))


def _line(size: int) -> int:
    return size + 8
