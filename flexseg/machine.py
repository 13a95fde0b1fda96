"""What this machine's CPU does best. Whether TensorFlow's CPU kernels come from oneDNN is decided before TensorFlow is imported.

    choose_onednn(recorded=None)      # sets TF_ENABLE_ONEDNN_OPTS, which TensorFlow reads once, when it is imported
    import tensorflow
    onednn_in_use()                   # True

TensorFlow's Linux wheels hold oneDNN's kernels and leave them off on x86 CPUs without AVX-512 VNNI, AVX-512 BF16, AVX-VNNI or AMX. They need AVX2
alone, and are faster with it than what TensorFlow takes instead (figures in docs/measurements.md). They round differently, so a run keeps what it was
begun with.
"""

import os
import platform
import sys
from pathlib import Path

from flexseg.errors import UserError

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# DefaultOneDnnPolicy() in tensorflow/core/util/port.cc, TensorFlow 2.21; in the words of /proc/cpuinfo.
_ON_BY_DEFAULT = frozenset({"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"})
_VALUES = {"1": True, "true": True, "0": False, "false": False}  # ReadBoolFromEnvVar in tsl/util/env_var.cc


def choose_onednn(*, recorded: bool | None = None) -> bool:
    """Sets TF_ENABLE_ONEDNN_OPTS, where the user has not set it and TensorFlow is not imported yet.

    Args:
      recorded: what the run at hand was begun with; None for a new run.

    Returns:
      Whether it set the variable, which then is not the user's.

    Raises:
      UserError: where the variable holds what TensorFlow does not read.
    """
    wanted = wanted_onednn(recorded=recorded)
    if wanted is None or VARIABLE in os.environ or "tensorflow" in sys.modules:
        return False
    os.environ[VARIABLE] = str(int(wanted))
    return True


def wanted_onednn(*, recorded: bool | None = None) -> bool | None:
    """The user's variable; else what was recorded; else on where the CPU has AVX2; else None: TensorFlow decides."""
    if VARIABLE in os.environ:
        value = os.environ[VARIABLE].lower()
        if value not in _VALUES:
            raise UserError(VARIABLE, expected="0 or 1", found=repr(value), cure=f"unset {VARIABLE}, or {VARIABLE}=1")
        return _VALUES[value]
    if recorded is not None:
        return recorded
    return True if "avx2" in cpu_flags() else None


def onednn_by_default() -> bool | None:
    """What TensorFlow decides by itself on this x86 CPU, None on others; with it ran all runs that recorded nothing."""
    return not _ON_BY_DEFAULT.isdisjoint(cpu_flags()) if cpu_flags() else None


def onednn_in_use() -> bool:
    """Whether the TensorFlow of this process, which must be imported, takes oneDNN's kernels.

    No public function tells; this one stands behind `tf.test`'s own checks.
    """
    return sys.modules["tensorflow.python.util._pywrap_util_port"].IsMklEnabled()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of an x86 CPU, as Linux names them; empty elsewhere."""
    return frozenset(_cpu_table().get("flags", "").split()) if platform.machine() == "x86_64" else frozenset()


def cpu_description() -> str:
    """Model, logical CPUs and what matters of the instruction sets, for a bug report."""
    kinds = sorted(flag for flag in cpu_flags() if flag == "avx2" or flag in _ON_BY_DEFAULT)
    name = _cpu_table().get("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical CPUs, {' '.join(kinds) or 'no AVX2'}"


def onednn_description() -> str:
    """Whether a new run would take oneDNN's kernels, and who says so."""
    try:
        wanted = wanted_onednn()
    except UserError as error:
        return str(error)
    why = f"{VARIABLE}={os.environ[VARIABLE]}" if VARIABLE in os.environ else "this CPU has AVX2" if wanted else "TensorFlow decides"
    return f"{'on' if wanted else 'off' if wanted is False else 'not decided'} ({why})"


def _cpu_table() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
