"""Metrics by name: `mean_foreground_dice`, and the reference's metrics with its values.

    metric_named("mean_foreground_dice", num_classes=6, background=5)
    metric_named("sensitivity", num_classes=1, background=0)

Training computes them at the network's input size. flexseg.evaluation computes the reported scores per case, group and class, at each case's own
size.

A custom metric is registered in a module named with `--user_module`: `@register_metric def my_score(head): return Metric(name="my_score", ...)`.
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
    """Mean Dice: 2 I / (T + P) of the predicted class ids, mean over the foreground classes of an example, then over examples.

    Left out: classes that are in neither truth nor prediction, and examples without any class that is left.
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
    """Soft Dice coefficient: (2 I + 1) / (T + P + 1), over the flattened batch and all channels."""
    note = _flattens("dice_coef") if head.num_classes == 1 else _pools_all_channels("dice_coef")
    return Metric(name="dice_coef", size=3, example_sums=pooled_overlap, value=dice, batch_dependent=True, note=note)


def iou_coef(head: Head) -> Metric:
    """Soft IoU: I / (T + P - I), over the flattened batch and all channels; 1 on 0/0, where the reference gives NaN."""
    note = _flattens("iou_coef") if head.num_classes == 1 else _pools_all_channels("iou_coef")
    return Metric(name="iou_coef", size=3, example_sums=pooled_overlap, value=iou, batch_dependent=True, note=note)


def jacard_similarity(head: Head) -> Metric:
    """`iou_coef` under the reference's second name."""
    note = _flattens("jacard_similarity") if head.num_classes == 1 else _pools_all_channels("jacard_similarity")
    return Metric(name="jacard_similarity", size=3, example_sums=pooled_overlap, value=iou, batch_dependent=True, note=note)


def sensitivity(head: Head) -> Metric:
    """Sensitivity (recall): pixels with truth 1 and p > 1/2, divided by pixels with truth 1 (+ 1e-7), over the flattened batch and all channels."""

    def example_sums(pixels: Pixels) -> tf.Tensor:
        return tf.stack([sum_pixels(tf.round(pixels.truth * pixels.p)), sum_pixels(pixels.truth)], axis=-1)

    return Metric(name="sensitivity", size=2, example_sums=example_sums, value=_ratio_with_epsilon, batch_dependent=True)


def specificity(head: Head) -> Metric:
    """Specificity: pixels with truth 0 and p < 1/2, divided by pixels with truth 0 (+ 1e-7), over the flattened batch and all channels."""

    def example_sums(pixels: Pixels) -> tf.Tensor:
        negative = pixels.valid - pixels.truth
        return tf.stack([sum_pixels(tf.round(negative * (1.0 - pixels.p))), sum_pixels(negative)], axis=-1)

    return Metric(name="specificity", size=2, example_sums=example_sums, value=_ratio_with_epsilon, batch_dependent=True)


def dice_coef_multiclass(head: Head) -> Metric:
    """Soft Dice (2 I + 1) / (T + P + 1) of the pooled channels of an example, mean over examples."""
    note = ""
    if head.num_classes > 1:
        note = (
            "dice_coef_multiclass is no Dice: background included, it equals the mean softmax probability of the true class, a soft pixel accuracy, "
            "and scores high where everything is called background."
        )
    return Metric(name="dice_coef_multiclass", size=2, value=_ratio, note=note,
                  example_sums=lambda pixels: example_terms(dice(pooled_overlap(pixels)), pixels))  # fmt: skip


def binary_accuracy(head: Head) -> Metric:
    """Keras's binary accuracy: fraction of pixels and channels where (p > 1/2) equals the truth."""

    def correct(pixels: Pixels) -> tf.Tensor:
        is_right = tf.cast((pixels.p > 0.5) == (pixels.truth > 0.5), pixels.dtype)
        return tf.reduce_mean(is_right, axis=-1, keepdims=True) * pixels.valid

    return _pixel_accuracy("binary_accuracy", correct)


def categorical_accuracy(head: Head) -> Metric:
    """Keras's categorical accuracy: fraction of pixels whose most probable class is the true class.

    Raises:
      UserError: one sigmoid logit, for which Keras's formula is always 1.
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
    """The names of all metrics, sorted."""
    return tuple(sorted(_BUILDERS))


def register_metric(builder: Callable[[Head], Metric]) -> Callable[[Head], Metric]:
    """Decorator that registers a function `(head: Head) -> Metric` under its name. Raises a UserError if the name exists."""
    name = builder.__name__
    if name in _BUILDERS:
        raise UserError(f"metric {name!r}", expected="a name that no other metric has", found="one of flexseg's names", cure="rename the function")
    _BUILDERS[name] = builder
    return builder


def metric_named(name: str, *, num_classes: int, background: int | None) -> Metric:
    """Makes a metric by name.

    Args:
      name: one of `metric_names()`.
      num_classes: channels of the logits; 1 for the sigmoid form.
      background: id of the background class, or None.

    Raises:
      UserError: an unknown name, or a metric that is not defined for this head.
    """
    if name not in _BUILDERS:
        raise UserError("train.metrics", expected="one of " + ", ".join(metric_names()), found=repr(name), cure=suggest(name, _BUILDERS).strip())
    return _BUILDERS[name](Head(num_classes=num_classes, background=background))
