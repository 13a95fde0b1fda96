"""The documents build, load nothing from other hosts, lead somewhere with every link, keep their sizes, and explain every binding."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

from flexseg.config.docstrings import documented

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^()\s]+)\)")

pytestmark = pytest.mark.xdist_group("docs")  # the site is built once


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What `mkdocs build --strict` makes: it fails on a link or an anchor that leads nowhere, and on a page outside the navigation."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def reference():
    """docs/reference.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reference"]


class Loaded(HTMLParser):
    """The addresses that a browser fetches by itself.

    Attributes:
      addresses: in the order of the page.
    """

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        """HTMLParser's hook."""
        wanted = {"link": "href"}.get(tag, "src")
        self.addresses += [value or "" for name, value in attrs if name == wanted]


def loaded_by(html: str) -> list[str]:
    parser = Loaded()
    parser.feed(html)
    return parser.addresses


def is_elsewhere(address: str) -> bool:
    return address.startswith(("http:", "https:", "//"))


def anchors_of(markdown: str) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub make them, or as `{ #name }` says."""
    headings = re.findall(r"^#+ (.*?)(?: *\{ *#([\w.-]+) *\})?$", markdown, re.MULTILINE)
    return {given or slugify(heading, "-") for heading, given in headings}


# The site


def test_the_reference_has_every_command_and_an_anchor_for_a_binding(site):
    assert 'id="train.epochs"' in (site / "reference" / "training.html").read_text()
    assert 'id="flex_unet.gradient_checkpointing"' in (site / "reference" / "models.html").read_text()
    assert "--data_dir" in (site / "reference" / "commands.html").read_text()


def test_no_page_loads_anything_from_another_host(site):
    pages = {path: loaded_by(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 30 and all(pages.values())
    assert [(path.name, address) for path, addresses in pages.items() for address in addresses if is_elsewhere(address)] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", styles)


def test_the_search_works_without_a_server(site):
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = {")
    assert "assets/iframe-worker.js" in (site / "index.html").read_text()


def test_a_script_of_another_host_is_seen():
    assert [is_elsewhere(address) for address in loaded_by('<script src="https://a/b.js"></script><link href="c.css"><img src="//d/e.png">')] == [
        True,
        False,
        True,
    ]


# The pages at the top


@pytest.mark.parametrize(("name", "limit"), [("README.md", 12_000), ("BUILD_NOTES.md", 8_000)])
def test_a_page_at_the_top_stays_short(name, limit):
    assert len((ROOT / name).read_bytes()) <= limit


@pytest.mark.parametrize("name", ["README.md", "BUILD_NOTES.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_of_a_page_at_the_top_leads_to_a_file_and_an_anchor(name):
    links = [link for link in LINK.findall((ROOT / name).read_text()) if not is_elsewhere(link)]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in anchors_of((ROOT / path).read_text()), link


def test_build_notes_has_a_line_for_every_decision():
    linked = set(LINK.findall((ROOT / "BUILD_NOTES.md").read_text()))
    pages = [path for path in (DOCS / "decisions").glob("*.md") if path.stem != "index"]
    decisions = {f"docs/decisions/{path.name}#{slugify(name, '-')}" for path in pages for name in re.findall(r"^## (.*)$", path.read_text(), re.M)}
    assert decisions and decisions - linked == set()


def test_the_words_of_0_1_stand_where_they_are_translated_and_on_the_page_on_upgrading_alone():
    old = re.compile(r"settle|raise_by|steps_per_call|remat\b|votes|\bmeter\b|seed_places|slow_rate", re.IGNORECASE)
    code = [path for folder in ("flexseg", "configs") for kind in ("*.py", "*.gin") for path in (ROOT / folder).rglob(kind)]
    pages = [ROOT / "README.md", ROOT / "BUILD_NOTES.md", *DOCS.rglob("*.md"), *code]
    assert {path.name for path in pages if old.search(path.read_text())} == {"upgrading.md", "renamed.py", "checkpoint_format.py"}


# The reference


def test_every_binding_has_a_sentence(reference):
    assert reference.without_sentence() == []


def test_a_binding_without_a_sentence_is_named(reference, monkeypatch):
    binding = reference.Binding("my_net.depth", "int", "3", "")
    monkeypatch.setattr(reference, "configurables", lambda: [reference.Configurable("my_net", "flexseg.models.my_net", "A network.", (binding,))])
    with pytest.raises(LookupError, match="my_net.depth"):
        reference.pages()


def test_a_docstring_explains_several_names_at_once_and_goes_on_in_further_lines(reference):
    docstring = """Trains.

    Args:
      rate: of the learning,
        in steps: 1 or more.
      beta_1, beta_2: of `Adam`.

    Returns:
      loss: no argument.
    """
    assert documented(docstring) == {"rate": "of the learning, in steps: 1 or more.", "beta_1": "of `Adam`.", "beta_2": "of `Adam`."}


def test_text_of_a_docstring_means_itself_in_markdown(reference):
    assert reference._markdown("2**(n - 1) of `a*b` in [0, 1]") == r"2\*\*(n - 1) of `a*b` in \[0, 1\]"
