"""The reference's losses (the published sarah-antillia experiments) with its names and values, for comparison.

    objective.loss = "bce_dice_loss"
    objective.reduction = "batch"

With `objective.reduction = "batch"` the values are the reference's: the overlap is that of the flattened global batch. With "example" the same
formula is applied to each example. With one logit, y is (id == 1). With K >= 2 channels all channels are pooled, background included, as in the
reference with one-hot masks.

Differences from the reference: IoU is 1 on 0/0, not NaN; cross-entropies are not clipped (see pixel_losses); ignored pixels are left out, for SSIM by
setting truth and prediction to 0.
"""

from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss, combined, mean_of_examples
from flexseg.objectives.overlap import dice, iou, pooled_overlap
from flexseg.objectives.pixel_losses import binary_crossentropy
from flexseg.objectives.ssim import ssim

__all__ = ["dice_loss", "dice_loss_multiclass", "iou_loss", "jacard_loss", "ssim_loss", "bce_dice_loss", "bce_iou_loss", "basnet_hybrid_loss"]


def dice_loss(head: Head) -> Loss:
    """Dice loss: 1 - (2 I + 1) / (T + P + 1)."""
    return Loss(name="dice_loss", size=3, sums=pooled_overlap, value=lambda overlap: 1.0 - dice(overlap))


def iou_loss(head: Head) -> Loss:
    """IoU (Jaccard) loss: 1 - I / (T + P - I); 0 on 0/0."""
    return Loss(name="iou_loss", size=3, sums=pooled_overlap, value=lambda overlap: 1.0 - iou(overlap))


def jacard_loss(head: Head) -> Loss:
    """`iou_loss` under the reference's second name, in its spelling."""
    return iou_loss(head)


def ssim_loss(head: Head) -> Loss:
    """SSIM loss: 1 - structural similarity, mean over examples. Images have at least 11 x 11 pixels."""
    return mean_of_examples("ssim_loss", lambda pixels: ssim(pixels.truth, pixels.p))


def dice_loss_multiclass(head: Head) -> Loss:
    """1 - (2 I + 1) / (T + P + 1) of the pooled channels, mean over examples. Not a Dice loss per class: see `dice_coef_multiclass`."""
    return mean_of_examples("dice_loss_multiclass", lambda pixels: dice(pooled_overlap(pixels)))


def bce_dice_loss(head: Head) -> Loss:
    """(binary_crossentropy + dice_loss) / 2."""
    return combined("bce_dice_loss", (1 / 2, binary_crossentropy(head)), (1 / 2, dice_loss(head)))


def bce_iou_loss(head: Head) -> Loss:
    """(binary_crossentropy + iou_loss) / 2."""
    return combined("bce_iou_loss", (1 / 2, binary_crossentropy(head)), (1 / 2, iou_loss(head)))


def basnet_hybrid_loss(head: Head) -> Loss:
    """(binary_crossentropy + ssim_loss + jacard_loss) / 3 (Qin et al. 2019, BASNet, without its deep supervision)."""
    return combined("basnet_hybrid_loss", (1 / 3, binary_crossentropy(head)), (1 / 3, ssim_loss(head)), (1 / 3, jacard_loss(head)))
