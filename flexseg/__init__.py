"""flexseg: from folders of images and masks to trained, evaluated segmentation models.

    import flexseg
    flexseg.build(dataset="image_mask_folder", name="my_set", source="photos", data_dir="data")
    flexseg.train(dataset="my_set", data_dir="data", workdir="runs/first")

Each function has the flags of the command of the same name as keyword arguments. TensorFlow is imported by the first call, not by `import flexseg`.
"""

import importlib.util
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("flexseg")
    is_room = importlib.util.find_spec(f"flexseg.{name}") is not None  # flexseg.models is the package, not the command
    if not is_room and name in importlib.import_module("flexseg.commands.dispatcher").commands():
        return importlib.import_module(f"flexseg.commands.{name}").run
    raise AttributeError(f"module 'flexseg' has no attribute {name!r}")
