"""LabelMap: maps the colours or grey values of a mask to class ids.

    label_map = LabelMap(rgb_map={(0, 0, 0): 0, (255, 255, 255): 1})        # gin: label_map.rgb_map = {(0,0,0):0,(255,255,255):1,}
    ids = label_map.encode(mask, "masks/a.png")                             # uint8 [H, W], 255 = ignore
    colours = label_map.decode(ids)                                         # uint8 [H, W, 3]
    label_map = infer_label_map(count_colors(mask))                         # without a binding, for simple masks

A grey value v is the colour (v, v, v): `rgb_map` accepts grayscale masks, `values` accepts RGB masks with grey pixels only. A colour that is not in
the map is an error that names the binding to add, unless `off_map` selects a class for it. Class names have no effect.
"""

from collections.abc import Mapping
from typing import Literal

import gin
import numpy as np

from flexseg.errors import UserError, gin_param, printable

IGNORE = 255
Color = tuple[int, int, int]
_BLACK, _WHITE, _GREY = (0, 0, 0), (255, 255, 255), (128, 128, 128)
_MOST_MERGED = 20  # colours up to which an error suggests new classes
_MOST_LISTED = 32  # colours up to which an error prints a complete rgb_map
_RARE = 0.001  # share of a mask below which a colour is probably due to interpolation or JPEG


@gin.configurable("label_map")
class LabelMap:
    """The mapping mask colour -> class id.

    Args:
      rgb_map: {(r, g, b): class id}; several colours may share an id, `decode` writes the first of them. Exclusive with `values`.
      values: {grey value: class id}.
      class_names: one for each class; default background, foreground (two classes, background 0), else class_0, class_1, ...
      background: class id of the background, None for no background; "auto": 0 when its colour is black, else None.
      ignore: colours (r, g, b) and grey values that become 255, which losses and metrics ignore.
      off_map: treatment of other colours. "refuse": an error. "nearest": the class of the nearest colour of map and `ignore` by squared distance, the
        first of equals. "threshold" (two classes): the class of the brighter colour for luminance >= `threshold`, else the other class.
      threshold: luminance (ITU-R BT.601, 0..255).

    Attributes: num_classes, class_names, background, foreground_classes (ids), colors (one (r, g, b) for each id).

    Raises:
      UserError: a binding is invalid; the error names it.
    """

    def __init__(
        self,
        *,
        rgb_map: dict | None = None,
        values: dict | None = None,
        class_names: tuple[str, ...] | None = None,
        background: int | None | Literal["auto"] = "auto",
        ignore: tuple = (),
        off_map: Literal["refuse", "threshold", "nearest"] = "refuse",
        threshold: int = 128,
    ):
        if (rgb_map is None) == (values is None):
            raise UserError(
                "label_map",
                expected="one of rgb_map and values",
                found="none" if values is None else "both",
                cure='for black and white masks add --gin_param="label_map.rgb_map={(0,0,0):0,(255,255,255):1}"',
            )
        self._by_value = rgb_map is None
        ids = values if self._by_value else rgb_map
        where = "label_map.values" if self._by_value else "label_map.rgb_map"
        if not isinstance(ids, Mapping):
            raise UserError(where, expected="a dictionary such as {(0,0,0):0,(255,255,255):1}", found=repr(ids))
        for key in ids:
            if isinstance(key, tuple) == self._by_value:
                raise UserError(where, expected="grey values such as 255" if self._by_value else "colours such as (255,0,0)", found=repr(key))
        ids = {_color(key, where): value for key, value in ids.items()}
        classes = sorted(set(ids.values())) if all(_is_int(i) for i in ids.values()) else []
        if classes != list(range(len(classes))) or not 2 <= len(classes) <= 255:
            raise UserError(
                where, expected="class ids 0, 1, ... without a gap, for 2 to 255 classes", found=f"the ids {', '.join(map(repr, ids.values()))}"
            )
        # Ordered by id, so that equal maps have equal JSON; the first colour of an id stays first.
        self._ids = {color: int(ids[color]) for color in sorted(ids, key=ids.__getitem__)}
        self.num_classes = len(classes)
        self.colors = [next(color for color, i in self._ids.items() if i == k) for k in classes]
        self.background = (0 if self.colors[0] == _BLACK else None) if background == "auto" else background
        if self.background is not None and self.background not in classes or isinstance(self.background, bool):
            raise UserError("label_map.background", expected=f"a class id up to {len(classes) - 1}, None or 'auto'", found=repr(background))
        self.foreground_classes = tuple(k for k in classes if k != self.background)
        self._default_names = class_names is None
        if class_names is None:
            two = len(classes) == 2 and self.background == 0
            class_names = ("background", "foreground") if two else tuple(f"class_{k}" for k in classes)
        named = isinstance(class_names, tuple | list) and all(isinstance(name, str) and name for name in class_names)
        if not named or len(set(class_names)) != len(class_names) or len(class_names) != len(classes):
            raise UserError("label_map.class_names", expected=f"{len(classes)} different names", found=repr(class_names))
        if wrong := next((name for name in class_names if printable(name) != name), None):
            raise UserError("label_map.class_names", expected="names without control characters", found=repr(wrong))
        self.class_names = tuple(class_names)
        if not isinstance(ignore, tuple | list):
            raise UserError("label_map.ignore", expected="a tuple of colours or values, e.g. ((155,155,155),)", found=repr(ignore))
        self.ignore = tuple(_color(key, "label_map.ignore") for key in ignore)
        if clash := set(self.ignore) & set(self._ids):
            raise UserError("label_map.ignore", expected="colours that are no class", found=f"{min(clash)}, class {self._ids[min(clash)]}")
        if off_map not in ("refuse", "threshold", "nearest"):
            raise UserError("label_map.off_map", expected="'refuse', 'threshold' or 'nearest'", found=repr(off_map))
        brightness = [int(_luminance(np.array(color))) for color in self.colors]
        if off_map == "threshold" and (len(classes) != 2 or brightness[0] == brightness[1]):
            raise UserError(
                "label_map.off_map",
                expected="two classes of different brightness for 'threshold'",
                found=f"{len(classes)} classes of brightness {brightness}",
                cure="use --gin_param=\"label_map.off_map='nearest'\"",
            )
        if not _is_int(threshold) or not 1 <= threshold <= 255:
            raise UserError("label_map.threshold", expected="a whole number from 1 to 255", found=repr(threshold))
        self.off_map, self.threshold, self._brighter = off_map, int(threshold), int(np.argmax(brightness))
        # Packed colour -> class id + 1; 0: not in the map. 32 MB of address space; only pages of used colours take memory.
        self._table = np.zeros(1 << 24, np.uint16)
        for color, i in [*self._ids.items(), *((color, IGNORE) for color in self.ignore)]:
            self._table[_pack(np.array(color))] = i + 1

    def encode(self, mask: np.ndarray, where: object) -> np.ndarray:
        """Class ids, uint8 [H, W], of a mask of values, uint8 [H, W], or colours, uint8 [H, W, 3]; 255 where ignored.

        Raises:
          UserError: a colour is not in the map and `off_map` is "refuse"; the error names `where`, colours, pixel counts and bindings to add.
        """
        if mask.dtype != np.uint8 or mask.ndim not in (2, 3) or mask.ndim == 3 and mask.shape[2] != 3:
            raise ValueError(f"a mask is uint8 [H, W] or [H, W, 3], got {mask.dtype} {mask.shape}")
        codes = self._table[_pack(mask)] if mask.ndim == 3 else self._table[np.arange(256) * 0x010101][mask]
        off = codes == 0
        if off.any():
            if self.off_map == "refuse":
                raise self._refusal(mask, off, where)
            codes[off] = self._snapped(mask[off]) + 1
        return (codes - 1).astype(np.uint8)

    def _snapped(self, pixels: np.ndarray) -> np.ndarray:
        """Class ids of off-map pixels, uint8 [n] or [n, 3]."""
        colors = pixels if pixels.ndim == 2 else pixels[:, None].repeat(3, axis=1)
        if self.off_map == "threshold":
            return np.where(_luminance(colors) >= self.threshold, self._brighter, 1 - self._brighter).astype(np.uint16)
        unique, inverse = np.unique(_pack(colors), return_inverse=True)
        unique = _unpack(unique)
        nearest, ids = np.full(len(unique), 1 << 30, np.int32), np.zeros(len(unique), np.uint16)
        for color, i in [*self._ids.items(), *((color, IGNORE) for color in self.ignore)]:
            distance = ((unique - np.array(color, np.int32)) ** 2).sum(axis=1)
            closer = distance < nearest
            nearest[closer], ids[closer] = distance[closer], i
        return ids[inverse]

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Colours, uint8 [H, W, 3], of class ids, [H, W]; 255 becomes the first `ignore` colour, or mid-grey."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes], palette[IGNORE] = self.colors, self.ignore[0] if self.ignore else _GREY
        ids = np.asarray(ids)
        if ((ids >= self.num_classes) & (ids != IGNORE)).any():
            raise ValueError(f"class ids 0..{self.num_classes - 1} and 255 expected, got up to {ids[ids != IGNORE].max()}")
        return palette[ids]

    def to_json(self) -> dict:
        """All settings of the map, for `json.dump`; `from_json` returns an equal map."""
        pairs = [[color[0] if self._by_value else list(color), i] for color, i in self._ids.items()]
        return {
            "values" if self._by_value else "rgb_map": pairs,
            "class_names": list(self.class_names),
            "background": self.background,
            "ignore": [list(color) for color in self.ignore],
            "off_map": self.off_map,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, saved: Mapping) -> "LabelMap":
        """The map that `to_json` wrote; a UserError for anything else."""

        # All arguments are given, so that no gin binding applies.
        def pairs(name: str) -> dict | None:
            return {tuple(key) if isinstance(key, list) else key: i for key, i in saved[name]} if name in saved else None

        try:
            return cls(
                rgb_map=pairs("rgb_map"),
                values=pairs("values"),
                class_names=tuple(saved["class_names"]),
                background=saved["background"],
                ignore=tuple(tuple(color) for color in saved["ignore"]),
                off_map=saved["off_map"],
                threshold=saved["threshold"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError("label_map.json", expected="what LabelMap.to_json wrote", found=repr(error)) from error

    def _key(self) -> tuple:
        return list(self._ids.items()), self.class_names, self.background, set(self.ignore), self.off_map, self.threshold

    def __eq__(self, other: object) -> bool:
        """Whether both encode, decode and name classes alike; `values` equals an `rgb_map` of the same grey values."""
        return isinstance(other, LabelMap) and self._key() == other._key()

    def __repr__(self) -> str:
        return f"LabelMap({', '.join(f'{key}={value!r}' for key, value in self.to_json().items())})"

    def _refusal(self, mask: np.ndarray, off: np.ndarray, where: object) -> UserError:
        counts = count_colors(mask[off][None])
        ranked = sorted(counts, key=counts.__getitem__, reverse=True)
        found = ", ".join(f"{_text(key)} ({counts[key]} pixels)" for key in ranked[:5])
        if len(ranked) > 5:
            found += f" and {len(ranked) - 5} others ({sum(counts[key] for key in ranked[5:])} pixels)"
        known = [color[0] if mask.ndim == 2 and _is_grey(color) else color for color in [*self._ids, *self.ignore]]
        expected = f"the {'values' if mask.ndim == 2 else 'colours'} {', '.join(map(_text, known[:20]))}{', ...' if len(known) > 20 else ''}"
        return UserError(where, expected=f"{expected} of the label map", found=found, cure=self._cure(counts, ranked, mask.shape[0] * mask.shape[1]))

    def _cure(self, counts: Mapping, ranked: list, pixels: int) -> str:
        """The more likely cure first: many colours, and rare blends of two classes, suggest resampling or JPEG, others a missing class."""
        snap = "add " + binding("off_map", "nearest")
        if len(self._ids) + len(ranked) > _MOST_MERGED:
            return f"{snap} (each such pixel becomes the class of the nearest colour)"
        colors = [_color(key, "mask") for key in ranked]
        merged = {**self._ids, **{color: self.num_classes + k for k, color in enumerate(colors)}}
        merge = _map_binding(merged, by_value=self._by_value and all(map(_is_grey, merged))) + (
            ""
            if self._default_names
            else " " + binding("class_names", self.class_names + tuple(f"class_{self.num_classes + k}" for k in range(len(colors))))
        )
        merge = f"replace the label map by {merge}"
        rare = min(counts.values()) <= _RARE * pixels
        blend = all(self._is_blend(color) for color in colors)
        ignored = f"or, if they should count nowhere, add {binding('ignore', (*self.ignore, *colors))}"
        if not rare and not blend:
            return f"{merge} (if they are classes); {ignored}"
        if rare and blend:
            return f"{snap} (if they come from resampling or JPEG); or, if they are classes, {merge}; {ignored}"
        return f"{merge} (if they are classes); or, if they come from resampling or JPEG, {snap}; {ignored}"

    def _is_blend(self, color: Color) -> bool:
        """Whether a colour is within 24 of the line between two colours of the map, as interpolation and compression produce at edges."""
        point, ends = np.array(color, float), np.array(list(self._ids), float)
        a, b = ends[:, None], ends[None]
        along = np.clip(((point - a) * (b - a)).sum(-1) / np.maximum(((b - a) ** 2).sum(-1), 1), 0, 1)[..., None]
        return bool((((a + along * (b - a) - point) ** 2).sum(-1) <= 24**2).any())


def count_colors(mask: np.ndarray) -> dict[int | Color, int]:
    """Pixels of each value of a mask, uint8 [H, W], or of each colour, uint8 [H, W, 3]: {76: 12} or {(255, 0, 0): 12}."""
    if mask.ndim == 2:
        return {int(v): int(n) for v, n in enumerate(np.bincount(mask.ravel(), minlength=256)) if n}
    packed, counts = np.unique(_pack(mask), return_counts=True)
    return {tuple(color): n for color, n in zip(_unpack(packed).tolist(), counts.tolist(), strict=True)}


def infer_label_map(counts: Mapping[int | Color, int]) -> LabelMap:
    """Infers a label map from the pixel counts of all masks (the sum of `count_colors`).

    Black and white (0 and 255, or 0 and 1): background and foreground. Grey values 0..K-1 without a gap (K up to 32): class ids.
    The other bindings of `label_map` (class_names, background, ...) apply.

    Raises:
      UserError: other masks; the cure is the complete binding, black first, then by frequency.
    """
    totals: dict[Color, int] = {}
    for key, n in counts.items():
        totals[_color(key, "masks")] = totals.get(_color(key, "masks"), 0) + int(n)
    grey = all(map(_is_grey, totals))
    values = sorted(color[0] for color in totals) if grey else []
    if values in ([0, 255], [0, 1]):
        return LabelMap(values={values[0]: 0, values[1]: 1})
    if 2 <= len(values) <= _MOST_LISTED and values == list(range(len(values))):
        return LabelMap(values={v: v for v in values})
    ranked = sorted(totals, key=lambda color: (color != _BLACK, -totals[color], color))
    found = ", ".join(f"{_text(color[0] if grey else color)} ({totals[color]} pixels)" for color in ranked[:5])
    found = f"{len(ranked)} {'values' if grey else 'colours'}: {found}{' and more' if len(ranked) > 5 else ''}"
    raise UserError(
        "masks",
        expected="a label map, or masks that need none (0 and 255, 0 and 1, or 0..K-1)",
        found=found,
        cure=_inference_cure(totals, ranked, values),
    )


def _inference_cure(totals: Mapping[Color, int], ranked: list[Color], values: list[int]) -> str:
    if len(ranked) == 1:
        return "give masks that show at least two classes, or bind label_map.rgb_map with all colours"
    if len(values) >= 3 and values[-1] == IGNORE and values[:-1] == list(range(len(values) - 1)):  # 255 commonly means "ignore"
        return f"add {_map_binding({(v, v, v): v for v in values[:-1]}, by_value=True)} {binding('ignore', (IGNORE,))}"
    if len(ranked) <= _MOST_LISTED:
        return f"add {_map_binding({color: k for k, color in enumerate(ranked)}, by_value=False)}"
    pixels = sum(totals.values())
    main = [color for color in ranked if totals[color] >= 0.01 * pixels]
    if len(main) < 2 or all(max(color) < 32 or min(color) > 223 for color in main):
        main = [_BLACK, _WHITE]
    return (
        f"if the classes are {', '.join(map(_text, main))} and the rest comes from resampling or JPEG, add "
        f"{_map_binding({color: k for k, color in enumerate(main[:_MOST_LISTED])}, by_value=False)} {binding('off_map', 'nearest')}; "
        "otherwise bind the colour of every class in label_map.rgb_map"
    )


def binding(name: str, value: object) -> str:
    """`--gin_param="label_map.name=value"`, quoted for a shell."""
    return gin_param(f"label_map.{name}={value!r}")


def _map_binding(ids: Mapping[Color, int], *, by_value: bool) -> str:
    pairs = ",".join(f"{color[0] if by_value else _text(color)}:{i}" for color, i in ids.items())
    return gin_param(f"label_map.{'values' if by_value else 'rgb_map'}={{{pairs}}}")


def _color(key: object, where: str) -> Color:
    color = tuple(key) if isinstance(key, tuple | list) else (key,) * 3
    if len(color) != 3 or not all(_is_int(v) and 0 <= v <= 255 for v in color):
        raise UserError(where, expected="colours (r,g,b) or grey values of whole numbers from 0 to 255", found=repr(key))
    red, green, blue = map(int, color)
    return red, green, blue


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_grey(color: Color) -> bool:
    return color[0] == color[1] == color[2]


def _text(key: int | Color) -> str:
    return str(key).replace(" ", "")


def _luminance(colors: np.ndarray) -> np.ndarray:
    return (colors.astype(np.int32) @ np.array([299, 587, 114], np.int32) + 500) // 1000


def _pack(colors: np.ndarray) -> np.ndarray:
    colors = colors.astype(np.uint32)
    return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]


def _unpack(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.int32)
