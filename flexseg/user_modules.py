"""User modules: Python files of the user's, with networks, losses and metrics that gin then knows (`--user_module=my_models`).

    import_user_module("my_models")
    recorded = {name: origin(name) for name in user_modules}        # goes into a run's environment.json
    for sentence in changes(recorded): ...                          # a later command: what is no longer what it was
"""

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from flexseg.errors import UserError, first_line, suggest


def import_user_module(module: str) -> None:
    """Imports a module, which may lie in the current directory.

    Raises:
      UserError: there is none of that name, or it fails; the message names its file and line.
    """
    if os.getcwd() not in sys.path:  # the console script does not look into the current directory; last, so that it hides nothing
        sys.path.append(os.getcwd())
    where = f"--user_module={module}"
    try:
        importlib.import_module(module)
    except SyntaxError as error:
        place = f"{Path(error.filename or module).name}:{error.lineno}"
        raise UserError(where, expected="valid Python", found=f"{error.msg} ({place}: {(error.text or '').strip()})") from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0]):
            there = sorted(path.stem for path in Path.cwd().glob("*.py"))
            near = suggest(module.removesuffix(".py").rpartition("/")[2], there) or (f" There are {', '.join(there)}." if there else "")
            cure = f"name a module (my_models, not my_models.py) of the current directory or of PYTHONPATH.{near}"
            raise UserError(where, expected="a module that can be found", found=f"no module named {module!r}", cure=cure) from error
        found = f"{type(error).__name__}: {' '.join(str(error).split())} ({_place(error)})"
        raise UserError(where, expected="a module that can be imported", found=found) from error


def explain(error: Exception, function) -> str:
    """`ValueError: what it says (my_models.py:23)`: the innermost line of the file of `function` that the error passed through."""
    file = function.__code__.co_filename
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file] or frames
    message = str(error).partition("\n  In call to configurable")[0]  # gin appends that to whatever passes through it
    return f"{type(error).__name__}: {first_line(Exception(message))} ({Path(own[-1].filename).name}:{own[-1].lineno})"


def origin(module: str) -> dict[str, str]:
    """`{"file": path, "sha256": of its text}` of an imported module; a package's is of all of its .py files."""
    path = Path(sys.modules[module].__file__)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return {"file": str(path), "sha256": digest}


def changes(recorded: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A sentence for every imported module that is not what `origin` told when it was recorded."""
    now = {module: origin(module) for module in recorded}
    return [
        f"{now[module]['file']} is not what the run was trained with: it has been edited since, or is another file than {facts['file']}"
        for module, facts in recorded.items()
        if now[module]["sha256"] != facts["sha256"]
    ]


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
