"""Count one case's pixels per class, and what follows from the counts: Dice, IoU, precision, recall.

    counts = count_case(truth, prediction, num_classes=3)
    counts.dice          # float64 [3], nan where the case says nothing about the class
    counts.true_empty    # bool [3], the class is neither in the truth nor in the prediction

Per class and case, from tp, fp, fn (pixels of value 255 in the truth are counted nowhere):

    ====================================  =====  =====  =========  ======
    case                                  dice   iou    precision  recall
    ====================================  =====  =====  =========  ======
    neither truth nor prediction          out    out    out        out      (counted as true_empty)
    no truth, but a prediction            0      0      0          out
    truth, but no prediction              0      0      out        0
    both                                  2tp/(2tp+fp+fn), tp/(tp+fp+fn), tp/(tp+fp), tp/(tp+fn)
    ====================================  =====  =====  =========  ======

"out" is nan here and left out of every mean: the quotient is 0/0, so any number in its place would be an opinion. A model gains nothing
by it: what it predicts falsely costs precision and Dice, what it misses costs recall and Dice.
"""

import dataclasses
import functools
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from flexseg.files.label_map import IGNORE


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CaseCounts:
    """Pixel counts of one case; every array has one entry a class.

    Attributes:
      tp, fp, fn: int64 [K], pixels of class k that are rightly, wrongly, not predicted as k.
      height, width: of the case, in pixels.
      ignored: number of pixels whose truth is 255.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    height: int
    width: int
    ignored: int

    def numbers(self) -> np.ndarray:
        """int64 [3 K + 3], for a table of cases; `from_numbers` reads it."""
        return np.concatenate([self.tp, self.fp, self.fn, [self.height, self.width, self.ignored]])

    @classmethod
    def from_numbers(cls, numbers: np.ndarray) -> "CaseCounts":
        """The counts that `numbers()` told."""
        tp, fp, fn = np.split(numbers[:-3], 3)
        height, width, ignored = (int(n) for n in numbers[-3:])
        return cls(tp=tp, fp=fp, fn=fn, height=height, width=width, ignored=ignored)

    @staticmethod
    def length(num_classes: int) -> int:
        """How many numbers `numbers()` gives."""
        return 3 * num_classes + 3

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return len(self.tp)

    @property
    def pixels(self) -> np.ndarray:
        """int64 [K]: pixels of the class in the truth."""
        return self.tp + self.fn

    @property
    def true_empty(self) -> np.ndarray:
        """bool [K]: the class is in neither, and the case does not enter its means."""
        return self.tp + self.fp + self.fn == 0

    @functools.cached_property
    def dice(self) -> np.ndarray:
        """float64 [K], Dice 1945 / Sorensen 1948."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @functools.cached_property
    def iou(self) -> np.ndarray:
        """float64 [K], intersection over union, Jaccard 1901."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @functools.cached_property
    def precision(self) -> np.ndarray:
        """float64 [K], the share of the predicted pixels that is right; nan where nothing is predicted."""
        return ratio(self.tp, self.tp + self.fp)

    @functools.cached_property
    def recall(self) -> np.ndarray:
        """float64 [K], the share of the true pixels that is found; nan where there are none."""
        return ratio(self.tp, self.tp + self.fn)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """float64 quotient, nan where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


@overload
def mean_of_known(values: ArrayLike) -> float: ...
@overload
def mean_of_known(values: ArrayLike, axis: int) -> np.ndarray: ...
def mean_of_known(values: ArrayLike, axis: int | None = None) -> Any:
    """The mean of what is not nan, nan where nothing is left (`numpy.nanmean` without its warning)."""
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))[()]


def count_case(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> CaseCounts:
    """Counts tp, fp, fn per class.

    Args:
      truth: uint8 [H, W] class ids, 255 = ignore.
      prediction: uint8 [H, W] class ids; what it says where the truth is 255 does not matter.
      num_classes: K, 1 to 255.

    Raises:
      ValueError: for other types, different shapes, or a class id of K or more.
    """
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise ValueError(f"{name} must be uint8 [H, W], got {mask.dtype} {list(mask.shape)}")
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {list(truth.shape)}, prediction {list(prediction.shape)}: compare them at the case's own size")
    # One pass over the pixels: all 256 x 256 pairs, so that ids off the map are seen as well.
    pairs = np.bincount(((truth.astype(np.uint16) << 8) | prediction).ravel(), minlength=1 << 16).reshape(256, 256)
    counted = pairs[:IGNORE]
    for name, strays in (("truth", counted[num_classes:].sum(1)), ("prediction", counted[:, num_classes:].sum(0))):
        if strays.any():
            worst = num_classes + int(np.argmax(strays))
            raise ValueError(f"{name} holds class {worst} ({int(strays.max())} pixels), but there are {num_classes} classes (0 to {num_classes - 1})")
    confusion = counted[:num_classes, :num_classes]
    tp = np.diagonal(confusion).copy()
    return CaseCounts(
        tp=tp,
        fp=confusion.sum(0) - tp,
        fn=confusion.sum(1) - tp,
        height=truth.shape[0],
        width=truth.shape[1],
        ignored=int(pairs[IGNORE].sum()),
    )
