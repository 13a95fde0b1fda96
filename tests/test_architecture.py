"""The rules of docs/contributing.md that a reader of the code may rely on: who imports whom, and what appears nowhere.

Each rule is a small function `(tree, module) -> list of complaints`, and each has a source below it that it must complain about.
"""

import ast
import importlib.util
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (  # a room imports only from itself and from what stands before it; the table of docs/contributing.md
    "errors", "machine", "user_modules", "console", "configs", "config", "files", "pictures", "checks", "derivation", "migration", "datasets", "data",
    "models", "objectives", "distribution", "runs", "inference", "evaluation", "training", "commands", "launch",
)  # fmt: skip
NO_TENSORFLOW = (  # anywhere; in commands only inside functions
    "__init__", "errors", "machine", "user_modules", "console", "configs", "config", "files", "pictures", "checks", "derivation", "migration",
)  # fmt: skip
HEAVY = ("tensorflow", "keras", "tensorflow_datasets")
LIGHT_ROOMS = ("errors", "machine", "user_modules", "config", "commands")  # what a command may import at its head, so that --help comes at once
NEED_NO_TENSORFLOW = ("flexseg.runs.directory", "flexseg.runs.layout", "flexseg.runs.checkpoint_format")
PARSER = "flexseg.config.configure"
PARSES_GIN = ("commands", "config", "training.experiment")  # who may import it: rooms and one file


def module_of(path: Path) -> str:
    """`flexseg/data/stream.py` -> data.stream, `datasets/tnbc/tnbc.py` -> datasets.tnbc.tnbc, `flexseg/errors.py` -> errors."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[parts[0] == "flexseg" :]).removesuffix(".__init__") or "__init__"


def room_of(module: str) -> str:
    """The room of a module: its first part."""
    return module.partition(".")[0]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("flexseg", "datasets", "configs", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_bytes(), filename=str(path))


def dotted(node: ast.AST) -> str:
    """`tf.distribute.Strategy` for that chain of attributes, "" for anything that does not start with a name."""
    if isinstance(node, ast.Attribute):
        return f"{inner}.{node.attr}" if (inner := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, whose body no interpreter runs."""
    return isinstance(node, ast.If) and dotted(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def imports(tree: ast.AST, module_level_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from a import b` counts as a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)
        elif not (module_level_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types(node))):
            yield from imports(node, module_level_only)


# The rules


def order_complaints(tree: ast.Module, module: str) -> list[str]:
    """Imports against the order of the rooms; relative imports would hide the room."""
    found, room = [], room_of(module)
    for line, name in imports(tree):
        top, other, *_ = f"{name}.".split(".")
        if name.startswith("."):
            found.append(f"{line}: relative import {name}")
        elif top == "flexseg" and other in ROOMS:
            allowed = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ("errors",)
            if other not in allowed:
                found.append(f"{line}: {room} imports {name}")
    return found


def tensorflow_complaints(tree: ast.Module, module: str) -> list[str]:
    """TensorFlow where it must not be, and rooms that would bring it at the head of a command (a module with a `main`)."""
    found, room = [], room_of(module)
    is_command = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    if room in NO_TENSORFLOW or room == "commands":
        for line, name in imports(tree, module_level_only=room == "commands"):
            top, other, *_ = f"{name}.".split(".")
            if top in HEAVY:
                found.append(f"{line}: {room} imports {name}")
            elif room == "commands" and is_command and top == "flexseg" and other in ROOMS and other not in LIGHT_ROOMS:
                found.append(f"{line}: {room} imports {name} outside a function")
    return found


def distribute_complaints(tree: ast.Module, module: str) -> list[str]:
    """tf.distribute outside distribution/."""
    if room_of(module) == "distribution":
        return []
    found = [f"{line}: imports {name}" for line, name in imports(tree) if name.startswith("tensorflow.") and "distribute" in name.split(".")]
    return found + [f"{node.lineno}: {dotted(node)}" for node in ast.walk(tree) if dotted(node) in ("tf.distribute", "tensorflow.distribute")]


def gin_complaints(tree: ast.Module, module: str) -> list[str]:
    """gin outside config/configure.py other than `import gin`, `@gin.configurable(...)` and `gin.REQUIRED`; and on Keras classes (it crashes)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(dotted(part).startswith("gin.") for d in node.decorator_list for part in ast.walk(d)):
            bases = [dotted(base).split(".") for base in node.bases]
            if any({"keras", "layers"} & set(base) or base[-1] in ("Layer", "Model", "Sequential") for base in bases):
                found.append(f"{node.lineno}: gin on the Keras class {node.name}")
    if module == "config.configure":
        return found
    if not {module, room_of(module)} & set(PARSES_GIN):
        found += [f"{line}: imports {name}" for line, name in imports(tree) if name.startswith(PARSER)]
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


def danger_complaints(tree: ast.Module, module: str) -> list[str]:
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


def onednn_complaints(tree: ast.Module, module: str) -> list[str]:
    """An entry point that imports TensorFlow, or a room that does, without deciding on oneDNN, or in one scope before it decided."""
    if room_of(module) not in ("commands", "launch", "benchmarks") or module == "commands.quiet":
        return []
    scopes = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]
    decided = {id(scope): min(decisions(scope), default=math.inf) for scope in scopes}
    anywhere = min(decided.values()) < math.inf
    found = []
    for scope in scopes:
        for line, name in imports(scope, module_level_only=True):
            if brings_tensorflow(name) and (not anywhere or line < decided[id(scope)] < math.inf):
                found.append(f"{line}: imports {name} before load_tensorflow()")
    return found


def decisions(scope: ast.AST) -> Iterator[int]:
    """The lines of a scope, functions within it left out, that decide on oneDNN."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in ("load_tensorflow", "choose_onednn"):
            yield node.lineno
        if not isinstance(node, ast.FunctionDef):
            yield from decisions(node)


def brings_tensorflow(name: str) -> bool:
    """Whether the import of a dotted name imports TensorFlow."""
    top, other, *_ = f"{name}.".split(".")
    light = name in NEED_NO_TENSORFLOW or name.rpartition(".")[0] in NEED_NO_TENSORFLOW
    return top in HEAVY or (top == "flexseg" and other in ROOMS and other not in (*NO_TENSORFLOW, "commands", "launch") and not light)


def circles() -> list[list[str]]:
    """Circles of imports between files; imports under TYPE_CHECKING and inside functions count."""
    trees = {module_of(path): tree for path, tree in sources()}
    edges = {}
    for module, tree in trees.items():
        names = [name.removeprefix("flexseg.") for _, name in imports(tree) if name.startswith("flexseg.")]
        edges[module] = {name if name in trees else name.rpartition(".")[0] for name in names} & trees.keys() - {module}
    return circles_of(edges)


def circles_of(edges: dict[str, set[str]]) -> list[list[str]]:
    """The circles that a depth-first walk of a directed graph meets, one for each edge that goes back."""
    found, done = [], set()

    def walk(node: str, trail: list[str]) -> None:
        if node in trail:
            found.append([*trail[trail.index(node) :], node])
        elif node not in done:
            for other in sorted(edges.get(node, ())):
                walk(other, [*trail, node])
            done.add(node)

    for node in sorted(edges):
        walk(node, [])
    return found


RULES = (order_complaints, tensorflow_complaints, distribute_complaints, gin_complaints, danger_complaints, onednn_complaints)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_complaints"))
def test_the_code_keeps_the_rule(rule):
    found = [f"{path.relative_to(ROOT)}:{complaint}" for path, tree in sources() for complaint in rule(tree, module_of(path))]
    assert not found, "\n".join(found)


def test_no_circle_of_imports():
    assert circles() == []


def test_a_circle_is_seen():
    assert circles_of({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == [["b", "d", "b"]]


def test_entry_points_among_the_benchmarks_decide_on_onednn_too():
    programs = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if path.name != "__init__.py"]
    found = {str(path.relative_to(ROOT)): onednn_complaints(ast.parse(path.read_bytes()), module_of(path)) for path in programs}
    assert not {name: complaints for name, complaints in found.items() if complaints}


def test_every_file_lies_in_a_room():
    assert {room_of(module_of(path)) for path, _ in sources()} <= {*ROOMS, "__init__"}


# Each rule can fail


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (order_complaints, "files", "from flexseg.data import stream"),
        (order_complaints, "files", "from flexseg import data"),
        (order_complaints, "data", "def f():\n    import flexseg.training.trainer"),
        (order_complaints, "config.effects", "from flexseg.files import cases"),
        (order_complaints, "pictures.panels", "from flexseg.checks import survey"),
        (order_complaints, "checks.survey", "from flexseg.data import stream"),
        (order_complaints, "distribution.step", "from flexseg.runs import layout"),
        (order_complaints, "runs.directory", "from flexseg.training import session"),
        (order_complaints, "inference.predictor", "from flexseg.evaluation import report"),
        (gin_complaints, "training.session", "from flexseg.config.configure import configure"),
        (gin_complaints, "launch.local", "def f():\n    from flexseg.config import configure"),
        (onednn_complaints, "commands.train", "def run():\n    from flexseg.training import session\n    load_tensorflow()"),
        (onednn_complaints, "launch.data_service", "import tensorflow"),
        (onednn_complaints, "benchmarks.gpu_check", "def f():\n    import keras"),
        (order_complaints, "training", "from flexseg.commands import train"),
        (order_complaints, "errors", "from flexseg.files import images"),
        (order_complaints, "__init__", "from flexseg.training import trainer"),
        (order_complaints, "models", "from . import blocks"),
        (tensorflow_complaints, "files", "def f():\n    import tensorflow as tf"),
        (tensorflow_complaints, "config.annotations", "from tensorflow import io"),
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
def test_the_rule_sees_the_offence(rule, module, source):
    assert rule(ast.parse(source), module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training.experiment", "from flexseg.config.configure import configure"),
        ("commands.train", "if TYPE_CHECKING:\n    from flexseg.training import session\ndef main(args): pass"),
        ("training", "import flexseg\nfrom flexseg.data import stream\nfrom flexseg.errors import UserError\nfrom flexseg.training import state"),
        (
            "commands",
            "import flexseg\nfrom flexseg.config.configure import configure\ndef main(a):\n    load_tensorflow()\n    import keras\n    from flexseg.data import fit",
        ),
        ("distribution", "import tensorflow as tf\ntf.distribute.MirroredStrategy()"),
        ("models", "import gin\n@gin.configurable('m')\ndef m(size: int = gin.REQUIRED): return model.eval(size)"),
        ("models", "import gin\n@gin.configurable('s')\n@dataclass(frozen=True)\nclass S: pass\nclass Block(keras.layers.Layer): pass"),
        ("files", "np.load(path, allow_pickle=False)\nmodel.load_weights(path)\nyaml.safe_load(text)"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert [complaint for rule in RULES for complaint in rule(ast.parse(source), module)] == []


# What is really imported


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    code = f"{code}\nimport sys\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("LOADED")[2].split())


def test_importing_flexseg_and_its_rooms_without_tensorflow_brings_none():
    rooms = [name for name in NO_TENSORFLOW if (ROOT / "flexseg" / name).is_dir()]
    modules = [f"flexseg.{module_of(path)}" for room in rooms for path in (ROOT / "flexseg" / room).glob("*.py") if path.stem != "__init__"]
    modules += [name for name in NEED_NO_TENSORFLOW if name.startswith("flexseg.runs")]
    assert all(importlib.util.find_spec(module) for module in modules)
    loaded = loaded_after("\n".join(f"import {module}" for module in ("flexseg", *modules)))
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
