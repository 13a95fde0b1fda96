"""The rules of DESIGN.md that a reader of the code may rely on: who imports whom, and what appears nowhere.

Each rule is a small function `tree -> list of complaints`, and each has a source below it that it must complain about.
"""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (  # a room imports only from itself and from what stands before it
    "errors", "machine", "user_modules", "console", "configs", "files", "datasets", "data", "models", "objectives", "distribution", "inference", "evaluation", "training",
    "annotations", "configure", "commands", "launch",
)  # fmt: skip
NO_TENSORFLOW = (
    "__init__",
    "errors",
    "machine",
    "user_modules",
    "console",
    "configs",
    "files",
    "annotations",
    "configure",
)  # anywhere; in commands only inside functions
HEAVY = ("tensorflow", "keras", "tensorflow_datasets")
LIGHT_ROOMS = ("errors", "machine", "user_modules", "configure", "commands")  # what a command may import at its head, so that --help comes at once


def room_of(path: Path) -> str:
    """`flexseg/data/stream.py` -> data, `datasets/tnbc/tnbc.py` -> datasets, `flexseg/errors.py` -> errors."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "flexseg" else parts[0]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("flexseg", "datasets", "configs", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_bytes(), filename=str(path))


def dotted(node: ast.AST) -> str:
    """`tf.distribute.Strategy` for that chain of attributes, "" for anything that does not start with a name."""
    if isinstance(node, ast.Attribute):
        return f"{inner}.{node.attr}" if (inner := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def imports(tree: ast.AST, module_level_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from a import b` counts as a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)
        elif not (module_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from imports(node, module_level_only)


# The rules


def order_complaints(tree: ast.Module, room: str) -> list[str]:
    """Imports against the order of the rooms; `configure` is for commands alone; relative imports would hide the room."""
    found = []
    for line, name in imports(tree):
        top, other, *_ = f"{name}.".split(".")
        if name.startswith("."):
            found.append(f"{line}: relative import {name}")
        elif top == "flexseg" and other in ROOMS:
            allowed = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ("errors",)
            if other not in allowed or (other == "configure" and room not in ("commands", "configure")):
                found.append(f"{line}: {room} imports {name}")
    return found


def tensorflow_complaints(tree: ast.Module, room: str) -> list[str]:
    """TensorFlow where it must not be, and rooms that would bring it at the head of a command (a module with a `main`)."""
    found = []
    is_command = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    if room in NO_TENSORFLOW or room == "commands":
        for line, name in imports(tree, module_level_only=room == "commands"):
            top, other, *_ = f"{name}.".split(".")
            if top in HEAVY:
                found.append(f"{line}: {room} imports {name}")
            elif room == "commands" and is_command and top == "flexseg" and other in ROOMS and other not in LIGHT_ROOMS:
                found.append(f"{line}: {room} imports {name} outside a function")
    return found


def distribute_complaints(tree: ast.Module, room: str) -> list[str]:
    """tf.distribute outside distribution/."""
    if room == "distribution":
        return []
    found = [f"{line}: imports {name}" for line, name in imports(tree) if name.startswith("tensorflow.") and "distribute" in name.split(".")]
    return found + [f"{node.lineno}: {dotted(node)}" for node in ast.walk(tree) if dotted(node) in ("tf.distribute", "tensorflow.distribute")]


def gin_complaints(tree: ast.Module, room: str) -> list[str]:
    """gin outside configure.py other than `import gin`, `@gin.configurable(...)` and `gin.REQUIRED`; and on Keras classes (it crashes)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(dotted(part).startswith("gin.") for d in node.decorator_list for part in ast.walk(d)):
            bases = [dotted(base).split(".") for base in node.bases]
            if any({"keras", "layers"} & set(base) or base[-1] in ("Layer", "Model", "Sequential") for base in bases):
                found.append(f"{node.lineno}: gin on the Keras class {node.name}")
    if room == "configure":
        return found
    decorators = {id(d.func) for node in ast.walk(tree) for d in getattr(node, "decorator_list", []) if isinstance(d, ast.Call)}
    modules = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] == "gin" and (a.name != "gin" or a.asname)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gin":
            found.append(f"{node.lineno}: from {node.module} import")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gin":
            if node.attr != "REQUIRED" and not (node.attr == "configurable" and id(node) in decorators):
                found.append(f"{node.lineno}: {dotted(node)}")
        elif isinstance(node, ast.Name) and node.id == "gin" and id(node) not in modules:
            found.append(f"{node.lineno}: gin handed on")
    return found


def danger_complaints(tree: ast.Module, room: str) -> list[str]:
    """What executes code that came with data: pickle and its kin, eval, exec, os.system, yaml.load, loading of whole models."""
    modules = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
    names = ("os.system", "os.popen", "yaml.load", "saved_model.load", "load_model", "models.load_model", "enable_unsafe_deserialization")
    found = [f"{line}: imports {name}" for line, name in imports(tree) if name.split(".")[0] in modules]
    found += [f"{line}: imports {name}" for line, name in imports(tree) if any(f".{name}".endswith(f".{bad}") for bad in names)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("eval", "exec"):
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.Attribute) and any(f".{dotted(node)}".endswith(f".{bad}") for bad in names):
            found.append(f"{node.lineno}: {dotted(node)}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(f"{node.lineno}: allow_pickle")
    return found


RULES = (order_complaints, tensorflow_complaints, distribute_complaints, gin_complaints, danger_complaints)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_complaints"))
def test_the_code_keeps_the_rule(rule):
    found = [f"{path.relative_to(ROOT)}:{complaint}" for path, tree in sources() for complaint in rule(tree, room_of(path))]
    assert not found, "\n".join(found)


def test_every_file_lies_in_a_room():
    assert {room_of(path) for path, _ in sources()} <= {*ROOMS, "__init__"}


# Each rule can fail


@pytest.mark.parametrize(
    ("rule", "room", "source"),
    [
        (order_complaints, "files", "from flexseg.data import stream"),
        (order_complaints, "files", "from flexseg import data"),
        (order_complaints, "data", "def f():\n    import flexseg.training.trainer"),
        (order_complaints, "training", "from flexseg.configure import configure"),
        (order_complaints, "launch", "from flexseg.configure import configure"),
        (order_complaints, "training", "from flexseg.commands import train"),
        (order_complaints, "errors", "from flexseg.files import images"),
        (order_complaints, "__init__", "from flexseg.training import trainer"),
        (order_complaints, "models", "from . import blocks"),
        (tensorflow_complaints, "files", "def f():\n    import tensorflow as tf"),
        (tensorflow_complaints, "configure", "from tensorflow import io"),
        (tensorflow_complaints, "__init__", "import keras"),
        (tensorflow_complaints, "commands", "import tensorflow_datasets as tfds"),
        (tensorflow_complaints, "commands", "if True:\n    import tensorflow as tf"),
        (tensorflow_complaints, "commands", "from flexseg.training import trainer\ndef main(args): pass"),
        (tensorflow_complaints, "commands", "from flexseg.files import cases\ndef main(args): pass"),
        (distribute_complaints, "training", "import tensorflow as tf\ntf.distribute.MirroredStrategy()"),
        (distribute_complaints, "training", "from tensorflow import distribute"),
        (distribute_complaints, "data", "from tensorflow.python.distribute import values"),
        (gin_complaints, "models", "import gin\n@gin.configurable('m')\nclass M(keras.Model): pass"),
        (gin_complaints, "models", "import gin\n@gin.configurable('m')\nclass M(layers.Conv2D): pass"),
        (gin_complaints, "models", "import gin\n@gin.configurable('m')\nclass M(Layer): pass"),
        (gin_complaints, "models", "import gin\n@gin.register\ndef f(): pass"),
        (gin_complaints, "models", "import gin\n@gin.configurable\ndef f(): pass"),
        (gin_complaints, "training", "import gin\ngin.parse_config('a.b = 1')"),
        (gin_complaints, "training", "import gin\nf = gin.configurable('f')(print)"),
        (gin_complaints, "training", "import gin\nother = gin"),
        (gin_complaints, "training", "import gin as g"),
        (gin_complaints, "training", "from gin import configurable"),
        (gin_complaints, "commands", "import gin.config"),
        (danger_complaints, "files", "import pickle"),
        (danger_complaints, "files", "from joblib import load"),
        (danger_complaints, "files", "eval('1')"),
        (danger_complaints, "files", "run = exec"),
        (danger_complaints, "files", "import os\nos.system('ls')"),
        (danger_complaints, "files", "from os import system"),
        (danger_complaints, "files", "import yaml\nyaml.load(text)"),
        (danger_complaints, "inference", "model = keras.models.load_model(path)"),
        (danger_complaints, "inference", "from keras.models import load_model"),
        (danger_complaints, "inference", "model = tf.saved_model.load(path)"),
        (danger_complaints, "files", "np.load(path, allow_pickle=True)"),
        (danger_complaints, "files", "np.load(path, allow_pickle=yes)"),
    ],
)
def test_the_rule_sees_the_offence(rule, room, source):
    assert rule(ast.parse(source), room)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("training", "import flexseg\nfrom flexseg.data import stream\nfrom flexseg.errors import UserError\nfrom flexseg.training import state"),
        ("commands", "import flexseg\nfrom flexseg.configure import configure\ndef main(a):\n    import keras\n    from flexseg.data import fit"),
        ("commands", "from flexseg.training import step\ndef shared_by_commands(): pass"),
        ("distribution", "import tensorflow as tf\ntf.distribute.MirroredStrategy()"),
        ("models", "import gin\n@gin.configurable('m')\ndef m(size: int = gin.REQUIRED): return model.eval(size)"),
        ("models", "import gin\n@gin.configurable('s')\n@dataclass(frozen=True)\nclass S: pass\nclass Block(keras.layers.Layer): pass"),
        ("files", "np.load(path, allow_pickle=False)\nmodel.load_weights(path)\nyaml.safe_load(text)"),
    ],
)
def test_what_is_allowed_passes(room, source):
    assert [complaint for rule in RULES for complaint in rule(ast.parse(source), room)] == []


# What is really imported


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    code = f"{code}\nimport sys\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("LOADED")[2].split())


def test_importing_flexseg_and_its_files_room_brings_no_tensorflow():
    modules = [f"flexseg.files.{path.stem}" for path in (ROOT / "flexseg" / "files").glob("*.py") if path.stem != "__init__"]
    assert all(importlib.util.find_spec(module) for module in modules)
    loaded = loaded_after("\n".join(f"import {module}" for module in ("flexseg", "flexseg.configure", *modules)))
    assert "flexseg" in loaded and not loaded & set(HEAVY)


def test_the_help_of_no_command_brings_tensorflow_or_numpy():
    loaded = loaded_after(
        "from flexseg.commands import dispatcher\n"
        "for command in dispatcher.commands(): assert dispatcher.run([command, '--help']) == 0, command\n"
        "assert dispatcher.run(['--help']) == 0"
    )
    assert not loaded & {*HEAVY, "numpy", "cv2", "scipy", "matplotlib"}


def test_a_module_that_does_bring_it_is_seen():
    assert "numpy" in loaded_after("import numpy")
