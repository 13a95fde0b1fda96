"""flexseg: from folders of images and masks to trained, evaluated segmentation models.

    import flexseg
    flexseg.build(dataset="image_mask_folder", name="my_set", source="photos", data_dir="data")
    flexseg.train(dataset="my_set", data_dir="data", workdir="runs/first")

Each function has the flags of the command of the same name as keyword arguments. TensorFlow is imported by the first call, not by `import flexseg`.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("import_config", "check", "derive", "build", "train", "evaluate", "predict"):
        return importlib.import_module(f"flexseg.commands.{name}").run
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("flexseg")
    raise AttributeError(f"module 'flexseg' has no attribute {name!r}")
