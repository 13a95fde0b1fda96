"""Selects TensorFlow's CPU kernels, oneDNN or Eigen, before TensorFlow is imported.

    choose_onednn(recorded=None)      # sets TF_ENABLE_ONEDNN_OPTS, which TensorFlow reads at import
    import tensorflow
    onednn_in_use()                   # True

TensorFlow's Linux wheels contain oneDNN but disable it on x86 CPUs without AVX-512 VNNI, AVX-512 BF16, AVX-VNNI or AMX. It needs only AVX2, and is
faster there than the default kernels (docs/measurements.md). The kernels round differently, so a run keeps its initial setting.
"""

import os
import platform
import sys
from pathlib import Path

from flexseg.errors import UserError

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# DefaultOneDnnPolicy() in tensorflow/core/util/port.cc, TensorFlow 2.21; names of /proc/cpuinfo.
_ON_BY_DEFAULT = frozenset({"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"})
_VALUES = {"1": True, "true": True, "0": False, "false": False}  # ReadBoolFromEnvVar in tsl/util/env_var.cc


def choose_onednn(*, recorded: bool | None = None) -> bool:
    """Sets TF_ENABLE_ONEDNN_OPTS, unless the user has set it or TensorFlow is already imported.

    Args:
      recorded: the setting of the run to resume; None for a new run.

    Returns:
      Whether it set the variable.

    Raises:
      UserError: the variable has a value that TensorFlow does not accept.
    """
    wanted = wanted_onednn(recorded=recorded)
    if wanted is None or VARIABLE in os.environ or "tensorflow" in sys.modules:
        return False
    os.environ[VARIABLE] = str(int(wanted))
    return True


def wanted_onednn(*, recorded: bool | None = None) -> bool | None:
    """The user's variable; else `recorded`; else True if the CPU has AVX2; else None (TensorFlow decides)."""
    if VARIABLE in os.environ:
        value = os.environ[VARIABLE].lower()
        if value not in _VALUES:
            raise UserError(VARIABLE, expected="0 or 1", found=repr(value), cure=f"unset {VARIABLE}, or {VARIABLE}=1")
        return _VALUES[value]
    if recorded is not None:
        return recorded
    return True if "avx2" in cpu_flags() else None


def onednn_by_default() -> bool | None:
    """TensorFlow's default on this x86 CPU, None on others; runs without a record used it."""
    return not _ON_BY_DEFAULT.isdisjoint(cpu_flags()) if cpu_flags() else None


def onednn_in_use() -> bool:
    """Whether TensorFlow, which must be imported, uses oneDNN's kernels.

    There is no public function; `tf.test` uses this one.
    """
    return sys.modules["tensorflow.python.util._pywrap_util_port"].IsMklEnabled()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of an x86 CPU, by their Linux names; empty elsewhere."""
    return frozenset(_cpu_table().get("flags", "").split()) if platform.machine() == "x86_64" else frozenset()


def cpu_description() -> str:
    """Model, logical CPUs and relevant instruction sets, for a bug report."""
    kinds = sorted(flag for flag in cpu_flags() if flag == "avx2" or flag in _ON_BY_DEFAULT)
    name = _cpu_table().get("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical CPUs, {' '.join(kinds) or 'no AVX2'}"


def onednn_description() -> str:
    """Whether a new run would use oneDNN's kernels, and the reason."""
    try:
        wanted = wanted_onednn()
    except UserError as error:
        return str(error)
    why = f"{VARIABLE}={os.environ[VARIABLE]}" if VARIABLE in os.environ else "this CPU has AVX2" if wanted else "TensorFlow decides"
    return f"{'on' if wanted else 'off' if wanted is False else 'not decided'} ({why})"


def _cpu_table() -> dict[str, str]:
    """The first processor in /proc/cpuinfo; empty if the file does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
