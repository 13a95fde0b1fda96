"""Importing TensorFlow without its remarks, with the kernels that suit this CPU, and without the GPUs where nothing is computed on them.

    leave_gpus_alone()
    load_tensorflow()

TensorFlow 2.21 writes about ten lines on oneDNN and on CUDA drivers that it did not find to standard error before its own log level
applies (tensorflow#100442). They would stand in front of everything flexseg says. When the import fails they are printed after all.
"""

import functools
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
    chosen_here = machine.choose_onednn(recorded=onednn)
    if "tensorflow" in sys.modules:
        _tell_of_other_kernels(machine.wanted_onednn(recorded=onednn), machine.onednn_in_use(), of_a_run=onednn is not None)
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
            if chosen_here:  # the next run in this process may want something else
                del os.environ[machine.VARIABLE]


@functools.cache  # a notebook is told once
def _tell_of_other_kernels(wanted: bool | None, in_use: bool, *, of_a_run: bool) -> None:
    if wanted is not None and wanted != in_use:
        from flexseg.console import say  # --help does without it

        words = ("without", "with")
        reason = f"this run was trained {words[wanted]} it" if of_a_run else f"on this CPU it is faster {words[wanted]} it"
        again = f"Start a new one, with {machine.VARIABLE}={wanted:d} before the import."
        say("warning: TensorFlow was imported in this process %s oneDNN; %s. %s", words[in_use], reason, again)
