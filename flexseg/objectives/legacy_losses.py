"""The losses of the published sarah-antillia experiments, under their names and with their values, so that their numbers can be set beside ours.

With `objective.reduction = "batch"` they are the reference's: overlaps of the whole (global) batch flattened into one. With "example" the same
formula is applied to each example. With one logit y is (id == 1). With K >= 2 channels all channels are pooled, background
included, as the reference's formulas do when they meet one-hot masks.

Where we deviate: IoU on 0/0 is 1 (there NaN); cross-entropies are exact (there clipped, see pixel_losses); ignored pixels count nowhere (there
they did not exist), which for SSIM means that truth and prediction are both 0 there.
"""

from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss, combined, mean_of_examples
from flexseg.objectives.overlap import dice, iou, pooled_overlap
from flexseg.objectives.pixel_losses import binary_crossentropy
from flexseg.objectives.ssim import ssim

__all__ = ["dice_loss", "dice_loss_multiclass", "iou_loss", "jacard_loss", "ssim_loss", "bce_dice_loss", "bce_iou_loss", "basnet_hybrid_loss"]


def dice_loss(head: Head) -> Loss:
    """1 - (2 I + 1) / (T + P + 1)."""
    return Loss(name="dice_loss", size=3, sums=pooled_overlap, value=lambda overlap: 1.0 - dice(overlap))


def iou_loss(head: Head) -> Loss:
    """1 - I / (T + P - I); 0 on 0/0."""
    return Loss(name="iou_loss", size=3, sums=pooled_overlap, value=lambda overlap: 1.0 - iou(overlap))


def jacard_loss(head: Head) -> Loss:
    """The same as `iou_loss`, under the reference's other name and spelling."""
    return iou_loss(head)


def ssim_loss(head: Head) -> Loss:
    """1 - structural similarity, mean over examples. Images of at least 11 x 11 pixels."""
    return mean_of_examples("ssim_loss", lambda pixels: ssim(pixels.truth, pixels.p))


def dice_loss_multiclass(head: Head) -> Loss:
    """1 - (2 I + 1) / (T + P + 1), mean over examples. Not a Dice loss of classes: see the metric `dice_coef_multiclass`."""
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
