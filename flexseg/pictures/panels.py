"""Pictures of masks: one case as a panel, many epochs as a sheet.

    picture = panel(image, truth, prediction, label_map, caption="slide_3 / tile_07   Dice 0.913")
    save_png("epoch_change_infer/epoch_0001/tile_07.png", picture)

    left, top, right, bottom = tile_boxes(height, width, truth=True)[-1]     # the error tile, read back from a saved panel
    sheet([("epoch 1", [picture[top:bottom, left:right], ...]), ...], columns=["tile_07", ...], label_map=label_map)

A panel shows input | truth | prediction | errors, or input | prediction | overlay where there is no truth. Masks are sampled to the size
shown: structures thinner than a shown pixel may be missed, so scores are computed elsewhere, at the case's own size.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from flexseg.files.atomic import replace_file
from flexseg.files.label_map import IGNORE
from flexseg.pictures.lettering import INK, PAPER, Color, Entry, Pattern, draw_legend, font, legend_rows, shorten

# Okabe and Ito's colours (2008), told apart with every common colour vision, on a darkened grey image.
ERROR_COLORS = {"false positive": (213, 94, 0), "false negative": (86, 180, 233), "wrong class": (240, 228, 66)}
_OTHER_WRONG = ((204, 121, 167), (0, 158, 115))  # for "wrong class" where a class is about as yellow
_ALIKE = 80  # distance of two RGB colours below which a legend cannot tell them apart
CORRECT_OUTLINE = (255, 255, 255)
_IGNORED = ((105, 105, 105), (150, 150, 150))  # the two greys of the hatching
_GAP = 6
_SMALLEST_SLOT = 110  # a narrow tile stands in a slot of this width, for its name above it
_SMALLEST_TILE = 192  # a smaller image is shown enlarged, so that the lettering has room


def panel(
    image: np.ndarray, truth: np.ndarray | None, prediction: np.ndarray, label_map, *, caption: str, title: str = "prediction", max_side: int = 512
) -> np.ndarray:
    """One case: tiles side by side under a caption, with the legend below.

    Args:
      image: uint8 [H, W, C]; of more than three channels the first three are shown, of two the first.
      truth: uint8 [H, W] class ids, 255 = ignore; or None.
      prediction: uint8 [H, W] class ids.
      label_map: the dataset's LabelMap: `decode`, `class_names`, `colors`, `background`, `num_classes`.
      caption: one line, e.g. the case id and its Dice; shortened in the middle where it does not fit.
      title: over the prediction, where it is something else.
      max_side: longest side of a tile in pixels.

    Returns:
      uint8 [h, w, 3]. Panels of cases of one size have one size too.

    Raises:
      ValueError: the masks' size is not the image's.
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
    """Where a panel of an image of `height` x `width` has its tiles: (left, top, right, bottom) each, right and bottom excluded."""
    longest = max(height, width)
    scale = min(max_side, max(longest, min(_SMALLEST_TILE, max_side))) / longest
    tile = (max(1, round(width * scale)), max(1, round(height * scale)))
    size = _letter_size(tile)
    top = _GAP + _line(size + 2) + _line(size)
    slot = max(tile[0], _SMALLEST_SLOT) + _GAP
    return [(left, top, left + tile[0], top + tile[1]) for left in range(_GAP, _GAP + slot * (4 if truth else 3), slot)]


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray | None]]], *, columns: Sequence[str], label_map=None, max_side: int = 4000) -> np.ndarray:
    """A labelled grid, e.g. epochs as rows and cases as columns.

    Args:
      rows: (label, pictures) each, pictures uint8 [h, w, 3], one a column; None leaves the cell empty.
      columns: a label a column, e.g. the case ids; shortened to the cell's width.
      label_map: where given, the legend of its classes and of the error colours stands below.
      max_side: neither side of the sheet is longer, in pixels; cells are made smaller, never larger.

    Returns:
      uint8 [h, w, 3].

    Raises:
      ValueError: no picture at all, or a row without one entry a column.
    """
    if any(len(pictures) != len(columns) for _, pictures in rows):
        raise ValueError(f"every row needs {len(columns)} pictures, got {[len(pictures) for _, pictures in rows]}")
    shapes = [[(p.shape[0], p.shape[1]) for p in column if p is not None] for column in zip(*(pictures for _, pictures in rows), strict=True)]
    heights = [height for column in shapes for height, _ in column]
    if not heights:
        raise ValueError("a sheet needs one picture at least")
    # All cells have the median height, so that one tall picture does not leave a sheet of white.
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
    canvas.thumbnail((max_side, max_side))  # only where the legend needs more rows than was kept free, or there are very many columns
    return np.asarray(canvas)


def save_png(path: str | os.PathLike, array: np.ndarray) -> Path:
    """Writes uint8 [H, W] or [H, W, 3] as PNG, whole or not at all."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return replace_file(path, content.getvalue())


def _sample_image(image: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    rgb = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(tile, Image.Resampling.BILINEAR))


def _sample_mask(mask: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(tile, Image.Resampling.NEAREST))


def _colored(mask: np.ndarray, label_map) -> np.ndarray:
    ignored = mask == IGNORE
    return _hatch(label_map.decode(np.where(ignored, 0, mask).astype(np.uint8)), ignored)


def _overlay(image: np.ndarray, prediction: np.ndarray, label_map) -> np.ndarray:
    """The prediction's colours over the image, each region outlined; the background stays as it is."""
    colors = label_map.decode(prediction)
    shown = prediction != label_map.background if label_map.background is not None else np.ones(prediction.shape, bool)
    mixed = np.where(shown[..., None], (image.astype(np.uint16) + colors) // 2, image).astype(np.uint8)
    mixed[shown & _edge(prediction)] = CORRECT_OUTLINE
    return mixed


def _errors(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, label_map) -> np.ndarray:
    """The error colours over the image in dark grey; what is right and not background is outlined."""
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


def error_colors(label_map) -> dict[str, tuple[int, int, int]]:
    """ERROR_COLORS, with another one for "wrong class" where a class of the LabelMap already looks like it."""

    def distance(color: tuple[int, int, int]) -> float:
        return min(math.dist(color, other) for other in label_map.colors)

    candidates = (ERROR_COLORS["wrong class"], *_OTHER_WRONG)
    wrong = next((color for color in candidates if distance(color) >= _ALIKE), max(candidates, key=distance))
    return ERROR_COLORS | {"wrong class": wrong}


def _edge(mask: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels with a 4-neighbour of another value; the picture's own border is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_or.reduce([neighbour != mask for neighbour in around])


def _hatch(picture: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(ignored.shape)
    stripes = np.array(_IGNORED, np.uint8)[((rows + columns) // 4) % 2]
    return np.where(ignored[..., None], stripes, picture)


def _entries(label_map, masks: list[np.ndarray], *, errors: bool) -> list[Entry]:
    """Legend entries: all classes, or where there are many those that the masks hold; then what the errors are drawn in."""
    classes = range(label_map.num_classes)
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
    """A square of `inner` in a frame, for a legend."""
    return tuple(tuple(inner if 0 < row < 4 and 0 < column < 4 else frame for column in range(5)) for row in range(5))


def _letter_size(tile: tuple[int, int]) -> int:
    return int(np.clip(tile[0] // 20, 11, 18))


def _line(size: int) -> int:
    return size + 8
