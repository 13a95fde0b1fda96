"""Imports the user's Python modules, which register networks, losses and metrics with gin (`--user_module=my_models`).

    import_user_module("my_models")
    record = recorded(["my_models"], earlier={})        # saved in a run's environment.json
    for sentence in changes(record): ...                # later: modules that changed

Only the file of a module, or the .py files of a package, are compared, not what they import.
"""

import contextlib
import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flexseg.errors import UserError, first_line, suggest

Record = Mapping[str, list[dict[str, str]]]  # module -> [{"file": path, "sha256": hash}], one for every version of the module in a run


def import_user_module(module: str) -> None:
    """Imports a module; the current directory is searched too.

    Raises:
      UserError: there is no such module, or its import fails; the error names the line.
    """
    if os.getcwd() not in sys.path:  # a console script does not search the current directory; last, so that it shadows nothing
        sys.path.append(os.getcwd())
    where = f"--user_module={module}"
    if "/" in module or module.endswith(".py"):
        cure = f"--user_module={module.removesuffix('.py').removeprefix('./').replace('/', '.')}"
        raise UserError(where, expected="the name of a module", found="a path", cure=cure)
    try:
        file = importlib.import_module(module).__file__
    except SyntaxError as error:
        line = f"{Path(error.filename or module).name}:{error.lineno}"
        raise UserError(where, expected="valid Python", found=f"{error.msg} ({line}: {(error.text or '').strip()})") from error
    except Exception as error:
        if is_missing(error, module):
            there = sorted(path.stem for path in Path.cwd().glob("*.py"))
            cure = f"name one that lies in the current directory or on PYTHONPATH.{suggest(module, there)}"
            raise UserError(where, expected="a module that can be found", found=f"no module named {module!r}", cure=cure) from error
        found = _sentence(error, module.replace(".", "/") + ".py")
        raise UserError(where, expected="a module that can be imported", found=found) from error
    if file is None:
        raise UserError(where, expected="a module, or a package with __init__.py", found="a folder without one")


def is_missing(error: BaseException | None, module: str) -> bool:
    """Whether an import failed because `module` does not exist, rather than a module that it imports."""
    return isinstance(error, ModuleNotFoundError) and error.name is not None and f"{module}.".startswith(f"{error.name}.")


def explain(error: Exception, function: Callable) -> str:
    """`ValueError: message (my_models.py:23)`, with the innermost line of the traceback in the file of `function`."""
    with contextlib.suppress(TypeError):  # no source file, e.g. a partial
        return _sentence(error, inspect.getsourcefile(function) or "")
    return _sentence(error, "")


def recorded(modules: Iterable[str], *, earlier: Record) -> Record:
    """The hashes of the imported `modules`, added to those of earlier starts."""
    record = {module: list(texts) for module, texts in earlier.items()}
    for module in modules:
        texts, text = record.setdefault(module, []), _text(module)
        if text not in texts:
            texts.append(text)
    return record


def digests(modules: Iterable[str]) -> str:
    """A line for every imported module, equal on two machines if its files are equal."""
    return "\n".join(f"{module} {_text(module)['sha256'][:16]}" for module in modules)


def changes(record: Record) -> list[str]:
    """A sentence for every module that is missing here or differs from that of any start of the run."""
    sentences = []
    for module, texts in record.items():
        if module not in sys.modules:
            sentences.append(f"--user_module={module}, which the run was trained with, is not given")
            continue
        now = _text(module)
        if others := [text["file"] for text in texts if text["sha256"] != now["sha256"]]:
            sentences.append(f"{now['file']}: the run was trained, in whole or in part, with another text of this module (in {others[-1]} then)")
    return sentences


def _text(module: str) -> dict[str, str]:
    path = Path(inspect.getfile(sys.modules[module]))
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return {"file": str(path), "sha256": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()}


def _sentence(error: Exception, file: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and frame.filename.endswith(file)] or frames
    message = str(error).partition("\n  In call to configurable")[0]  # appended by gin
    return f"{type(error).__name__}: {first_line(Exception(message))} ({Path(own[-1].filename).name}:{own[-1].lineno})"
