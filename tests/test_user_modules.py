"""User modules: what fails in them is one line that names their line, and a run knows with which text of them it was trained."""

import json
import subprocess
import sys

import pytest
import toy_runs

from flexseg import user_modules
from flexseg.errors import UserError
from flexseg.models.build import build_model
from flexseg.user_modules import changes, digests, import_user_module, recorded

WRAPPER = """import gin
import keras

from flexseg.models.flex_unet import flex_unet

@gin.configurable
def wrapping_net(*, image_size, image_channels, num_classes, normalization: type = keras.layers.GroupNormalization, group_count: int = 4):
    return flex_unet(image_size=image_size, image_channels=image_channels, num_classes=num_classes)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current directory, in which modules are found for this test alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(("name", "text", "words"), [
    ("broken", "\n\nraise RuntimeError('two\\nlines')\n", r"can be imported, found RuntimeError: two \(broken.py:3\)"),
    ("within_keras", "import keras\n\nkeras.layers.Conv2D(0, 3)\n", r"ValueError: .* \(within_keras.py:3\)"),
    ("helped", "import no_such_helper\n", r"can be imported, found ModuleNotFoundError: No module named 'no_such_helper' \(helped.py:1\)"),
    ("half", "def f(:\n", r"valid Python, found invalid syntax \(half.py:1: def f\(:\)"),
])  # fmt: skip
def test_a_module_that_fails_is_one_line_that_names_its_line(here, name, text, words):
    (here / f"{name}.py").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        import_user_module(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [
    ("my_modles", "found no module named 'my_modles'. .*Did you mean 'my_models'"), ("my_models.nets", "found no module named 'my_models.nets'"),
    ("./my_models.py", "--user_module=my_models$"), ("folder/nets.py", "--user_module=folder.nets$"), ("folder", "a package with __init__.py, found a folder"),
])  # fmt: skip
def test_a_name_that_is_none_is_answered_with_what_to_type(here, name, words):
    (here / "my_models.py").write_text("")
    (here / "folder").mkdir()
    with pytest.raises(UserError, match=words):
        import_user_module(name)


def test_every_text_that_a_run_was_trained_with_is_remembered(here):
    (here / "package").mkdir()
    for name in ("__init__", "nets"):
        (here / "package" / f"{name}.py").write_text("")
    import_user_module("package")
    first = recorded(["package"], earlier={})
    assert changes(first, ["package"]) == [] and recorded(["package"], earlier=first) == first
    same = digests(["package"])
    (here / "package" / "nets.py").write_text("x = 1\n")
    assert digests(["package"]) != same
    both = recorded(["package"], earlier=first)
    assert len(both["package"]) == 2
    for record in (first, both):
        (sentence,) = changes(json.loads(json.dumps(record)), ["package"])
        assert str(here / "package" / "__init__.py") in sentence and "another text" in sentence
    gone = {"gone_models": [{"file": "a.py", "sha256": "0"}]}
    assert changes(gone, []) == ["--user_module=gone_models, which the run was trained with, is not given"]


def test_a_network_made_of_another_takes_that_one_s_bindings(here, toy):
    (here / "wrapping.py").write_text(WRAPPER)
    given = ("build_model.architecture=@wrapping_net", "flex_unet.base_filters=2", "flex_unet.num_layers=2", "wrapping_net.group_count=2")
    said = toy_runs.train(toy, here / "run", *given, "train.epochs=1", user_module="wrapping")
    assert "wrapping" in json.loads((here / "run" / "environment.json").read_text())["user_modules"] and "ended: epochs" in said


def test_a_run_that_knows_the_names_of_its_modules_alone_is_evaluated_and_goes_on(here, toy):
    toy_runs.train(toy, here / "run", "train.epochs=1")
    path = here / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"user_modules": []}))
    assert toy_runs.evaluate(here / "run", split="test")[0]["provenance"]["warnings"] == []
    path.write_text(json.dumps(json.loads(path.read_text()) | {"user_modules": []}))
    assert "resumed after epoch 1" in toy_runs.train(toy, here / "run", "train.epochs=2")


def test_a_class_as_architecture_that_fails_is_told_by_its_own_line(here):
    (here / "of_class.py").write_text(
        "class Net:\n    def __init__(self, *, image_size, image_channels, num_classes):\n        raise ValueError('no')\n"
    )
    import_user_module("of_class")
    with pytest.raises(UserError, match=r"= @Net: expected a network, found ValueError: no \(of_class.py:3\)"):
        build_model(image_size=(8, 8), channels=1, classes=2, architecture=sys.modules["of_class"].Net)


def test_of_a_module_that_is_missing_its_helper_is_told_apart():
    assert user_modules.is_missing(ModuleNotFoundError(name="a.b"), "a.b.c") and user_modules.is_missing(ModuleNotFoundError(name="a"), "a.b")
    assert not user_modules.is_missing(ModuleNotFoundError(name="helper"), "a.b") and not user_modules.is_missing(ImportError(name="a"), "a")


def test_a_build_lets_settings_of_one_s_own_network_be(tmp_path):
    """A process of its own: build_model has no name there, which tests of networks beside it would give it."""
    (tmp_path / "my_nets.py").write_text(
        "import gin\n\n@gin.configurable\ndef built_net(*, image_size, image_channels, num_classes, depth: int = 3, width: int = 8):\n    return None\n"
    )
    (tmp_path / "net.gin").write_text("built_net.depth = 4\n")
    params = ("built_net.width=4", "synthetic_nuclei.image_size=(64,64)", "synthetic_nuclei.slides=(1,0,0)")
    words = [
        "build",
        "--dataset=synthetic_nuclei",
        "--data_dir=data",
        "--user_module=my_nets",
        "--gin_file=net.gin",
        *(f"--gin_param={p}" for p in params),
    ]
    done = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
