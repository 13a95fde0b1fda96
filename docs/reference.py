"""The generated pages of docs/reference/: every command's flags, and every gin binding with type, default and meaning.

An mkdocs hook (`hooks:` in mkdocs.yml). A binding's sentence is its entry under `Args:` or `Attributes:` in the docstring of its configurable, of
a class that this one derives from, or of the settings that networks share (`argument_sentences`). The build fails where a
binding has no sentence, and names it. The page of a configurable follows from the room of its file; nothing is listed here by name.

    PYTHONPATH=docs python -c "import reference; print(reference.without_sentence())"
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from flexseg.commands.config_flags import FlagText, texts_of
from flexseg.config.annotations import in_words
from flexseg.config.docstrings import introduction, sentences_of

ROOT = Path(__file__).parents[1]
PICTURES = {"pictures/quickstart.jpg": ROOT / "launch" / "pictures" / "quickstart.jpg"}  # pages take these from elsewhere in the repository
# Page -> (title, rooms, introduction). Rooms that no page names stand on the first page.
PAGES = {
    "training": (
        "Bindings of training",
        (),
        "What defines an experiment beside the network: `flexseg train` takes these in a gin file or as `--gin_param`.",
    ),
    "models": (
        "Bindings of the networks",
        ("models",),
        "`build_model.architecture = @flex_unet` chooses the network. The bindings of every other network have no effect then. Image size, channels"
        " and classes are no bindings of a network: flexseg gives them to it.",
    ),
    "datasets": (
        "Bindings of datasets and copies",
        ("files", "datasets", "derivation"),
        "What `flexseg build`, `flexseg check` and `flexseg derive` take.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Binding:
    """One parameter of a configurable.

    Attributes:
      name: "train.epochs".
      type: in words of gin, e.g. "int or None".
      default: as gin text.
      meaning: its sentence, "" where the docstring has none.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A name that gin knows.

    Attributes:
      name: "train".
      module: where it is defined.
      text: its docstring up to the first section.
      bindings: in the order of its signature.
    """

    name: str
    module: str
    text: str
    bindings: tuple[Binding, ...]

    @property
    def room(self) -> str:
        """The room of its file: "training" of flexseg.training.settings."""
        return self.module.split(".")[1]


# What can be bound


def configurables() -> list[Configurable]:
    """Everything that flexseg registers with gin, sorted by name; imports TensorFlow."""
    from flexseg.commands.quiet import load_tensorflow

    load_tensorflow()
    for module in registering_modules():
        importlib.import_module(module)
    import gin

    registry = gin.config._REGISTRY  # gin has no public list
    found = {registry.minimal_selector(selector) for selector, _ in registry.items() if not selector.startswith("gin.")}
    targets = {name: gin.get_configurable(name) for name in sorted(found)}
    own = {name: target for name, target in targets.items() if inspect.unwrap(target).__module__.startswith("flexseg.")}
    return [_configurable(name, target) for name, target in own.items()]


def registering_modules() -> list[str]:
    """The modules of flexseg that have a `@gin.configurable`; they are read, not imported."""
    found = []
    for folder, package in (("flexseg", "flexseg"), ("datasets", "flexseg.datasets")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "@gin.configurable" in path.read_text(encoding="utf-8") and _registers(path):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found.append(".".join((package, *parts)).removesuffix(".__init__"))
    return found


def _registers(path: Path) -> bool:
    decorated = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return any("gin.configurable" in ast.unparse(decorator) for node in decorated for decorator in node.decorator_list)


def without_sentence() -> list[str]:
    """The bindings that no docstring explains: "augment.blur_probability"."""
    return [binding.name for configurable in configurables() for binding in configurable.bindings if not binding.meaning]


def _configurable(name: str, target: object) -> Configurable:
    import gin

    from flexseg.models.layers.architecture import argument_sentences

    source = inspect.unwrap(target)
    sentences = argument_sentences(source) if hasattr(source, "shared_arguments") else sentences_of(source)
    bindings = []
    for parameter in inspect.signature(target, eval_str=True).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.default is parameter.empty:
            continue  # a parameter without a default is flexseg's to give
        default = "to be bound" if parameter.default is gin.REQUIRED else default_text(parameter.default)
        bindings.append(Binding(f"{name}.{parameter.name}", in_words(parameter.annotation), default, sentences.get(parameter.name, "")))
    return Configurable(name, source.__module__, introduction(source.__doc__ or ""), tuple(bindings))


def default_text(default: object) -> str:
    """As gin has it: a function is @name."""
    return f"@{default.__name__}" if inspect.isfunction(default) else repr(default)


# Commands


def commands() -> Iterator[tuple[str, str, str, list[FlagText]]]:
    """(command, its docstring, its positional arguments, its flags)."""
    from flexseg.commands import dispatcher

    for name in dispatcher.commands():
        module = importlib.import_module(f"flexseg.commands.{name}")
        yield name, inspect.cleandoc(module.__doc__ or ""), getattr(module, "POSITIONAL", ""), texts_of(module.FLAGS)


# Pages


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown.

    Raises:
      LookupError: bindings without a sentence; the message names them.
    """
    found = configurables()
    if missing := [binding.name for configurable in found for binding in configurable.bindings if not binding.meaning]:
        raise LookupError(f"no sentence in a docstring for {', '.join(missing)}")
    on_page = {page: [c for c in found if c.room in rooms] for page, (_, rooms, _) in PAGES.items()}
    placed = {configurable.name for group in on_page.values() for configurable in group}
    first = next(iter(PAGES))
    on_page[first] = [configurable for configurable in found if configurable.name not in placed]
    made = {"reference/commands.md": _commands_page()}
    for page, (title, _, opening) in PAGES.items():
        made[f"reference/{page}.md"] = _bindings_page(title, opening, on_page[page])
    made["reference/index.md"] = _index(on_page)
    return made


def _index(on_page: dict[str, list[Configurable]]) -> str:
    lines = [
        "# Reference",
        "",
        "These pages are made from the code whenever the documents are built: flags from the commands, bindings from the docstrings.",
        "",
        "* [Commands and their flags](commands.md)",
    ]
    for page, group in on_page.items():
        lines += ["", f"## {PAGES[page][0]}", ""]
        lines += [f"* [`{c.name}`]({page}.md#{c.name}): {_markdown(_first_sentence(c.text))}" for c in group]
    lines += [
        "",
        "How a binding is written, and where, is told on [Training](../training/index.md#configuration).",
    ]
    return "\n".join(lines) + "\n"


def _bindings_page(title: str, introduction: str, group: list[Configurable]) -> str:
    lines = [f"# {title}", "", introduction]
    for configurable in group:
        first, _, rest = configurable.text.partition("\n\n")
        lines += ["", f"## {configurable.name} {{ #{configurable.name} }}", "", _markdown(first), "", *_paragraphs(rest)]
        for binding in configurable.bindings:
            short = binding.name.rpartition(".")[2]  # in the table of contents
            lines += ["", f"### {binding.name} {{ .binding #{binding.name} data-toc-label='{short}' }}", ""]
            lines += [f"`{binding.type}` · default `{binding.default}`", "{ .facts }", "", _markdown(_sentence(binding.meaning))]
    return "\n".join(lines) + "\n"


def _commands_page() -> str:
    lines = ["# Commands and their flags", "", "`flexseg <command> --help` prints the same. `flexseg --help` lists the commands."]
    for name, text, positional, rows in commands():
        first, _, rest = text.partition("\n\n")
        lines += ["", f"## flexseg {name} {{ #{name} }}", "", _markdown(first), ""]
        lines += [*_paragraphs(rest), "", "```text", f"flexseg {name} [flags] {positional}".rstrip(), "```", ""]
        lines += ["| flag | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{flag}` | {f'`{default}`' if default else ''} | {_cell(meaning)} |" for flag, default, meaning in rows]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of a docstring; indented ones are commands."""
    made = []
    for paragraph in filter(str.strip, text.split("\n\n")):
        lines = paragraph.splitlines()
        if all(line.startswith("  ") for line in lines):
            made += ["```bash", textwrap.dedent(paragraph), "```", ""]
        else:
            made += [_markdown(paragraph), ""]
    return made


def _first_sentence(text: str) -> str:
    return text.partition("\n")[0]


def _sentence(text: str) -> str:
    """A docstring's entry with a capital and a full stop, as far as it begins with a plain word."""
    text = text if text.endswith((".", "…", "!", "?")) else f"{text}."
    return text[0].upper() + text[1:] if text[0].isalpha() else text


def _markdown(text: str) -> str:
    """A docstring's text as Markdown: what stands outside `code` means itself."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]#|])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part.replace("|", "&#124;") if part.startswith("`") else re.sub(r"([*_<>\[\]#|])", r"\\\1", part) for part in parts)


# mkdocs


def on_files(files, config):
    """mkdocs's hook: adds the generated pages, and pictures, before the navigation is made."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    try:
        made = pages()
    except LookupError as error:
        raise PluginError(f"docs/reference.py: {error}") from error
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    for path, source in PICTURES.items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files
