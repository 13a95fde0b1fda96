"""The random numbers, noise and stain of synthetic slides, in integer arithmetic.

    slide = Slide.draw(seed=0, slide=3)
    rgb16 = slide.colour(haematoxylin, eosin, blood)      # three int32 maps, 1024 = one unit of dye -> int32 [H, W, 3], 16 per grey level

All numbers are fixed-point (scales are given where they are defined), so pixels are equal on every machine and with every NumPy version. The colours
are plausible, not calibrated to a scanner.
"""

import dataclasses
import math
import operator
from typing import TypeVar

import numpy as np

UNIT = 1024  # one unit of dye; one halving of the light
TURN = 4096  # a full turn; also the scale of sines and noise

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

Word = TypeVar("Word", int, np.ndarray)


def mix(word: Word) -> Word:
    """The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).

    Args:
      word: a Python int below 2**64, or a uint64 array (whose products wrap).
    """
    if isinstance(word, int):
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
        return word ^ (word >> 31)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


class Draws:
    """SplitMix64, seeded by a path of integers from 0 to 2**63 - 1; `Draws(1, 2)` and `Draws(1, 2, 3)` are independent."""

    def __init__(self, *path: int):
        self._state = len(path)
        for part in path:
            self._state = mix((self._state + _GOLDEN) & _WORD) ^ operator.index(part)

    def word(self) -> int:
        """The next 64 random bits, as a Python int."""
        self._state = (self._state + _GOLDEN) & _WORD
        return mix(self._state)

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, inclusive."""
        return low + (self.word() * (high - low + 1) >> 64)

    def chance(self, percent: int) -> bool:
        """True with a probability of `percent`."""
        return self.integer(0, 99) < percent


def random_words(key: int, height: int, width: int) -> np.ndarray:
    """uint64 [height, width]: 64 random bits per grid point, a hash of (key, row, column)."""
    grid = (np.arange(height, dtype=np.uint64)[:, None] << np.uint64(32)) + np.arange(width, dtype=np.uint64)[None, :]
    return mix(grid * np.uint64(_GOLDEN) + np.uint64(key))


def value_noise(key: int, shape: tuple[int, int], spacing: int, octaves: int = 1) -> np.ndarray:
    """Value noise: interpolated random values on a grid; each octave has half the spacing and half the weight of the one before.

    Args:
      spacing: pixels between grid points of the first octave.

    Returns:
      int32 [H, W], 0 to 4095, mean near 2048.
    """
    total, weights = np.zeros(shape, np.int32), 0
    for octave in range(octaves):
        step = max(1, spacing >> octave)
        grid = (random_words(key + octave & _WORD, shape[0] // step + 2, shape[1] // step + 2) >> np.uint64(52)).astype(np.int32)
        (row, row_weight), (column, column_weight) = (_interpolation(length, step) for length in shape)
        rows = grid[row] * (4096 - row_weight)[:, None] + grid[row + 1] * row_weight[:, None] >> 12
        total += (rows[:, column] * (4096 - column_weight) + rows[:, column + 1] * column_weight >> 12) * (64 >> octave)
        weights += 64 >> octave
    return total // weights


def _interpolation(length: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    # For each pixel, the index of the grid point before it and the weight of the next one in 4096ths.
    position = np.arange(length)
    part = position % step * 4096 // step
    return position // step, (part * part * (3 * 4096 - 2 * part) >> 24).astype(np.int32)  # smoothstep 3t² - 2t³


def _sine_table() -> np.ndarray:
    # Two parabolas p, corrected: p + 0.225 (p |p| - p), within 0.001 of the sine, in integers.
    phase = np.arange(TURN, dtype=np.int64)
    half = phase % (TURN // 2)
    parabola = half * (TURN // 2 - half) * 4096 // (TURN // 4) ** 2
    sine = parabola + 225 * (parabola * parabola // 4096 - parabola) // 1000
    return np.where(phase < TURN // 2, sine, -sine).astype(np.int32)


def _halving_table() -> np.ndarray:
    # 65536 · 2^(-i / 256): the 256th root of a half by eight exact integer square roots, its powers by exact products.
    root = 1 << 127
    for _ in range(8):
        root = math.isqrt(root << 128)
    powers = [1 << 128]
    while len(powers) < 8 * 256:
        powers.append(powers[-1] * root >> 128)
    return np.array([power >> 112 for power in powers], np.int32)


_SINES = _sine_table()
_HALVINGS = _halving_table()


def sine(phase: int | np.ndarray) -> np.ndarray | np.int32:
    """4096 · sin(2π · phase / 4096), for an int or an integer array."""
    return _SINES[phase & (TURN - 1)]


def _tint(share: int, draws: Draws, *stops: tuple[int, int, int]) -> tuple[int, int, int]:
    """Interpolates between the stops, at `share` in 4096ths; each channel varies by up to 5 %."""
    part, rest = divmod(share * (len(stops) - 1), 4096)
    ends = zip(stops[part], stops[part + 1], strict=True)
    red, green, blue = ((before * (4096 - rest) + after * rest) * draws.integer(95, 105) // (100 * 4096) for before, after in ends)
    return red, green, blue


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slide:
    """The properties that all images of a slide share.

    A tint is the number of times that one unit of a dye halves red, green and blue light, in 1024ths (Beer-Lambert law).

    Attributes:
      haematoxylin: tint of the nuclear dye, from blue to purple.
      eosin: tint of the tissue dye, from salmon over pink to mauve.
      blood: tint of red blood cells.
      white: light without tissue, 16 per grey level.
      tilt: increase of brightness from top to bottom and from left to right, in 4096ths.
      nuclear_stain: strength of the nuclear dye in 1024ths.
      tissue_stain: strength of the tissue dye in 1024ths.
      radius: mean half length of a nucleus, in 16ths of a pixel.
      pale_percent: share of pale nuclei with visible chromatin.
    """

    haematoxylin: tuple[int, int, int]
    eosin: tuple[int, int, int]
    blood: tuple[int, int, int]
    white: tuple[int, int, int]
    tilt: tuple[int, int]
    nuclear_stain: int
    tissue_stain: int
    radius: int
    pale_percent: int

    @classmethod
    def draw(cls, *, seed: int, slide: int) -> "Slide":
        """Slide number `slide` of the dataset with this seed."""
        draws, start = Draws(seed, slide), Draws(seed)
        # Low-discrepancy tints over successive slides, so that a few training slides cover the range of test slides: steps of the golden
        # ratio and of the square root of 2 from a random start, modulo 1 in 64 bits.
        blue_to_purple, salmon_to_mauve = ((start.word() + operator.index(slide) * step & _WORD) >> 52 for step in (_GOLDEN, 0x6A09E667F3BCC908))
        return cls(
            haematoxylin=_tint(blue_to_purple, draws, (1850, 1700, 680), (1300, 1800, 780)),
            eosin=_tint(salmon_to_mauve, draws, (140, 600, 590), (150, 780, 470), (390, 780, 330)),
            blood=_tint(draws.integer(0, 4095), draws, (180, 1500, 1450), (240, 1450, 1050)),
            white=(16 * draws.integer(228, 248), 16 * draws.integer(228, 248), 16 * draws.integer(228, 248)),
            tilt=(draws.integer(-500, 500), draws.integer(-500, 500)),
            nuclear_stain=draws.integer(720, 1250),
            tissue_stain=draws.integer(550, 1150),
            radius=draws.integer(105, 165),
            pale_percent=draws.integer(30, 60),
        )

    def colour(self, haematoxylin: np.ndarray, eosin: np.ndarray, blood: np.ndarray) -> np.ndarray:
        """The light that passes the dyes, with the illumination of this slide.

        Args:
          haematoxylin, eosin, blood: int32 [H, W] amounts of dye, 0 or more, 1024 = one unit.

        Returns:
          int32 [H, W, 3], RGB, 16 per grey level.
        """
        height, width = haematoxylin.shape
        down = (np.arange(height, dtype=np.int32) - height // 2) * self.tilt[0] // height
        right = (np.arange(width, dtype=np.int32) - width // 2) * self.tilt[1] // width
        light = 4096 + down[:, None] + right[None, :]
        channels = []
        for channel in range(3):
            halvings = haematoxylin * self.haematoxylin[channel] + eosin * self.eosin[channel] + blood * self.blood[channel] >> 12
            passed = _HALVINGS[np.minimum(halvings, len(_HALVINGS) - 1)]
            channels.append(((self.white[channel] * light >> 12) * passed) >> 16)
        return np.stack(channels, axis=-1)
