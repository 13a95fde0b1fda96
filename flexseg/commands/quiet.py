"""Importing TensorFlow without its remarks, and without the GPUs where nothing is computed on them.

    leave_gpus_alone()
    load_tensorflow()

TensorFlow 2.21 writes about ten lines on oneDNN and on CUDA drivers that it did not find to standard error before its own log level
applies (tensorflow#100442). They would stand in front of everything flexseg says. When the import fails they are printed after all.
"""

import os
import sys
import tempfile


def leave_gpus_alone() -> None:
    """For a process that is about to read or write data only: TensorFlow would take all memory of every GPU at its first operation, and so the
    GPU of a training beside it. Comes before TensorFlow is loaded."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def load_tensorflow() -> None:
    """Imports TensorFlow and lists its devices with standard error put aside; on failure everything is shown."""
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
