"""The console script: `flexseg <command> [flags]` imports flexseg/commands/<command>.py and runs it.

The module of a command has
    a docstring: its first line is the summary in `flexseg --help`, the whole is the head of `flexseg <command> --help`
    FLAGS = flags_of(run)          its flags (see config_flags.py)
    def main(args) -> int | None   called under absl.app with the positional arguments; returns the exit code, None is 0
    BINDINGS = {"epochs": "train.epochs"}     optional: the binding to suggest for a mistaken flag
    POSITIONAL = "IMAGE ..."       optional: allows positional arguments and describes them
It imports TensorFlow inside `main`, so that help and errors appear at once.

Exit codes: the result of `main` or of SystemExit; 1 a mistake of the user (one line); 70 an unexpected error, with a traceback in the file of
`write_tracebacks_to` or on stderr; 74 a full or failing disk; 75, 143, 130 after SIGUSR1, SIGTERM, SIGINT (runs/interruption.py); 141 when the reader
of the output is gone, as in the shell after SIGPIPE.
"""

import ast
import contextlib
import errno
import importlib
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import flags

from flexseg.commands.config_flags import texts_of
from flexseg.errors import UserError, choose, printable, suggest

_ORDER = ("import_config", "check", "derive", "build", "train", "evaluate", "predict")  # in order of use; others follow by name
_DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE)
_traceback_file: Path | None = None


def commands() -> dict[str, str]:
    """{command: summary} of the modules in this folder that define `main`. They are parsed, not imported."""
    found = {}
    for path in Path(__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_bytes())
        if path != Path(__file__) and any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return dict(sorted(found.items(), key=lambda item: (_ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER), item[0])))


def write_tracebacks_to(path: Path | None) -> None:
    """Appends tracebacks to this file (log.txt of a run) from now on; None: stderr."""
    global _traceback_file
    _traceback_file = path and Path(path)


def run(argv: Sequence[str]) -> int:
    """Runs `flexseg *argv` and returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h", "help"):
        width = max(map(len, commands()), default=0)
        lines = [f"  {command:<{width}}  {summary}" for command, summary in commands().items()]
        _show(
            "\n".join(
                [
                    "usage: flexseg <command> [flags]",
                    "",
                    *lines,
                    "",
                    "flexseg <command> --help lists the command's flags; flexseg --version tells what a bug report needs.",
                ]
            )
        )
        return 0
    if name == "--version":
        facts = importlib.import_module("flexseg.commands.version_facts").version_facts()
        _show("\n".join(f"{name:<10} {value}" for name, value in facts.items()))
        return 0
    program = f"flexseg {name}"
    try:
        if name not in commands():
            program = "flexseg"
            cure = choose(name, commands())
            raise UserError("command", expected="the name of a command", found=repr(name), cure=cure)
        module = importlib.import_module(f"flexseg.commands.{name}")
        flag_part = rest[: rest.index("--")] if "--" in rest else rest
        if {"--help", "-h", "--helpfull", "--helpshort"} & set(flag_part):
            _show(_help(program, module))
            return 0
        return _run_under_absl(program, module, rest)
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            return _say(program, exit_.code, 1)
        return int(exit_.code or 0)
    except KeyboardInterrupt as interrupt:  # an interrupted run has a message and an exit code
        return _say(program, str(interrupt) or "interrupted", getattr(interrupt, "exit_code", 130))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _traceback_file is None:  # e.g. `| head`; a run writes the error to its log
            _close_stdout()
            return 141
        return _report(program, error)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def _run_under_absl(program: str, module: ModuleType, arguments: Sequence[str]) -> int:
    from absl import app, logging

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            positional = flags.FLAGS(argv)[1:]
        except flags.UnrecognizedFlagError as error:
            binding = getattr(module, "BINDINGS", {}).get(error.flagname.replace("-", "_"))
            cure = f'--gin_param="{binding}=…"' if binding else f"{program} --help lists the flags.{suggest(error.flagname, list(module.FLAGS))}"
            raise UserError(f"--{error.flagname}", expected=f"a flag of {program}", found="an unknown one", cure=cure) from error
        except flags.Error as error:
            flag, missing, _ = str(error).partition("=None: ")  # absl's message for a required flag
            where, found = (flag.removeprefix("flag "), "none") if missing else ("flags", str(error))
            raise UserError(where, expected="a value that fits", found=found, cure=f"{program} --help describes it") from error
        if positional and not hasattr(module, "POSITIONAL"):
            cure = 'write --flag=value, in quotes where it has spaces or quotes: --gin_param="train.epochs = 3"'
            raise UserError(f"{positional[0]!r}", expected="flags only", found="an argument that belongs to no flag", cure=cure)
        module.FLAGS.mark_as_parsed()
        if flags.FLAGS["verbosity"].using_default_value:
            # absl.app would set INFO; mypy cannot read the type variable of absl's __setattr__
            flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
        return positional

    flags.FLAGS.append_flag_values(module.FLAGS)
    try:
        app.run(module.main, argv=[program, *arguments], flags_parser=parse)
    finally:  # so that a second call in this process starts from the defaults
        flags.FLAGS.remove_flag_values(module.FLAGS)
        for name in module.FLAGS:
            module.FLAGS[name].unparse()
    raise AssertionError("absl.app.run always exits")


def _help(program: str, module: ModuleType) -> str:
    lines = [f"usage: {program} [flags] {getattr(module, 'POSITIONAL', '')}".rstrip(), "", (module.__doc__ or "").strip(), "", "flags:"]
    for flag in texts_of(module.FLAGS):
        lines.append(f"  {flag.spelling} (default: {flag.default})" if flag.default else f"  {flag.spelling}")
        lines += textwrap.wrap(flag.meaning, width=110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["  --verbosity (default: -1)", "      How much is logged to stderr: -1 warnings, 0 information, 1 everything."]
    return "\n".join(lines)


def _show(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # e.g. `| head`
        _close_stdout()


def _close_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports the error again at exit


def _say(program: str, message: str, code: int) -> int:
    print(f"{program}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _report(program: str, error: Exception) -> int:
    message = str(error).partition("\n  In call to configurable")[0]  # appended by gin
    if isinstance(error, RuntimeError) and message.startswith("Required bindings for"):  # the default of a parameter is gin.REQUIRED
        error = UserError("gin", expected="a value for every required parameter", found=message, cure='bind it: --gin_param="name.parameter=value"')
        message = str(error)
    logged = False
    if _traceback_file is not None:
        from flexseg.files.atomic import open_to_append

        with contextlib.suppress(OSError, UserError), open_to_append(_traceback_file) as file:
            file.write(printable("".join(traceback.format_exception(error)), keep="\n").encode())
            logged = True
    if isinstance(error, UserError):
        return _say(program, message, 1)
    # By message too: gin's copy of an OSError loses its errno, and TensorFlow's errors have none.
    if getattr(error, "errno", None) in _DISK_ERRORS or any(os.strerror(code) in message for code in _DISK_ERRORS):
        return _say(program, f"the disk is full or failing: {message}", 74)
    if not logged:
        traceback.print_exception(error)
    where = f"the traceback is in {_traceback_file}" if logged else "the traceback stands above"
    return _say(program, f"unexpected {type(error).__name__}: {message} ({where})", 70)


if __name__ == "__main__":  # `__main__` is another module object than the one that commands import
    from flexseg.commands import dispatcher

    dispatcher.main()
