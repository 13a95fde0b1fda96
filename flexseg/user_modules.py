"""Imports the user's Python modules, which register networks, losses and metrics with gin (`--user_module=my_models`).

    modules = typed(["my_models"])                       # with those of FLEXSEG_USER_MODULES
    refuse_untyped(record, modules, run=run.path)        # what a run names is not imported unless the user typed it
    for sentence in changes(record, modules): ...        # before the import: modules that changed
    import_user_module("my_models")
    record = recorded(["my_models"], earlier={})         # saved in a run's environment.json

Only the file of a module, or the .py files of a package, are compared, not what they import.
"""

import contextlib
import hashlib
import importlib
import importlib.machinery
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flexseg.errors import UserError, first_line, suggest

Record = Mapping[str, list[dict[str, str]]]  # module -> [{"file": path, "sha256": hash}], one for every version of the module in a run
VARIABLE = "FLEXSEG_USER_MODULES"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def typed(user_module: str | Iterable[str]) -> list[str]:
    """The modules that the user named: those of `--user_module`, then those of FLEXSEG_USER_MODULES, between commas."""
    user_module = [user_module] if isinstance(user_module, str) else user_module  # from a notebook
    named = os.environ.get(VARIABLE, "").split(",")
    return list(dict.fromkeys([*user_module, *(module.strip() for module in named if module.strip())]))


def refuse_untyped(record: Record, modules: Iterable[str], *, run: Path) -> None:
    """Refuses a run that needs a module which the user did not type, or which lies in the run directory. Imports nothing.

    A run is data that somebody else may have made: it must not decide which code runs.

    Args:
      record: `user_modules` of its environment.json.
      modules: those of `typed`.
      run: the run directory.

    Raises:
      UserError: it names module, file and checksum, and what to type.
    """
    for module, texts in record.items():
        if module not in modules:
            last = texts[-1] if texts else {"file": "a file not recorded", "sha256": "not recorded"}
            raise UserError(
                f"module {module}",
                expected="the user modules of this run, typed by you: nothing that a run names is imported unasked",
                found=f"{module} in environment.json (then {last['file']}, SHA-256 {last['sha256'][:16]}…)",
                cure=f"look at that file; if you trust it, add --user_module={module}, or set {VARIABLE}={module}",
            )
    for module in modules:
        file = _file_of(module)
        if file is not None and file.resolve().is_relative_to(run.resolve()):
            cure = "look at that file; if you trust it, copy it to a folder of your own"
            raise UserError(f"--user_module={module}", expected="a module outside of the run directory", found=str(file), cure=cure)


def is_record(value: object) -> bool:
    """Whether a value that was read from a file is a Record."""
    return isinstance(value, dict) and all(_MODULE.fullmatch(module) and _are_texts(texts) for module, texts in value.items())


def _are_texts(texts: object) -> bool:
    return isinstance(texts, list) and all(
        isinstance(text, dict) and isinstance(text.get("file"), str) and isinstance(text.get("sha256"), str) for text in texts
    )


def _file_of(module: str) -> Path | None:
    """The file that an import of `module` would execute, found without importing it or its packages; None where there is none."""
    if module in sys.modules and getattr(sys.modules[module], "__file__", None):
        return Path(inspect.getfile(sys.modules[module]))
    search: list[str] | None = [*sys.path, os.getcwd()]
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin else None


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
    except SystemExit as error:
        raise UserError(where, expected="a module that can be imported", found=f"one that calls sys.exit({error.code!r})") from error
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


def changes(record: Record, modules: Iterable[str]) -> list[str]:
    """A sentence for every module that is not among `modules`, or differs from that of any start of the run. Imports nothing."""
    sentences, given = [], set(modules)
    for module, texts in record.items():
        if module not in given:
            sentences.append(f"--user_module={module}, which the run was trained with, is not given")
            continue
        if _file_of(module) is None:
            continue  # the import says so
        now = _text(module)
        if others := [text["file"] for text in texts if text["sha256"] != now["sha256"]]:
            sentences.append(f"{now['file']}: the run was trained, in whole or in part, with another text of this module (in {others[-1]} then)")
    return sentences


def _text(module: str) -> dict[str, str]:
    path = _file_of(module)
    assert path is not None  # the module was found
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return {"file": str(path), "sha256": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()}


def _sentence(error: Exception, file: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and frame.filename.endswith(file)] or frames
    message = str(error).partition("\n  In call to configurable")[0]  # appended by gin
    return f"{type(error).__name__}: {first_line(Exception(message))} ({Path(own[-1].filename).name}:{own[-1].lineno})"
