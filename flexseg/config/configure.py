"""Parses and checks gin files before any binding takes effect.

    configuration = configure(["default.gin"], ["train.epochs=3"], modules=["flexseg.training"])
    print(configuration.summary())                              # every binding and its source
    (workdir / "config.gin").write_text(configuration.text)     # and, after the run, .operative()

Errors name file and line: `import` statements (gin would execute them), includes from outside the config folders and the folder of the including
file, a parameter bound twice in one file, scopes (gin keeps them per thread, and replicas are threads), missing or unused macros, unknown names, and
values that do not fit the annotation of a parameter (gin accepts `lr='0.1'`). Macros are replaced by their values, so that two configurations can be
compared. Not promised: that the values fit together; the configured classes check that.
"""

import collections.abc
import importlib
import importlib.resources
import inspect
import itertools
import math
import re
import shlex
import tokenize
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gin
from gin import config_parser

from flexseg.config.annotations import Symbol, fit, in_words
from flexseg.config.renamed import current_name, refuse_renamed
from flexseg.errors import UserError, choose, suggest
from flexseg.user_modules import import_user_module

_MOST_BYTES = 2**20  # of a gin file
_MOST_VALUES = 10_000  # of one binding
_MOST_INCLUDES = 8  # one within the other
_MOST_QUOTED = 200  # characters of a value in a message
_REGISTRY = gin.config._REGISTRY  # selector -> configurable; gin 0.5.0 has no public list of configurables


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as symbols, which are resolved after parsing."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Symbol:
        return Symbol("@", scoped_configurable_name, "()" if evaluate else "")

    def macro(self, macro_name: str) -> Symbol:
        return Symbol("%", macro_name)


@dataclass(frozen=True, eq=False)
class _Statement:
    """`name.parameter = value`, or a macro `name = value` (its parameter is "")."""

    name: str
    parameter: str
    value: object
    where: str  # "default.gin:12", or the flag
    unit: object  # identifies the file or flag, in which a parameter may be bound once


@dataclass(frozen=True)
class Configuration:
    """The bindings in effect.

    Attributes:
      bindings: "name.parameter" -> value as gin text, sorted; macros replaced by their values.
      sources: "name.parameter" -> its source and the binding that it overrides.
      user_modules: the --user_module names that reading the text requires.
    """

    bindings: dict[str, str]
    sources: dict[str, str]
    user_modules: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The content of `config.gin`: equal bindings give equal text, and `configure` can read it."""
        lines = [f"# needs --user_module={module}" for module in self.user_modules]
        for name, keys in itertools.groupby(self.bindings, key=lambda key: key.rpartition(".")[0]):
            lines += ["", f"# {name}", *(f"{key} = {self.bindings[key]}" for key in keys)]
        return "\n".join(lines).lstrip("\n") + "\n"

    def value(self, key: str) -> str:
        """The value of "name.parameter" as gin text: its binding, else the default."""
        return self.bindings.get(key) or _default(key)

    def parameters(self, name: str) -> set[str]:
        """The parameters of a configurable."""
        return set(_parameters(name))

    def is_own(self, name: str) -> bool:
        """Whether a name is a configurable of flexseg; False for the user's and for unknown names."""
        return self.module_of(name).startswith("flexseg.")

    def module_of(self, name: str) -> str:
        """The module of a configurable; empty where gin knows no such name."""
        try:
            return inspect.unwrap(gin.get_configurable(name)).__module__
        except ValueError:
            return ""

    def operative(self) -> str:
        """gin's operative config: the values that were used, with defaults. Empty until the configured functions are called."""
        return gin.operative_config_str(max_line_length=120)

    def summary(self) -> str:
        """One line per binding, aligned: `name.parameter = value  (source)`."""
        key_width = max(map(len, self.bindings), default=0)
        width = min(max(map(len, self.bindings.values()), default=0), 40)  # so that one long value does not push all sources off the screen
        return "\n".join(f"{key:<{key_width}} = {value:<{width}}  ({self.sources[key]})" for key, value in self.bindings.items())

    def difference(self, other_text: str, ignore: Iterable[str] = frozenset()) -> list[str]:
        """The bindings that differ from the text of another configuration (a run's `config.gin`), one line each.

        A binding that one side lacks has its default. `ignore` holds names of configurables ("report") or of bindings ("train.epochs").
        """
        other = {f"{s.name}.{s.parameter}": repr(s.value) for s in _translated(_parse(other_text, "the run's config.gin"))}
        lines = []
        for key in sorted(self.bindings.keys() | other.keys()):
            here, there = (side.get(key) or _default(key) for side in (self.bindings, other))
            if here != there and not any(key == prefix or key.startswith(f"{prefix}.") for prefix in ignore):
                lines.append(f"{key}: here {here}, in the run {there}")
        return lines


def configure(
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    *,
    modules: Sequence[str] = (),
    user_modules: Sequence[str] = (),
    config_folders: Sequence[Path] | None = None,
    recorded: bool = False,
) -> Configuration:
    """Parses the files, then the parameters (later ones override), and replaces gin's whole state.

    Args:
      gin_files: paths, or names of shipped files ("default.gin", "models/flex_unet.gin").
      gin_params: bindings such as "train.epochs=3".
      modules: modules of flexseg whose import registers configurables; imported after parsing.
      user_modules: the user's modules, imported next; the current directory is searched too.
      config_folders: folders for names; default: the folder of `flexseg.configs`.
      recorded: the files are the `config.gin` of a run, in which old names are translated; elsewhere they are errors (see renamed.py).

    Raises:
      UserError: any error in the list of the module docstring; gin's state is unchanged.
    """
    # Notebooks pass a single text: gin_param="train.epochs=3".
    gin_files, gin_params, user_modules = ([given] if isinstance(given, str) else given for given in (gin_files, gin_params, user_modules))
    folders = [Path(folder).resolve() for folder in config_folders or [Path(str(importlib.resources.files("flexseg.configs")))]]
    statements = [statement for name in gin_files for statement in _read(_find(name, folders), folders, opened=())]
    if recorded:
        statements = _translated(statements)
    for param in gin_params:
        statements += _parse(param, f'--gin_param="{param}"')
    for module in modules:
        importlib.import_module(module)
    for module in user_modules:
        import_user_module(module)

    in_force, overridden = _last_of_each(statements)
    macros = {name: statement for (name, parameter), statement in in_force.items() if not parameter}
    _refuse_unused(macros, statements, in_force.values())
    _refuse_unfolding(macros, in_force.values())
    values, sources = {}, {}
    for (name, parameter), statement in sorted(in_force.items(), key=lambda item: item[0]):
        if parameter:
            key = f"{name}.{parameter}"
            values[key] = repr(_typed(key, statement, _substitute(statement.value, macros, statement.where), _annotation(name, statement)))
            source = "--gin_param" if statement.where.startswith("--") else statement.where
            sources[key] = f"{source}, over {overridden[name, parameter]}" if (name, parameter) in overridden else source
    configuration = Configuration(values, sources, tuple(user_modules))
    gin.clear_config()
    gin.parse_config(configuration.text)
    return configuration


def _find(name: str, folders: Sequence[Path]) -> Path:
    if name.endswith(".config"):
        cure = f"flexseg import_config {shlex.quote(name)}"
        raise UserError(f"--gin_file={name}", expected="a .gin file", found="a .config file of the reference system", cure=cure)
    for path in (Path(name), *(folder / name for folder in folders)):
        if path.is_file():
            return path.resolve()
    shipped = sorted({str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.gin")})
    cure = choose(name, shipped)
    raise UserError(f"--gin_file={name}", expected="the path of a gin file, or the name of a shipped one", found="no such file", cure=cure)


def _read(path: Path, folders: Sequence[Path], opened: tuple[Path, ...]) -> list[_Statement]:
    label = str(next((path.relative_to(base) for base in (*folders, Path.cwd()) if path.is_relative_to(base)), path))
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise OSError(f"no file of at most {_MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(label, expected="a readable UTF-8 text file", found=str(error)) from error

    def include(name: str, where: str) -> list[_Statement]:
        allowed = [path.parent, *folders]
        candidates = [candidate for base in allowed if (candidate := (base / name).resolve()).is_file()]
        inside = [candidate for candidate in candidates if any(candidate.is_relative_to(base) for base in allowed)]
        if len(opened) >= _MOST_INCLUDES:
            raise UserError(where, expected=f"includes within includes, at most {_MOST_INCLUDES} deep", found="more")
        if not inside or inside[0] in (*opened, path):
            what = "which includes itself" if inside else "which lies elsewhere" if candidates else "which does not exist"
            raise UserError(where, expected=f"an include from {' or '.join(map(str, allowed))}", found=f"{name!r}, {what}")
        return _read(inside[0], folders, (*opened, path))

    return _parse(text, label, include)


def _parse(text: str, label: str, include: Callable[[str, str], list[_Statement]] | None = None) -> list[_Statement]:
    """The statements of one file or flag; nothing is executed."""

    def location(line: int) -> str:
        return label if label.startswith("--") else f"{label}:{line}"

    statements, unit = [], object()
    try:
        for item in config_parser.ConfigParser(text, _Delegate()):
            where = location(item.location.line_num)
            if isinstance(item, config_parser.ImportStatement):
                cure = "take the line out; modules of your own are named on the command line: --user_module=my_models"
                raise UserError(where, expected="bindings and includes", found=f"{_shown(item.format())}, which would be executed", cure=cure)
            if isinstance(item, config_parser.IncludeStatement):
                if include is None:
                    raise UserError(where, expected="a binding", found="an include", cure=f"use --gin_file={item.filename}")
                statements += include(item.filename, where)
            elif item.scope:
                found = f"the scope {item.scope + '/'!r}, which gin forgets in other threads"
                raise UserError(where, expected="a binding without a scope", found=found, cure=f"bind {item.selector} itself")
            elif isinstance(item, config_parser.BindingStatement):
                statements.append(_Statement(item.selector, item.arg_name, item.value, where, unit))
    except (
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
        ValueError,
    ) as error:  # of deep nesting, and of numbers with too many digits
        number = getattr(error, "lineno", None) or (error.args[1][0] if isinstance(error, tokenize.TokenError) else 1)
        line, reason = "".join(text.splitlines()[number - 1 : number]).strip(), _reason(error)
        cure = "write text in quotes ('nearest'), functions as @name, and True, False, None with a capital"
        raise UserError(location(number), expected="a line like train.epochs = 3", found=f"{_shown(line)} ({reason})", cure=cure) from error
    return statements


def _reason(error: Exception) -> str:
    lines = str(error.args[0] if error.args else "").splitlines() or ["too deep"]
    return lines[-1].strip(" .")[:_MOST_QUOTED]


def _shown(value: object) -> str:
    """The value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}…"


def _translated(statements: Sequence[_Statement]) -> list[_Statement]:
    """The statements of a run's `config.gin`, with old names replaced."""
    return [replace(s, parameter=current_name(f"{s.name}.{s.parameter}").rpartition(".")[2]) if s.parameter else s for s in statements]


def _known() -> list[str]:
    return sorted(_REGISTRY.minimal_selector(selector) for selector, _ in _REGISTRY.items() if not selector.startswith("gin."))


def _configurable(name: str, where: str, *, function: bool = False) -> str:
    """The shortest unique name of a configurable; `function` is True for `@name`."""
    matches = sorted(selector for selector in _REGISTRY.matching_selectors(name) if not selector.startswith("gin."))
    if len(matches) == 1:
        return _REGISTRY.minimal_selector(matches[0])
    found = f"{name!r}, which is {' and '.join(matches)}" if matches else f"{name!r}"
    if matches:
        cure = "write one of them in full"
    else:
        names = [known for known in _known() if not function or inspect.isfunction(inspect.unwrap(gin.get_configurable(known)))]
        cure = choose(name, names)
        if function or not suggest(name, names):
            cure = f'One of your own needs @gin.configurable("{name}") above it, in a module that --user_module names. {cure}'
    raise UserError(where, expected="the name of one configurable", found=found, cure=cure)


def _parameters(name: str, evaluated: bool = False) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(gin.get_configurable(name), eval_str=evaluated).parameters)


def _default(key: str) -> str:
    name, _, parameter = key.rpartition(".")
    known = _parameters(name) if len(_REGISTRY.matching_selectors(name)) == 1 else {}
    default = known[parameter].default if parameter in known else inspect.Parameter.empty
    if inspect.isfunction(default):
        return f"@{default.__name__}"  # in flexseg a function and its configurable have one name
    return "nothing" if default is inspect.Parameter.empty else repr(default)


def _annotation(name: str, statement: _Statement) -> object:
    known = _parameters(name, evaluated=True)  # annotations may be strings
    if statement.parameter in known:
        return known[statement.parameter].annotation
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return inspect.Parameter.empty
    cure = choose(statement.parameter, known)
    raise UserError(statement.where, expected=f"a parameter of {name}", found=f"{statement.parameter!r}", cure=cure)


def _last_of_each(statements: Sequence[_Statement]) -> tuple[dict[tuple[str, str], _Statement], dict[tuple[str, str], str]]:
    """({(name, parameter): the statement in effect}, {(name, parameter): the overridden one, in words})."""
    last: dict[tuple[str, str], _Statement] = {}
    overridden = {}
    for statement in statements:
        key = (_configurable(statement.name, statement.where) if statement.parameter else statement.name, statement.parameter)
        refuse_renamed(".".join(key), statement.where)
        earlier = last.pop(key, None)
        if earlier and earlier.unit == statement.unit:
            what = f"{statement.name}.{statement.parameter}".rstrip(".")
            raise UserError(statement.where, expected=f"{what} once", found=f"a second binding beside {earlier.where}", cure="take one out")
        if earlier:
            overridden[key] = f"{earlier.value!r} ({earlier.where})"
        last[key] = statement
    return last, overridden


def _refuse_unused(macros: dict[str, _Statement], statements: Iterable[_Statement], in_force: Iterable[_Statement]) -> None:
    """Refuses unused macros (misspelt names). A command-line macro must be used by a binding in effect, one of a file by any binding."""
    for name, macro in macros.items():
        if not any(re.search(rf"%{name}\b", repr(s.value)) for s in (in_force if macro.where.startswith("--") else statements)):
            keys = [f"{selector}.{name}" for selector in _known() if name in _parameters(selector)]
            found, cure = f"{name!r}, which nothing uses", f"write {' or '.join(keys)}" if keys else "correct the name, or take it out"
            raise UserError(macro.where, expected="name.parameter = value, or a macro that is used", found=found, cure=cure)


def _refuse_unfolding(macros: dict[str, _Statement], statements: Iterable[_Statement]) -> None:
    """Refuses macros that unfold to more than a configuration needs: ten that name the next one ten times would take 10^10 values."""
    sizes: dict[str, int] = {}

    def size(value: object, trail: tuple[str, ...]) -> int:
        if isinstance(value, dict):
            return 1 + sum(size(key, trail) + size(part, trail) for key, part in value.items())
        if isinstance(value, list | tuple):
            return 1 + sum(size(part, trail) for part in value)
        if isinstance(value, Symbol) and value.sign == "%" and value.name in macros and value.name not in trail:
            if value.name not in sizes:
                sizes[value.name] = size(macros[value.name].value, (*trail, value.name))
            return sizes[value.name]
        return 1

    for name, statement in [*macros.items(), *((statement.name, statement) for statement in statements)]:
        try:
            many = size(statement.value, (name,) if name in macros else ()) > _MOST_VALUES
        except RecursionError:
            many = True
        if many:
            raise UserError(
                statement.where, expected=f"at most {_MOST_VALUES:,} values in {name}, macros unfolded", found="more, or macros of macros too deep"
            )


def _substitute(value: object, macros: dict[str, _Statement], where: str, trail: tuple[str, ...] = ()) -> object:
    """The value with macros replaced and references under their canonical names."""
    if isinstance(value, dict):
        return {_substitute(key, macros, where, trail): _substitute(part, macros, where, trail) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_substitute(part, macros, where, trail) for part in value)
    if isinstance(value, Symbol) and "/" in value.name:
        raise UserError(where, expected="a name without a scope", found=repr(value), cure=f"write {value.sign}{value.name.rpartition('/')[2]}")
    if isinstance(value, Symbol) and value.sign == "@":
        return Symbol("@", _configurable(value.name, where, function=True), value.call)
    if isinstance(value, Symbol):
        if value.name not in macros or value.name in trail:
            found = f"{value!r}, which {'contains itself' if value.name in trail else 'is bound nowhere'}"
            raise UserError(where, expected="a macro", found=found, cure=f"add a line {value.name} = value.{suggest(value.name, macros)}")
        return _substitute(macros[value.name].value, macros, where, (*trail, value.name))
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(where, expected="a finite number", found=str(value))
    return value


def _typed(key: str, statement: _Statement, value: object, annotation: object) -> object:
    try:
        return fit(value, annotation)
    except (TypeError, ValueError, OverflowError) as error:
        if typing.get_origin(annotation) is collections.abc.Callable:
            cure = f"write {key} = @name, without quotes and brackets"
            raise UserError(f"{key} ({statement.where})", expected="a function", found=repr(value), cure=cure) from error
        found = f"{_shown(value)} ({'a reference' if isinstance(value, Symbol) else type(value).__name__})"
        cure = suggest(str(value), [choice for choice in typing.get_args(annotation) if isinstance(choice, str)]).strip()
        members = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
        if members and type(value) in members and ... not in members:  # one number in the place of several
            cure = f"write {key} = {(value,) * len(members)!r}"
        raise UserError(f"{key} ({statement.where})", expected=in_words(annotation), found=found, cure=cure) from error
