"""Head: what a loss must know of the model's last layer and of the dataset's classes.

Usage:
    Head(num_classes=1, background=0).foreground      # (1,): one sigmoid logit, ids 0 and 1
    Head(num_classes=6, background=5).foreground      # (0, 1, 2, 3, 4)
    Head(num_classes=3, background=None).foreground   # (0, 1, 2): no class is background
"""

from dataclasses import dataclass

from flexseg.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Head:
    """The channels of the logits and the class that is background.

    Args:
      num_classes: channels of the logits, K. 1 is the sigmoid form of a two-class task, 2 to 255 a softmax over all classes.
      background: the class id that foreground scores leave out; None where every class is foreground.

    Raises:
      UserError: for a number of channels or a background class that cannot be.
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
        """Number of class ids: K, but 2 for the one logit of the sigmoid form."""
        return max(2, self.num_classes)

    @property
    def foreground(self) -> tuple[int, ...]:
        """Ids of all classes but the background."""
        return tuple(c for c in range(self.class_count) if c != self.background)

    def check_weights(self, class_weights: tuple[float, ...] | None) -> None:
        """Refuses class weights that are not one for each class id, with a UserError."""
        if class_weights is not None and len(class_weights) != self.class_count:
            raise UserError("objective.class_weights", expected=f"{self.class_count} weights, one for each class id",
                            found=f"{len(class_weights)}: {class_weights}")  # fmt: skip
