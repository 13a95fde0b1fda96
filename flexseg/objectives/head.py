"""Head: the classes of the segmentation head: number of logits and background class.

    Head(num_classes=1, background=0).foreground      # (1,): one sigmoid logit, class ids 0 and 1
    Head(num_classes=6, background=5).foreground      # (0, 1, 2, 3, 4)
    Head(num_classes=3, background=None).foreground   # (0, 1, 2): no class is background

A head has one sigmoid logit or softmax logits; there is no multi-label form.
"""

from dataclasses import dataclass

from flexseg.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Head:
    """Channels of the logits and background class.

    Args:
      num_classes: channels of the logits, K: 1 for a sigmoid with two classes, 2 to 255 for a softmax over all classes.
      background: class id that foreground losses and metrics exclude; None if every class is foreground.

    Raises:
      UserError: a value out of range.
    """

    num_classes: int
    background: int | None

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= 255:
            raise UserError("num_classes", expected="1 to 255 (255 itself is the id of ignored pixels)", found=str(self.num_classes))
        if self.background is not None and not 0 <= self.background < self.class_count:
            raise UserError("background", expected=f"a class id from 0 to {self.class_count - 1}, or None", found=str(self.background))

    @property
    def class_count(self) -> int:
        """Number of class ids: K, or 2 for one sigmoid logit."""
        return max(2, self.num_classes)

    @property
    def foreground(self) -> tuple[int, ...]:
        """Class ids without the background."""
        return tuple(c for c in range(self.class_count) if c != self.background)

    def check_weights(self, class_weights: tuple[float, ...] | None) -> None:
        """Raises a UserError unless there is one class weight per class id."""
        if class_weights is not None and len(class_weights) != self.class_count:
            raise UserError("objective.class_weights", expected=f"{self.class_count} weights, one for each class id",
                            found=f"{len(class_weights)}: {class_weights}")  # fmt: skip
