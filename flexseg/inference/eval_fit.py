"""The Splitter of `input.eval_fit`.

splitter = splitter_for(settings, size=(512, 512))
"""

from flexseg.data.settings import InputSettings
from flexseg.inference.splitter import Splitter
from flexseg.inference.whole_case import Pad, Resize


def splitter_for(settings: InputSettings, *, size: tuple[int, int]) -> Splitter:
    """Makes the Splitter for a network of input `size` = (height, width)."""
    return {"resize": Resize, "pad": Pad}[settings.evaluation_fit](size)
