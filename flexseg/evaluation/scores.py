"""Dice, IoU, precision and recall of a case per class, from pixel counts.

    counts = count_case(truth, prediction, num_classes=3)
    counts.dice          # float64 [3], nan where undefined
    counts.true_empty    # bool [3], the class is neither in the truth nor in the prediction

Per class and case, from tp, fp, fn; pixels with truth 255 are ignored:

    ====================================  =====  =====  =========  ======
    case                                  dice   iou    precision  recall
    ====================================  =====  =====  =========  ======
    neither truth nor prediction          out    out    out        out      (counted as true_empty)
    no truth, but a prediction            0      0      0          out
    truth, but no prediction              0      0      out        0
    both                                  2tp/(2tp+fp+fn), tp/(tp+fp+fn), tp/(tp+fp), tp/(tp+fn)
    ====================================  =====  =====  =========  ======

"out" is nan: the quotient is 0/0, and means leave it out. A false prediction still lowers precision and Dice, and a missed class recall and Dice.
"""

import dataclasses
import functools
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from flexseg.files.label_map import IGNORE


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CaseCounts:
    """Pixel counts of a case.

    Attributes:
      tp, fp, fn: int64 [K], true positive, false positive and false negative pixels of each class.
      height, width: size of the case in pixels.
      ignored: number of pixels with truth 255.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    height: int
    width: int
    ignored: int

    def numbers(self) -> np.ndarray:
        """The counts as int64 [3 K + 3], the inverse of `from_numbers`."""
        return np.concatenate([self.tp, self.fp, self.fn, [self.height, self.width, self.ignored]])

    @classmethod
    def from_numbers(cls, numbers: np.ndarray) -> "CaseCounts":
        """Makes the counts from `numbers()`."""
        tp, fp, fn = np.split(numbers[:-3], 3)
        height, width, ignored = (int(n) for n in numbers[-3:])
        return cls(tp=tp, fp=fp, fn=fn, height=height, width=width, ignored=ignored)

    @staticmethod
    def length(num_classes: int) -> int:
        """The length of `numbers()`."""
        return 3 * num_classes + 3

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.tp)

    @property
    def pixels(self) -> np.ndarray:
        """int64 [K]: number of pixels of each class in the truth."""
        return self.tp + self.fn

    @property
    def true_empty(self) -> np.ndarray:
        """bool [K]: whether the class is in neither truth nor prediction."""
        return self.tp + self.fp + self.fn == 0

    @functools.cached_property
    def dice(self) -> np.ndarray:
        """float64 [K], Dice coefficient (Dice 1945, Sørensen 1948)."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @functools.cached_property
    def iou(self) -> np.ndarray:
        """float64 [K], intersection over union (Jaccard 1901)."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @functools.cached_property
    def precision(self) -> np.ndarray:
        """float64 [K], tp / (tp + fp); nan where nothing is predicted."""
        return ratio(self.tp, self.tp + self.fp)

    @functools.cached_property
    def recall(self) -> np.ndarray:
        """float64 [K], tp / (tp + fn); nan where the truth is empty."""
        return ratio(self.tp, self.tp + self.fn)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """The quotient in float64; nan where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


@overload
def mean_of_known(values: ArrayLike) -> float: ...
@overload
def mean_of_known(values: ArrayLike, axis: int) -> np.ndarray: ...
def mean_of_known(values: ArrayLike, axis: int | None = None) -> Any:
    """`numpy.nanmean` without its warning: nan where all values are nan."""
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))[()]


def count_case(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> CaseCounts:
    """Counts tp, fp and fn per class.

    Args:
      truth: class ids uint8 [H, W], 255 = ignored.
      prediction: class ids uint8 [H, W]; not used where the truth is 255.
      num_classes: K, 1 to 255.

    Raises:
      ValueError: another dtype, different shapes, or a class id of K or more.
    """
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise ValueError(f"{name} must be uint8 [H, W], got {mask.dtype} {list(mask.shape)}")
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {list(truth.shape)}, prediction {list(prediction.shape)}: compare them at the case's own size")
    # One pass over the pixels counts all 256 x 256 pairs, so ids of K and more are found too.
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
