"""Metrics by name: the reference's, with its values, and the one that is a Dice of hard predictions.

    metric_named("mean_foreground_dice", num_classes=6, background=5)
    metric_named("sensitivity", num_classes=1, background=0)

These are what training watches at the network's size. The scores that are reported (per case, group and class, at each case's own size, with
intervals) are those of flexseg.evaluation.

A metric of one's own comes from a module named with `--user_module`: `@register_metric def my_score(head): return Metric(name="my_score", ...)`.
"""

from collections.abc import Callable

import tensorflow as tf

from flexseg.errors import UserError, suggest
from flexseg.objectives.head import Head
from flexseg.objectives.loss import example_terms
from flexseg.objectives.metric import Metric
from flexseg.objectives.overlap import confusion_matrices, dice, iou, pooled_overlap
from flexseg.objectives.pixels import Pixels, sum_pixels

_KERAS_EPSILON = 1e-7  # keras.backend.epsilon(), which the reference adds to the denominators of sensitivity and specificity


def mean_foreground_dice(head: Head) -> Metric:
    """Dice of the predicted classes, 2 I / (T + P), mean over an example's foreground classes, then over examples.

    A class that neither truth nor prediction has does not enter the example's mean; an example with no such class does not enter the other.
    """
    foreground = head.foreground

    def example_sums(pixels: Pixels) -> tf.Tensor:
        confusion = confusion_matrices(pixels)
        truth, predicted = tf.reduce_sum(confusion, axis=2), tf.reduce_sum(confusion, axis=1)
        both, total = (tf.gather(x, foreground, axis=-1) for x in (tf.linalg.diag_part(confusion), truth + predicted))
        classes = tf.math.count_nonzero(total, axis=-1, dtype=pixels.dtype)
        of_example = tf.math.divide_no_nan(tf.reduce_sum(tf.math.divide_no_nan(2.0 * both, total), axis=-1), classes)
        return tf.stack([of_example, tf.cast(classes > 0, pixels.dtype)], axis=-1)

    return Metric(name="mean_foreground_dice", size=2, example_sums=example_sums, value=_ratio)


def dice_coef(head: Head) -> Metric:
    """(2 I + 1) / (T + P + 1), soft, over the flattened batch and all channels."""
    note = _flattens("dice_coef") if head.num_classes == 1 else _pools_all_channels("dice_coef")
    return Metric(name="dice_coef", size=3, example_sums=pooled_overlap, value=dice, batch_dependent=True, note=note)


def iou_coef(head: Head) -> Metric:
    """I / (T + P - I), soft, over the flattened batch and all channels; 1 on 0/0, where the reference gives NaN."""
    note = _flattens("iou_coef") if head.num_classes == 1 else _pools_all_channels("iou_coef")
    return Metric(name="iou_coef", size=3, example_sums=pooled_overlap, value=iou, batch_dependent=True, note=note)


def jacard_similarity(head: Head) -> Metric:
    """The same as `iou_coef`, under the reference's other name."""
    note = _flattens("jacard_similarity") if head.num_classes == 1 else _pools_all_channels("jacard_similarity")
    return Metric(name="jacard_similarity", size=3, example_sums=pooled_overlap, value=iou, batch_dependent=True, note=note)


def sensitivity(head: Head) -> Metric:
    """Pixels with truth 1 and p > 1/2, by those with truth 1 (+ 1e-7), over the flattened batch and all channels."""

    def example_sums(pixels: Pixels) -> tf.Tensor:
        return tf.stack([sum_pixels(tf.round(pixels.truth * pixels.p)), sum_pixels(pixels.truth)], axis=-1)

    return Metric(name="sensitivity", size=2, example_sums=example_sums, value=_ratio_with_epsilon, batch_dependent=True)


def specificity(head: Head) -> Metric:
    """Pixels with truth 0 and p < 1/2, by those with truth 0 (+ 1e-7), over the flattened batch and all channels."""

    def example_sums(pixels: Pixels) -> tf.Tensor:
        negative = pixels.valid - pixels.truth
        return tf.stack([sum_pixels(tf.round(negative * (1.0 - pixels.p))), sum_pixels(negative)], axis=-1)

    return Metric(name="specificity", size=2, example_sums=example_sums, value=_ratio_with_epsilon, batch_dependent=True)


def dice_coef_multiclass(head: Head) -> Metric:
    """(2 I + 1) / (T + P + 1), soft, over all channels of an example, mean over examples."""
    note = ""
    if head.num_classes > 1:
        note = (
            "dice_coef_multiclass is no Dice: background included, it equals the mean softmax probability of the true class, a soft pixel accuracy, "
            "and scores high where everything is called background."
        )
    return Metric(name="dice_coef_multiclass", size=2, value=_ratio, note=note,
                  example_sums=lambda pixels: example_terms(dice(pooled_overlap(pixels)), pixels))  # fmt: skip


def binary_accuracy(head: Head) -> Metric:
    """Share of pixels and channels where (p > 1/2) is the truth, Keras's value."""

    def correct(pixels: Pixels) -> tf.Tensor:
        is_right = tf.cast((pixels.p > 0.5) == (pixels.truth > 0.5), pixels.dtype)
        return tf.reduce_mean(is_right, axis=-1, keepdims=True) * pixels.valid

    return _pixel_accuracy("binary_accuracy", correct)


def categorical_accuracy(head: Head) -> Metric:
    """Share of pixels whose most probable class is the true one, Keras's value.

    Raises:
      UserError: for one sigmoid logit, where Keras's formula is 1 whatever is predicted.
    """
    if head.num_classes == 1:
        raise UserError("train.metrics", expected="a metric that one sigmoid logit has (num_classes = 1)", found="categorical_accuracy",
                        cure="name binary_accuracy instead")  # fmt: skip

    def correct(pixels: Pixels) -> tf.Tensor:
        return tf.cast(pixels.predicted_ids == tf.cast(pixels.ids, tf.int64), pixels.dtype)[..., None]  # 255 is never predicted

    return _pixel_accuracy("categorical_accuracy", correct)


def _pixel_accuracy(name: str, correct: Callable[[Pixels], tf.Tensor]) -> Metric:
    def example_sums(pixels: Pixels) -> tf.Tensor:
        return tf.stack([sum_pixels(correct(pixels)), sum_pixels(pixels.valid)], axis=-1)

    note = f"{name} is a share of pixels, background included: it is no Dice and scores high where everything is called background."
    return Metric(name=name, size=2, example_sums=example_sums, value=_ratio, note=note)


def _flattens(name: str) -> str:
    return f"{name} is that of a whole batch flattened into one image: it changes with eval.batch_size and is no mean over cases."


def _pools_all_channels(name: str) -> str:
    return f"{name} pools all classes, background included, and scores high where everything is called background."


def _ratio(sums: tf.Tensor) -> tf.Tensor:
    return sums[0] / sums[1]


def _ratio_with_epsilon(sums: tf.Tensor) -> tf.Tensor:
    return sums[0] / (sums[1] + _KERAS_EPSILON)


_BUILDERS: dict[str, Callable[[Head], Metric]] = {
    builder.__name__: builder
    for builder in (
        mean_foreground_dice, dice_coef, iou_coef, jacard_similarity, sensitivity, specificity, dice_coef_multiclass, binary_accuracy,
        categorical_accuracy,
    )
}  # fmt: skip


def metric_names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(_BUILDERS))


def register_metric(builder: Callable[[Head], Metric]) -> Callable[[Head], Metric]:
    """Adds a function `(head: Head) -> Metric` under its own name; a name that is taken is refused with a UserError."""
    name = builder.__name__
    if name in _BUILDERS:
        raise UserError(f"metric {name!r}", expected="a name that no other metric has", found="one of flexseg's names", cure="rename the function")
    _BUILDERS[name] = builder
    return builder


def metric_named(name: str, *, num_classes: int, background: int | None) -> Metric:
    """The metric of a name.

    Args:
      name: one of `metric_names()`.
      num_classes: channels of the logits, 1 for the sigmoid form.
      background: id of the background class, None where there is none.

    Raises:
      UserError: for an unknown name, or a head that has no such metric.
    """
    if name not in _BUILDERS:
        raise UserError("train.metrics", expected="one of " + ", ".join(metric_names()), found=repr(name), cure=suggest(name, _BUILDERS).strip())
    return _BUILDERS[name](Head(num_classes=num_classes, background=background))
