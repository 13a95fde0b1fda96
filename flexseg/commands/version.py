"""What `flexseg --version` prints: everything about this machine that a bug report needs. TensorFlow is not imported, since it may be what fails."""

import platform
import subprocess
import sys
from importlib import metadata

from flexseg import machine

PACKAGES = ("tensorflow", "keras", "tensorboard", "tensorflow-datasets", "numpy", "gin-config", "absl-py", "opencv-python-headless", "pillow", "h5py")
_SECONDS = 10.0  # for nvidia-smi, which hangs where a driver does


def version_facts() -> dict[str, str]:
    """Name -> value: flexseg, Python, system, libraries, CPU, GPUs, oneDNN."""
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
    """What the NVIDIA driver lists; whether TensorFlow can use them, `flexseg train --dry_run` tells."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except FileNotFoundError:
        return "none (no nvidia-smi)"
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown (nvidia-smi: {error})"
    return "; ".join(listed.splitlines()) or "none"
