"""Generates synthetic H&E-like tissue with nuclei: image, mask and instances as a pure function of a few integers.

    sample = synthesize(seed=0, slide=3, index=7, image_size=(128, 128))
    sample.image, sample.mask, sample.instances           # uint8 [H, W, 3], uint8 [H, W] in {0, 1}, uint16 [H, W]

`slide` determines stain, illumination and size of the nuclei, and is the group; `index` determines the scene. All arithmetic is integer: the same
arguments give the same pixels on every machine. Not promised: realism, models that transfer to real tissue, or that a smaller image is a crop of a
larger one.
"""

import dataclasses
import operator
from typing import NamedTuple

import numpy as np

from flexseg.datasets.synthetic_nuclei.stain import TURN, UNIT, Draws, Slide, random_words, sine, value_noise
from flexseg.errors import UserError

CLASS_NAMES = ("background", "nucleus")
SMALLEST, LARGEST = 32, 4096  # pixels per side; above, instance numbers could exceed uint16

_PIXEL = 16  # lengths are in 16ths of a pixel


class Sample(NamedTuple):
    """One synthetic image.

    Attributes:
      image: uint8 [H, W, 3], RGB.
      mask: uint8 [H, W], indices into CLASS_NAMES.
      instances: uint16 [H, W], 0 outside nuclei, else the number of the nucleus, 1, 2, 3 … without gaps. Where two nuclei
        overlap, the lower number wins.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray


def synthesize(*, seed: int, slide: int, index: int, image_size: tuple[int, int]) -> Sample:
    """Generates image number `index` of slide number `slide`.

    Args:
      seed, slide, index: integers from 0 to 2**63 - 1.
      image_size: (height, width) in pixels, each from 32 to 4096. The size of nuclei in pixels does not depend on it.

    Raises:
      UserError: a number is outside these ranges.
    """
    for name, number in (("seed", seed), ("slide", slide), ("index", index)):
        if not 0 <= number < 1 << 63:
            raise UserError(f"synthetic_nuclei: {name}", expected="an integer from 0 to 2**63 - 1", found=str(number))
    if len(image_size) != 2 or not all(SMALLEST <= side <= LARGEST for side in image_size):
        raise UserError("synthetic_nuclei: image_size", expected=f"(height, width), each from {SMALLEST} to {LARGEST}", found=str(image_size))
    draws = Draws(seed, slide, index)
    height, width = map(operator.index, image_size)
    scene = _Scene(Slide.draw(seed=seed, slide=slide), draws, (height, width))
    scene.lay_tissue()
    scene.add_blood()
    scene.add_smears()
    scene.add_streaks()
    scene.add_nuclei()
    scene.add_specks()
    return Sample(scene.photograph(), (scene.instances > 0).astype(np.uint8), scene.instances)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ellipse:
    """A rotated, bent, warped ellipse, or two of them. Positions and lengths in 16ths of a pixel."""

    y: int  # the centre
    x: int
    long: int  # half axes
    short: int
    angle: int  # of the long axis, in 4096ths of a full turn
    bend: int = 0  # curvature: displacement of the ends, in 16ths of the half length
    warp: int = 0  # amplitude of the outline's distortion, in 16ths of a pixel
    split: int = 0  # distance of two lobes from the centre, in 16ths of the half length


class _Scene:
    """The amounts of dye of one image while it is generated."""

    def __init__(self, slide: Slide, draws: Draws, shape: tuple[int, int]):
        self.slide, self.draws, self.shape = slide, draws, shape
        self.area = shape[0] * shape[1]
        self.haematoxylin, self.eosin, self.blood = (np.zeros(shape, np.int32) for _ in range(3))  # 1024 = one unit of dye
        self.instances = np.zeros(shape, np.uint16)
        self.wander = [self._noise(14, 2) - 2048 for _ in range(2)]  # displacement of outlines, down and right
        self.grain = self._noise(4, 2)  # fine texture of chromatin and tissue
        self.nest = self._noise(44, 2)  # density of cells
        holes = (self._noise(58, 4) + self._noise(41, 4)) // 2
        self.tissue = UNIT - np.clip((holes - draws.integer(2500, 3050)) * 8, 0, UNIT)  # 1024 inside, 0 in an unstained gap

    def _noise(self, spacing: int, octaves: int = 1) -> np.ndarray:
        return value_noise(self.draws.word(), self.shape, spacing, octaves)

    def _somewhere(self, margin: int = 0) -> dict[str, int]:
        height, width = self.shape
        return {
            "y": self.draws.integer(-margin, height * _PIXEL + margin),
            "x": self.draws.integer(-margin, width * _PIXEL + margin),
            "angle": self.draws.integer(0, TURN - 1),
        }

    def _count(self, low: int, high: int) -> int:
        """A random number of objects, scaled from an area of 128 x 128 pixels to this image, with stochastic rounding."""
        return (self.draws.integer(low * 64, high * 64) * self.area // 64 + self.draws.integer(0, 128 * 128 - 1)) // (128 * 128)

    def lay_tissue(self) -> None:
        """Adds eosin-stained tissue with fibres and grain, cell nests with bluish cytoplasm, pools of mucin."""
        draws, (height, width) = self.draws, self.shape
        # Fibres: irregular stripes in one direction, bent by noise, between the nests and only in parts of the image.
        angle, wave = draws.integer(0, TURN - 1), draws.integer(200, 500)
        along = np.arange(width, dtype=np.int32)[None, :] * sine(angle + TURN // 4) + np.arange(height, dtype=np.int32)[:, None] * sine(angle)
        phase = (along >> 12) * wave + self._noise(56, 3) * 6 + self.grain // 4
        stripes = value_noise(draws.word(), (1, 8 * TURN), 512, 3)[0] - 2048
        fibre = stripes[phase & (8 * TURN - 1)] * np.clip(3072 - self.nest, 0, 2048) >> 11
        fibre = fibre * np.clip(self._noise(30, 2) - 700, 0, 2048) >> 11
        # Cytoplasm of the nests and pools of mucin are bluish and bind less eosin.
        plasm = np.clip(self.nest - 2000, 0, UNIT) * draws.integer(190, 360) // UNIT
        mucin = np.clip(self._noise(36, 3) * 2 - 4500, 0, UNIT) * draws.integer(130, 320) // UNIT
        blue = plasm + mucin + (self._noise(9, 3) - 1500) // 14
        eosin = 450 + self._noise(48, 4) // 5 + fibre // 3 + (self.grain - 2048) // 7 + (self._noise(2) - 2048) // 14 - blue // 2
        self.eosin += np.maximum(eosin, 60) * self.tissue // UNIT * self.slide.tissue_stain // UNIT
        self.haematoxylin += np.maximum(blue, 0) * self.tissue // UNIT * self.slide.nuclear_stain // UNIT

    def _patch(self, shape: _Ellipse, *, reach: int = 0) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """The window around an ellipse, and the squared distance of each pixel from its centre.

        Args:
          reach: margin around the ellipse in pixels.

        Returns:
          (window, far): a pair of slices, and int64 [h, w] 4096 · (distance / half axis)², below 4096 inside; None if the
          ellipse is outside the image.
        """
        margin = shape.long + shape.long * shape.split // 16 + shape.warp
        top, left = ((c - margin) // _PIXEL - reach for c in (shape.y, shape.x))
        bottom, right = ((c + margin) // _PIXEL + reach + 2 for c in (shape.y, shape.x))
        window = slice(max(top, 0), min(bottom, self.shape[0])), slice(max(left, 0), min(right, self.shape[1]))
        if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
            return None
        dy = (np.arange(window[0].start, window[0].stop) * _PIXEL - shape.y)[:, None] + (self.wander[0][window] * shape.warp >> 11)
        dx = (np.arange(window[1].start, window[1].stop) * _PIXEL - shape.x)[None, :] + (self.wander[1][window] * shape.warp >> 11)
        cosine, sine_ = int(sine(shape.angle + TURN // 4)), int(sine(shape.angle))
        u, v = (dx * cosine + dy * sine_) >> 12, (dy * cosine - dx * sine_) >> 12
        v = v - u * u * shape.bend // (16 * shape.long)
        across = v * v * 4096 // shape.short**2
        shift = shape.long * shape.split // 16
        if not shift:
            return window, u * u * 4096 // shape.long**2 + across
        lobes = [(u + side) ** 2 * 4096 // shape.long**2 + across for side in (-shift, shift)]
        return window, np.minimum(*lobes)

    def _cover(self, far: np.ndarray, short: int) -> np.ndarray:
        """The coverage of each pixel by the ellipse, 0 to 1024, with an edge one pixel wide."""
        return np.clip((4096 - far) * short // (2 * 4096 * _PIXEL // UNIT) + UNIT // 2, 0, UNIT)

    def add_blood(self) -> None:
        """Adds clusters of red blood cells: as large and dark as nuclei, but red with a pale centre."""
        draws = self.draws
        for _ in range(self._count(0, 2)):
            heap = self._somewhere()
            for _ in range(draws.integer(2, 7)):
                y, x = (heap[axis] + draws.integer(-14 * _PIXEL, 14 * _PIXEL) for axis in "yx")
                long = draws.integer(54, 76)
                shape = _Ellipse(y=y, x=x, angle=heap["angle"], long=long, short=long * draws.integer(11, 16) // 16, warp=24)
                if (patch := self._patch(shape)) is None:
                    continue
                window, far = patch
                amount = draws.integer(600, 1100) * (700 + np.minimum(far, 4096) // 12) // UNIT
                cover = self._cover(far, shape.short)
                self.blood[window] = np.maximum(self.blood[window], amount * cover // UNIT)
                self.eosin[window] -= self.eosin[window] * cover // (UNIT * 2)

    def add_smears(self) -> None:
        """Adds crushed or out-of-focus haematoxylin: as dark as pale nuclei, without edge or texture."""
        draws = self.draws
        for _ in range(self._count(1, 4)):
            long = draws.integer(130, 420)
            shape = _Ellipse(**self._somewhere(), long=long, short=long * draws.integer(5, 10) // 16, bend=draws.integer(-12, 12), warp=110)
            if (patch := self._patch(shape)) is None:
                continue
            window, far = patch
            soft = np.clip(4096 - far, 0, 4096)
            amount = draws.integer(250, 800) * self.slide.nuclear_stain // UNIT
            self.haematoxylin[window] += (soft * soft >> 14) * amount // UNIT * self.tissue[window] // UNIT

    def add_streaks(self) -> None:
        """Adds fibroblast-like streaks: the colour of nuclei, up to three pixels thin, in about one direction."""
        draws, main = self.draws, self.draws.integer(0, TURN - 1)
        for _ in range(self._count(5, 16)):
            place = self._somewhere() | {"angle": main + draws.integer(-300, 300)}
            shape = _Ellipse(**place, long=draws.integer(90, 280), short=draws.integer(13, 24), bend=draws.integer(-6, 6), warp=20)
            if (patch := self._patch(shape, reach=3)) is None:
                continue
            window, far = patch
            amount = draws.integer(450, 1050) * self.slide.nuclear_stain // UNIT
            line = amount * self._cover(far, shape.short) // UNIT * self.tissue[window] // UNIT
            self.haematoxylin[window] = np.maximum(self.haematoxylin[window], line)

    def add_nuclei(self) -> None:
        """Adds nuclei, most of them in nests, until a random share of the image is covered."""
        draws = self.draws
        wanted = self.area * draws.integer(120, 270) // 1000
        covered = number = 0
        for _ in range(60 + self.area // 60):
            if covered >= wanted:
                break
            shape = self._nucleus()
            row, column = (min(max(c // _PIXEL, 0), side - 1) for c, side in zip((shape.y, shape.x), self.shape, strict=True))
            if self.tissue[row, column] < UNIT // 2 or draws.integer(700, 2500) > self.nest[row, column]:
                continue
            if (patch := self._patch(shape, reach=3)) is None:
                continue
            window, far = patch
            inside = far < 4096
            fresh = inside & (self.instances[window] == 0)
            # Earlier nuclei cover later ones. At least 12 pixels and two thirds of a nucleus must be visible.
            visible = int(fresh.sum())
            if visible < 12 or visible * 3 < int(inside.sum()) * 2:
                continue
            number, covered = number + 1, covered + visible
            below = self.instances[window] > 0
            self.instances[window][fresh] = number
            self._stain_nucleus(shape, window, far, below)

    def _nucleus(self) -> _Ellipse:
        draws = self.draws
        long = self.slide.radius * draws.integer(700, 1350) // UNIT
        kind = draws.integer(0, 9)
        if kind == 0:  # two lobes
            return _Ellipse(**self._somewhere(48), long=long * 11 // 16, short=long * 10 // 16, split=draws.integer(8, 13), warp=16)
        if kind <= 2:  # a bean
            return _Ellipse(**self._somewhere(48), long=long, short=long * 9 // 16, bend=draws.integer(3, 6), warp=20)
        return _Ellipse(**self._somewhere(48), long=long, short=long * draws.integer(9, 15) // 16, bend=draws.integer(-3, 3), warp=30)

    def _stain_nucleus(self, shape: _Ellipse, window: tuple[slice, slice], far: np.ndarray, below: np.ndarray) -> None:
        """Stains body, dark rim, chromatin and nucleoli; `below` marks pixels where an earlier nucleus covers this one."""
        draws = self.draws
        cover = self._cover(far, shape.short)
        pale = draws.chance(self.slide.pale_percent)
        body, rim = (draws.integer(200, 440), draws.integer(350, 650)) if pale else (draws.integer(480, 1000), draws.integer(60, 300))
        clumps = draws.integer(120, 300) if pale else draws.integer(180, 420)
        edge = np.clip(far - 2600, 0, 1496)
        dye = body + edge * rim // 1496 + (self.grain[window] - 2048) * clumps // 1200
        for _ in range(draws.integer(0, 2)):  # nucleoli
            y, x = (c + draws.integer(-shape.short, shape.short) // 2 for c in (shape.y, shape.x))
            rows, columns = (np.arange(part.start, part.stop) * _PIXEL for part in window)
            near = draws.integer(18, 34) ** 2 - (rows[:, None] - y) ** 2 - (columns[None, :] - x) ** 2
            dye = dye + np.clip(near, 0, 500)
        dye = np.maximum(dye, 120) * self.slide.nuclear_stain // UNIT * cover // UNIT
        if draws.chance(35):  # halo of shrunken cytoplasm
            halo = np.clip(7400 - far, 0, 2400) * draws.integer(200, 700) // 2400
            self.eosin[window] -= self.eosin[window] * halo // UNIT
        self.eosin[window] -= self.eosin[window] * cover // (UNIT * 3)
        self.blood[window] -= self.blood[window] * cover // UNIT
        before = self.haematoxylin[window]
        over = np.maximum(dye, before) + np.minimum(dye, before) // 3
        self.haematoxylin[window] = np.where(below, over, before - before * cover // UNIT + dye)

    def add_specks(self) -> None:
        """Adds pigment and dirt: almost black, one to three pixels wide."""
        for _ in range(self._count(2, 10)):
            shape = _Ellipse(**self._somewhere(), long=self.draws.integer(14, 34), short=self.draws.integer(12, 20), warp=12)
            if (patch := self._patch(shape, reach=1)) is None:
                continue
            window, far = patch
            cover = self._cover(far, shape.short)
            self.blood[window] += cover * self.draws.integer(0, 700) // UNIT
            self.haematoxylin[window] += cover * self.draws.integer(400, 1200) // UNIT

    def photograph(self) -> np.ndarray:
        """Renders colour, uneven focus and sensor noise: uint8 [H, W, 3]."""
        sharp = self.slide.colour(self.haematoxylin, self.eosin, self.blood)
        soft = _blur(_blur(sharp))
        focus = np.clip(self._noise(64) - self.draws.integer(900, 3200), 0, 1024)[..., None]
        light = sharp + ((soft - sharp) * focus >> 10)
        words = random_words(self.draws.word(), *self.shape)
        level = self.draws.integer(30, 78)
        # The sum of two random bytes per channel: triangular noise with a standard deviation of 0.41 · level sixteenths of a grey level.
        for channel in range(3):
            low, high = (words >> np.uint64(16 * channel + start) & np.uint64(255) for start in (0, 8))
            light[..., channel] += ((low + high).astype(np.int32) - 255) * level >> 8
        return np.clip((light + 8) >> 4, 0, 255).astype(np.uint8)


def _blur(image: np.ndarray) -> np.ndarray:
    """The binomial 3 x 3 filter with edge padding."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) >> 4
