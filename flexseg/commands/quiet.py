"""Imports TensorFlow without its startup messages, with the CPU kernels that suit this machine, and optionally without GPUs.

    hide_gpus()
    load_tensorflow()

Before its own log level applies, TensorFlow 2.21 writes about ten lines on oneDNN and missing CUDA drivers to standard error (tensorflow#100442).
They are discarded, or printed if the import fails.
"""

import functools
import os
import sys
import tempfile

from flexseg import machine


def hide_gpus() -> None:
    """Hides the GPUs from TensorFlow; call it before the import.

    For a process that only reads or writes data: its first operation would reserve all memory of every GPU, also of one that is training.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def load_tensorflow(*, onednn: bool | None = None) -> None:
    """Imports TensorFlow and lists its devices, with standard error hidden unless that fails.

    Args:
      onednn: whether the run was started with oneDNN, see `machine.choose_onednn`. If TensorFlow was already imported with the other setting, as in a
        notebook, a warning is printed.
    """
    chosen_here = machine.choose_onednn(recorded=onednn)
    if "tensorflow" in sys.modules:
        _tell_of_other_kernels(machine.wanted_onednn(recorded=onednn), machine.onednn_in_use(), of_a_run=onednn is not None)
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            aside.seek(0)
            os.write(stderr, aside.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if chosen_here:  # the next run in this process may need the other setting
                del os.environ[machine.VARIABLE]


@functools.cache  # one warning per process
def _tell_of_other_kernels(wanted: bool | None, in_use: bool, *, of_a_run: bool) -> None:
    if wanted is not None and wanted != in_use:
        from flexseg.console import say  # not needed by --help

        words = ("without", "with")
        reason = f"this run was trained {words[wanted]} it" if of_a_run else f"on this CPU it is faster {words[wanted]} it"
        again = f"Start a new one, with {machine.VARIABLE}={wanted:d} before the import."
        say("warning: TensorFlow was imported in this process %s oneDNN; %s. %s", words[in_use], reason, again)
