"""Export the images of a split of a built dataset as PNG files, which `flexseg predict` reads.

    python -m flexseg.launch.export_images --dataset=synthetic_nuclei --data_dir=data --split=test --output=folder

Writes the stored bytes of each image to folder/<case>.png. Images stored as JPEG are refused. Made for the
quickstart; a dataset built from a folder has its images there.
"""

import argparse
import os
import sys
from pathlib import Path

from flexseg.commands.quiet import hide_gpus, load_tensorflow
from flexseg.errors import UserError


def export_images(*, dataset: str, data_dir: str, split: str, output: str) -> int:
    """Writes the images and returns their number.

    Raises:
      UserError: there is no such dataset.
      ValueError: an image is no PNG.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    load_tensorflow()
    import tensorflow as tf

    from flexseg.data.dataset import open_dataset
    from flexseg.files.atomic import replace_file
    from flexseg.files.names import below

    # Not by TFDS: it imports the classes that a dataset's features.json names.
    built = open_dataset(dataset, data_dir)
    table, records = built.table(split), built.records(split)
    with built.naming_damage(split):
        for index, case in enumerate(table.case_id):
            record = tf.io.parse_single_example(records.read(tf.constant(index, tf.int64)), {"image": tf.io.FixedLenFeature([], tf.string)})
            image = record["image"].numpy()
            if not image.startswith(b"\x89PNG"):
                raise ValueError(f"case {case} is no PNG")
            replace_file(below(Path(output), f"{case}.png"), image)
    return len(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("dataset", "data_dir", "split", "output"):
        parser.add_argument(f"--{flag}", required=True)
    arguments = vars(parser.parse_args())
    hide_gpus()
    try:
        written = export_images(**arguments)
    except UserError as error:
        sys.exit(f"export_images: {error}")
    print(f"{written} images written: {arguments['output']}")
