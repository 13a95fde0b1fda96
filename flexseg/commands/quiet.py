"""Importing TensorFlow without its remarks, with the kernels that suit this CPU, and without the GPUs where nothing is computed on them.

    leave_gpus_alone()
    load_tensorflow()

TensorFlow 2.21 writes about ten lines on oneDNN and on CUDA drivers that it did not find to standard error before its own log level
applies (tensorflow#100442). They would stand in front of everything flexseg says. When the import fails they are printed after all.
"""

import os
import sys
import tempfile

from flexseg import machine


def leave_gpus_alone() -> None:
    """For a process that is about to read or write data only: TensorFlow would take all memory of every GPU at its first operation, and so the
    GPU of a training beside it. Comes before TensorFlow is loaded."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def load_tensorflow(*, onednn: bool | None = None) -> None:
    """Imports TensorFlow and lists its devices with standard error put aside; on failure everything is shown.

    Args:
      onednn: what the run at hand was begun with, see `machine.choose_onednn`. Where TensorFlow was imported before with something else, as in a
        notebook, that is said.
    """
    machine.choose_onednn(recorded=onednn)
    if "tensorflow" in sys.modules:
        _tell_of_other_kernels(onednn)
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


def _tell_of_other_kernels(recorded: bool | None) -> None:
    wanted, in_use = machine.wanted_onednn(recorded=recorded), machine.onednn_in_use()
    if wanted is not None and wanted != in_use:
        from flexseg.console import say  # --help does without it

        words = ("without", "with")
        say(
            "warning: TensorFlow was imported before flexseg, %s oneDNN; %s it is what %s. In a new process, set %s=%d before the first import.",
            words[in_use], words[wanted], "this run was begun with" if recorded is not None else "this CPU is fastest with", machine.VARIABLE, wanted,
        )  # fmt: skip
