"""Mixed precision and XLA: resolves `auto` for this machine.

    policy = resolve_precision("auto", on_gpu=False)      # "mixed_bfloat16" on a CPU with AVX-512 BF16
    with precision_scope(policy):
        model = build_model(...)

`auto` reads hardware features and measures nothing.
"""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.machine import cpu_flags


def resolve_precision(setting: str, *, on_gpu: bool) -> str:
    """The Keras dtype policy for `train.precision`.

    `auto` is mixed_bfloat16 with hardware support (compute capability 8.0; AVX-512 BF16 or AMX on CPUs), else mixed_float16 from compute capability
    7.0 on, else float32.
    """
    if setting != "auto":
        return setting
    if on_gpu:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
        capability = min(detail.get("compute_capability", (0, 0)) for detail in details)
        return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "float32"


def resolve_xla(setting: str, *, on_gpu: bool, excluded_by: list[str]) -> bool:
    """Whether to compile the step with XLA.

    Args:
      setting: `train.xla`.
      on_gpu: `auto` compiles on GPUs only; on CPUs oneDNN is faster.
      excluded_by: names of the settings that XLA does not support.

    Raises:
      UserError: `on` together with such a setting.
    """
    if setting == "on" and excluded_by:
        raise UserError(
            "train.xla", expected=f"'auto' or 'off' with {' and '.join(excluded_by)}", found="'on'", cure="--gin_param=\"train.xla='auto'\""
        )
    return setting == "on" or (setting == "auto" and on_gpu and not excluded_by)


@contextlib.contextmanager
def precision_scope(policy: str) -> Iterator[None]:
    """Sets Keras's global dtype policy and floatx for models made inside, and restores both."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
