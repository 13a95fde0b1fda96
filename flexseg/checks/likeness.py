"""Finds near-duplicate images by perceptual hashing: flipped, rotated, resized, brightened or recompressed.

    prints = [fingerprint(image) for image in images]
    for pair in alike(prints):        # Pair(first=3, second=17, orientation=4)
        ...

A fingerprint is a thumbnail of 32 × 32 grey levels and the signs of its 63 lowest DCT frequencies against their median ("pHash": Zauner,
Implementation and benchmarking of perceptual image hash functions, thesis, Hagenberg 2010), for all eight orientations. Two images are
near-duplicates when their hashes differ in few bits and their thumbnails correlate. The correlation separates images of the same tissue whose hashes
agree by chance.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

SIDE = 32
MOST_BITS = 8  # of 63 that may differ
LEAST_CORRELATION = 0.97
_FLAT = 2.0  # standard deviation in grey levels below which an image has no content
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The perceptual hashes of an image.

    Attributes:
      thumbnail: uint8 [32, 32].
      hashes: uint64 [8], one for each orientation of `oriented`.
    """

    thumbnail: np.ndarray
    hashes: np.ndarray

    @property
    def flat(self) -> bool:
        """Whether the image has a single grey level, so that it would equal every other such image."""
        return bool(self.thumbnail.std() < _FLAT)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two near-duplicates.

    Attributes:
      first, second: indices of the fingerprints.
      orientation: index into `oriented` of the second that matches the first.
    """

    first: int
    second: int
    orientation: int


def fingerprint(image: np.ndarray) -> Fingerprint:
    """The fingerprint of an image, [H, W] or [H, W, 3], any number type."""
    grey = image.astype(np.float32)
    grey = grey if grey.ndim == 2 else grey @ np.array([0.299, 0.587, 0.114], np.float32)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    scale = 1.0 if image.dtype == np.uint8 else 255.0 / max(high - low, 1e-12)
    small = np.clip(np.rint((small - (0.0 if image.dtype == np.uint8 else low)) * scale), 0, 255).astype(np.uint8)
    return Fingerprint(small, np.array([_hash(turned) for turned in oriented(small)], np.uint64))


def oriented(square: np.ndarray) -> list[np.ndarray]:
    """The eight flips and quarter turns, the identity first."""
    return [np.rot90(side, turns) for side in (square, square[:, ::-1]) for turns in range(4)]


def _hash(square: np.ndarray) -> int:
    low = cv2.dct(np.ascontiguousarray(square, np.float32))[:8, :8].ravel()[1:]
    return int(np.packbits(low > np.median(low), bitorder="little").view(np.uint64)[0])


def alike(prints: Sequence[Fingerprint], tells: Callable[[int, int], bool] = lambda first, second: True) -> Iterator[Pair]:
    """Yields near-duplicate pairs, in order. 10,000 images take seconds; time is quadratic in their number.

    Args:
      prints: the fingerprints.
      tells: (first, second) -> whether this pair is of interest; called before the close comparison, after all earlier pairs were yielded.
    """
    seen = np.array([number for number, one in enumerate(prints) if not one.flat], np.int64)
    if len(seen) < 2:
        return
    hashes = np.array([prints[number].hashes for number in seen])
    for start in range(0, len(seen), _ROWS):
        block = hashes[start : start + _ROWS, 0]
        near = np.full((len(block), len(seen)), -1, np.int8)  # first orientation in which the hashes are near, -1 for none
        for orientation in reversed(range(8)):
            near[np.bitwise_count(block[:, None] ^ hashes[None, :, orientation]) <= MOST_BITS] = orientation
        for row, column in zip(*np.nonzero(near >= 0), strict=True):
            first, second = int(seen[start + row]), int(seen[column])
            if first < second and tells(first, second):
                for orientation in range(int(near[row, column]), 8):
                    bits = int(np.bitwise_count(block[row] ^ hashes[column, orientation]))
                    if bits <= MOST_BITS and _correlation(prints[first], prints[second], orientation) >= LEAST_CORRELATION:
                        yield Pair(first, second, orientation)
                        break


def _correlation(one: Fingerprint, other: Fingerprint, orientation: int) -> float:
    return float(np.corrcoef(one.thumbnail.ravel(), oriented(other.thumbnail)[orientation].ravel())[0, 1])
