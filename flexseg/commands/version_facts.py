"""Collects the facts that `flexseg --version` prints for bug reports. TensorFlow is not imported, because its import may be what fails."""

import platform
import subprocess
import sys
from importlib import metadata

from flexseg import machine

PACKAGES = ("tensorflow", "keras", "tensorboard", "tensorflow-datasets", "numpy", "gin-config", "absl-py", "opencv-python-headless", "pillow", "h5py")
_SECONDS = 10.0  # nvidia-smi hangs if the driver does


def version_facts() -> dict[str, str]:
    """{name: value} for flexseg, Python, system, libraries, CPU, GPUs, oneDNN."""
    return {
        "flexseg": metadata.version("flexseg"),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "libraries": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "cpu": machine.cpu_description(),
        "gpus": _gpus(),
        "onednn": machine.onednn_description(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _gpus() -> str:
    """The GPUs that the NVIDIA driver lists; `flexseg train --dry_run` shows whether TensorFlow can use them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except FileNotFoundError:
        return "none (no nvidia-smi)"
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown (nvidia-smi: {error})"
    return "; ".join(listed.splitlines()) or "none"
