"""Draw a contact sheet of every augmentation, or measure CPU time per image on one thread.

    python benchmarks/augmentation_sheet.py --output=sheet.png                       # a generated tissue-like image
    python benchmarks/augmentation_sheet.py --image=slide.png --mask=mask.png --output=sheet.png
    python benchmarks/augmentation_sheet.py --time

Rows: the input, each operation alone (probability 1, default range, four positions), all together, and the defaults. The outline of the mask is
green, ignored pixels are hatched grey. `--time` prints CPU milliseconds per 512 x 512 x 3 image (median of 50) for each operation alone and for the
set in docs/measurements.md.
"""

import argparse
import time

import numpy as np
from PIL import Image

from flexseg.machine import choose_onednn

choose_onednn()

import tensorflow as tf  # noqa: E402 (it reads the variable when it is imported)

from flexseg.data.augmentation import OPERATIONS, Augment  # noqa: E402

COLUMNS = 4
TIMED = ("rotation", "scale", "shear", "elastic", "brightness", "contrast")


def only(*operations):
    """An Augment that always applies these operations, in their default range, and no others."""
    return Augment(**{f"{name}_probability": float(name in operations) for name in OPERATIONS})


def generated_case(size=512, nuclei=90, seed=0):
    """(image uint8 [size, size, 3], mask uint8 [size, size, 1]): purple discs on pink, with a lattice every 64 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for center_y, center_x, radius in zip(*rng.uniform(0, size, (2, nuclei)), rng.uniform(8, 20, nuclei), strict=True):
        mask |= (y - center_y) ** 2 + ((x - center_x) * 1.3) ** 2 <= radius**2
    image = np.where(mask[..., None], [95, 60, 140], [225, 160, 195]) + rng.normal(0, 12, (size, size, 1))
    image[(y % 64 == 0) | (x % 64 == 0)] = 60
    return np.clip(image, 0, 255).astype(np.uint8), mask[..., None].astype(np.uint8)


def read_case(image_path, mask_path):
    """(image uint8 [h, w, 3], mask uint8 [h, w, 1] of 0 and 1) from files; without a mask file, an empty mask."""
    image = np.asarray(Image.open(image_path).convert("RGB"))
    mask = np.asarray(Image.open(mask_path).convert("L"))[..., None] > 127 if mask_path else np.zeros((*image.shape[:2], 1))
    return image, mask.astype(np.uint8)


def overlay(image, mask):
    """The image with the outline of the mask in green and ignored pixels hatched."""
    import scipy.ndimage

    picture, inside = np.repeat(image, 3 // image.shape[-1], axis=-1).copy(), mask[..., 0] == 1
    picture[inside & ~scipy.ndimage.binary_erosion(inside, iterations=2, border_value=1)] = (0, 200, 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    picture[(mask[..., 0] == 255) & ((y + x) % 12 < 3)] = 128
    return picture


def write_sheet(image, mask, output, seed):
    """Draws every operation, one row each, at several positions of the stream."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = [("input", only())] + [(name, only(name)) for name in OPERATIONS] + [("all together", only(*OPERATIONS)), ("the defaults", Augment())]
    figure, axes = plt.subplots(len(rows), COLUMNS, figsize=(3 * COLUMNS, 3 * len(rows)), layout="constrained")
    for (label, augment), line in zip(rows, axes, strict=True):
        for position, axis in enumerate(line):
            new = augment(tf.constant(image), tf.constant(mask), seed=seed, position=tf.constant(position, tf.int64))
            axis.imshow(overlay(*(array.numpy() for array in new)))
            axis.set_title(f"{label}, position {position}", fontsize=10)
            axis.axis("off")
    figure.savefig(output, dpi=100)
    print(f"wrote {output}")


def print_times(image, mask, repeats=50):
    """Prints CPU milliseconds per image, for each operation and together."""
    together = {" + ".join(TIMED): only(*TIMED), "all": only(*OPERATIONS), "the defaults": Augment()}
    for label, augment in ({name: only(name) for name in OPERATIONS} | together).items():
        graph = tf.function(lambda position, augment=augment: augment(image, mask, seed=0, position=position))
        milliseconds = []
        for position in range(-3, repeats):
            start = time.process_time()
            graph(tf.constant(position, tf.int64))
            milliseconds.append(1e3 * (time.process_time() - start))
        # The mean for the defaults, with which the operations vary by image.
        typical = np.mean(milliseconds[3:]) if label == "the defaults" else np.median(milliseconds[3:])
        print(f"{label:60s} {typical:7.2f} ms  {1e3 / typical:7.1f} images/s on one thread")


def main():
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", help="an RGB image; default: a generated one")
    parser.add_argument("--mask", help="its mask, above 127 is foreground")
    parser.add_argument("--output", default="augmentation_sheet.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", action="store_true", help="measure instead of drawing")
    flags = parser.parse_args()
    image, mask = read_case(flags.image, flags.mask) if flags.image else generated_case()
    if flags.time:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        print_times(tf.constant(image), tf.constant(mask))
    else:
        write_sheet(image, mask, flags.output, flags.seed)


if __name__ == "__main__":
    main()
