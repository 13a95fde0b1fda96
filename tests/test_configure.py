"""flexseg/config/configure.py: what is refused, with which words, and what is in force afterwards."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import gin
import pytest

from flexseg.config.annotations import in_words
from flexseg.config.configure import configure
from flexseg.errors import UserError


@gin.configurable("toy_schedule", module="toy")
def toy_schedule(rate: float = 0.1):
    return rate


@gin.configurable("toy_train", module="toy")
@dataclass(frozen=True, kw_only=True)
class ToyTrain:
    epochs: int = 3
    rate: float = 0.1
    deterministic: bool = False
    monitor: str = "val_loss"
    off_map: Literal["refuse", "nearest"] = "refuse"
    size: tuple[int, int] = (8, 8)
    names: tuple[str, ...] = ()
    limit: int | None = None
    colors: dict | None = None
    weights: dict[str, float] | None = None
    steps: Sequence[int] = ()
    schedule: Callable | None = None
    anything: object = None


@gin.configurable("toy_kernels", module="toy")
def toy_kernels(kernels: int | tuple[int, int] = 3, either: int | float = 1):
    return kernels, either


@pytest.fixture(autouse=True)
def _clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def folder(tmp_path):
    """A config folder; `folder / "run"` stands for somewhere else on the disk."""
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "default.gin").write_text("toy_train.epochs = 5\n")
    (tmp_path / "configs" / "models" / "toy.gin").write_text("toy_train.size = (16, 16)\n")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def read(folder, *params, text=None, files=("default.gin",)):
    if text is not None:
        (folder / "elsewhere" / "mine.gin").write_text(text)
        files = (str(folder / "elsewhere" / "mine.gin"),)
    return configure(files, params, config_folders=[folder / "configs"])


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        read(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def value(folder, binding):
    """The one binding, as gin hands it to the configured class."""
    read(folder, binding, files=())
    parameter = binding.split("=")[0].split(".")[1].strip()
    return gin.get_bindings(binding.split(".")[0])[parameter]


# Files


def test_a_shipped_name_a_path_and_a_name_in_a_folder_are_found(folder, monkeypatch):
    assert read(folder).bindings == {"toy_train.epochs": "5"}
    assert read(folder, files=["models/toy.gin"]).bindings == {"toy_train.size": "(16, 16)"}
    monkeypatch.chdir(folder / "configs" / "models")
    assert read(folder, files=["toy.gin"]).sources == {"toy_train.size": "models/toy.gin:1"}


def test_an_unknown_file_is_answered_with_the_shipped_names_and_a_suggestion(folder):
    message = refusal(folder, files=["defualt.gin"])
    assert "--gin_file=defualt.gin" in message and "Did you mean 'default.gin'?" in message
    assert "Use one of default.gin, models/toy.gin." in refusal(folder, files=["0"])


def test_a_config_file_of_the_reference_is_answered_with_a_sentence(folder):
    message = refusal(folder, files=["train_eval_infer.config"])
    assert "flexseg import_config train_eval_infer.config" in message


def test_a_file_that_is_no_text_is_refused(folder):
    (folder / "configs" / "binary.gin").write_bytes(b"\xff\xfe\x00")
    assert "expected a readable UTF-8 text file" in refusal(folder, files=["binary.gin"])


def test_the_shipped_folder_is_the_one_of_flexseg_configs():
    with pytest.raises(UserError) as caught:
        configure(["no_such_file.gin"], [])
    assert "no such file" in str(caught.value)


def test_an_import_in_a_file_is_refused_and_not_executed(folder):
    for statement in ("import this_would_run", "from os import path"):
        message = refusal(folder, text=f"toy_train.epochs = 1\n{statement}\n")
        assert "mine.gin:2" in message and statement in message and "--user_module" in message
    assert "this_would_run" in refusal(folder, "import this_would_run")


def test_includes_come_from_the_config_folders_or_the_folder_of_the_file(folder):
    (folder / "elsewhere" / "base.gin").write_text("toy_train.epochs = 1\ntoy_train.limit = 2\n")
    configuration = read(folder, text="include 'base.gin'\ninclude 'models/toy.gin'\ntoy_train.epochs = 9\n")
    assert configuration.bindings == {"toy_train.epochs": "9", "toy_train.limit": "2", "toy_train.size": "(16, 16)"}
    assert "over 1 (" in configuration.sources["toy_train.epochs"] and "base.gin:1" in configuration.sources["toy_train.epochs"]


@pytest.mark.parametrize("escape", ["../secret.gin", "{folder}/secret.gin", "link.gin"])
def test_an_include_from_elsewhere_is_refused(folder, escape):
    (folder / "secret.gin").write_text("toy_train.epochs = 1\n")
    (folder / "elsewhere" / "link.gin").symlink_to(folder / "secret.gin")
    message = refusal(folder, text=f"include '{escape.format(folder=folder)}'\n")
    assert "mine.gin:1" in message and "lies elsewhere" in message


def test_an_include_that_is_missing_circular_or_on_the_command_line_is_refused(folder):
    assert "does not exist" in refusal(folder, text="include 'nothing.gin'\n")
    assert "includes itself" in refusal(folder, text="include 'mine.gin'\n")
    assert "use --gin_file=default.gin" in refusal(folder, "include 'default.gin'")


def test_a_syntax_error_names_file_line_and_text_in_one_line(folder):
    for line in ("toy_train.epochs = ", "toy_train.epochs 3", "toy_train.monitor = loss", "toy_train.epochs = 3 4", "= 3", "toy_train.size = (1,"):
        message = refusal(folder, text=f"toy_train.rate = 0.5\n{line}\n")
        assert "mine.gin:" in message and (line.strip() in message or "EOF" in message), message
    assert '--gin_param="toy_train.monitor=val_loss"' in refusal(folder, "toy_train.monitor=val_loss")


@pytest.mark.parametrize(
    "junk", ["\0", "(" * 5000, "a.b = " + "[" * 5000, "  x = 3\n y", "a.b = 'open", '"""', "@", "%", "\u00e9.b = 1", "a.b = $", "a:\n"]
)
def test_no_text_whatever_leads_to_a_traceback(folder, junk):
    refusal(folder, text=junk)


# Bindings


def test_a_later_file_and_a_parameter_override_and_are_recorded(folder):
    (folder / "configs" / "second.gin").write_text("toy_train.epochs = 6\ntoy_train.rate = 1\n")
    configuration = read(folder, "toy_train.epochs=7", files=["default.gin", "second.gin"])
    assert configuration.bindings == {"toy_train.epochs": "7", "toy_train.rate": "1.0"}
    assert configuration.sources == {"toy_train.epochs": "--gin_param, over 6 (second.gin:1)", "toy_train.rate": "second.gin:2"}
    assert ToyTrain().epochs == 7


def test_one_parameter_twice_in_one_file_is_refused_with_both_lines(folder):
    message = refusal(folder, text="toy_train.epochs = 1\n\ntoy.toy_train.epochs = 2\n")
    assert "mine.gin:3" in message and "mine.gin:1" in message
    message = refusal(folder, text="RATE = 1.0\nRATE = 2.0\ntoy_train.rate = %RATE\n")
    assert "mine.gin:2" in message and "mine.gin:1" in message


def test_a_block_binds_like_single_lines(folder):
    assert read(folder, text="toy_train:\n  epochs = 4\n  rate = 0.5\n").bindings == {"toy_train.epochs": "4", "toy_train.rate": "0.5"}


def test_unknown_names_are_refused_with_file_line_and_a_suggestion(folder):
    message = refusal(folder, text="\ntoy_trian.epochs = 1\n")
    assert "mine.gin:2" in message and "Did you mean 'toy_train'?" in message
    message = refusal(folder, text="toy_train.epocs = 1\n")
    assert "mine.gin:1" in message and "Did you mean 'epochs'?" in message
    assert "Did you mean 'toy_schedule'?" in refusal(folder, "toy_train.schedule=@toy_shedule")
    assert "'macro'" in refusal(folder, "macro.value=1")


def test_a_name_that_two_modules_registered_must_be_written_in_full(folder):
    @gin.configurable("toy_twin", module="toy.left")
    def left(x: int = 1):
        return x

    @gin.configurable("toy_twin", module="toy.right")
    def right(x: int = 1):
        return x

    assert "toy.left.toy_twin and toy.right.toy_twin" in refusal(folder, "toy_twin.x=1")
    assert read(folder, "toy.right.toy_twin.x=1", files=()).bindings == {"right.toy_twin.x": "1"}
    assert (left(), right()) == (1, 1)


def test_scopes_are_refused_in_names_references_and_macros(folder):
    assert "a binding without a scope" in refusal(folder, "fine/toy_train.epochs=1")
    assert "a name without a scope" in refusal(folder, "toy_train.schedule=@fine/toy_schedule")
    assert "a name without a scope" in refusal(folder, "toy_train.rate=%fine/RATE")


# Macros


def test_macros_are_replaced_wherever_they_stand(folder):
    text = "WIDTH = 4\nSIZE = (%WIDTH, %WIDTH)\ntoy_train.size = %SIZE\ntoy_train.weights = {'a': %RATE}\nRATE = 0.5\n"
    assert read(folder, text=text).bindings == {"toy_train.size": "(4, 4)", "toy_train.weights": "{'a': 0.5}"}
    assert read(folder, "RATE=2", text=text).bindings["toy_train.weights"] == "{'a': 2.0}"


def test_a_missing_or_circular_macro_is_refused(folder):
    message = refusal(folder, text="RATE = 0.5\ntoy_train.limit = %RAET\ntoy_train.rate = %RATE")
    assert "mine.gin:2" in message and "%RAET, which is bound nowhere" in message and "Did you mean 'RATE'?" in message
    assert "contains itself" in refusal(folder, text="A = %B\nB = %A\ntoy_train.rate = %A\n")


def test_a_macro_that_nothing_uses_is_a_misspelt_binding(folder):
    assert "write toy_train.epochs" in refusal(folder, "epochs=3")
    assert "mine.gin:1" in refusal(folder, text="UNUSED = 3\n")
    overridden = "RATE = 0.5\ntoy_train.rate = %RATE\n"
    assert read(folder, "toy_train.rate=0.1", text=overridden).bindings == {"toy_train.rate": "0.1"}
    assert "nothing uses" in refusal(folder, "RATE=1.0", "toy_train.rate=0.1", text=overridden)


# Types


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("toy_train.epochs=-4", -4),
        ("toy_train.rate=1", 1.0),
        ("toy_train.rate=1e-4", 1e-4),
        ("toy_train.deterministic=True", True),
        ("toy_train.monitor='it''s \"x\"'", 'its "x"'),
        ("toy_train.off_map='nearest'", "nearest"),
        ("toy_train.size=[4, 5]", (4, 5)),
        ("toy_train.names=['a', 'b']", ("a", "b")),
        ("toy_train.names=()", ()),
        ("toy_train.limit=None", None),
        ("toy_train.limit=3", 3),
        ("toy_train.colors={(0,0,0):0,(255,255,255):1,}", {(0, 0, 0): 0, (255, 255, 255): 1}),
        ("toy_train.weights={'a': 1}", {"a": 1.0}),
        ("toy_train.steps=(1, 2)", (1, 2)),
        ("toy_train.anything=[1, 'a', None]", [1, "a", None]),
        ("toy_train.rate=@toy_schedule()", 0.1),
        ("toy_kernels.kernels=(3, 5)", (3, 5)),
        ("toy_kernels.either=2.5", 2.5),
        ("toy_kernels.either=2", 2),
    ],
)
def test_a_value_that_fits_arrives_in_the_annotated_type(folder, binding, expected):
    found = value(folder, binding)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("binding", "expected", "found"),
    [
        ("toy_train.epochs=True", "int", "True (bool)"),
        ("toy_train.epochs=3.0", "int", "3.0 (float)"),
        ("toy_train.epochs='3'", "int", "'3' (str)"),
        ("toy_train.epochs=None", "int", "None (NoneType)"),
        ("toy_train.rate='1e-4'", "float", "'1e-4' (str)"),
        ("toy_train.rate=False", "float", "False (bool)"),
        ("toy_train.rate=1e999", "a finite number", "inf"),
        ("toy_train.rate=1" + "0" * 400, "float", "(int)"),
        ("toy_train.deterministic=1", "bool", "1 (int)"),
        ("toy_train.monitor=1", "str", "1 (int)"),
        ("toy_train.off_map='neerest'", "'refuse' or 'nearest'", "Did you mean 'nearest'?"),
        ("toy_train.size=(4, 5, 6)", "(int, int)", "(4, 5, 6) (tuple)"),
        ("toy_train.size=4", "(int, int)", "4 (int). To fix it: write toy_train.size = (4, 4)"),
        ("toy_train.size=(4, 5.0)", "(int, int)", "(4, 5.0) (tuple)"),
        ("toy_train.names=('a', 1)", "tuple of str", "('a', 1)"),
        ("toy_train.names='ab'", "tuple of str", "'ab' (str)"),
        ("toy_train.limit='3'", "int or None", "'3' (str)"),
        ("toy_train.colors=[1]", "dict or None", "[1] (list)"),
        ("toy_train.weights={1: 1.0}", "{str: float} or None", "{1: 1.0}"),
        ("toy_train.schedule=0.1", "@function or None", "0.1 (float)"),
        ("toy_train.rate=@toy_schedule", "float", "@toy_schedule (a reference)"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(folder, binding, expected, found):
    message = refusal(folder, binding, files=())
    assert expected in message and found in message and "--gin_param" in message


def test_a_wrong_type_in_a_file_is_refused_with_its_line_and_leaves_gin_alone(folder):
    read(folder, "toy_train.epochs=11")
    assert "toy_train.rate (" in (message := refusal(folder, text="\ntoy_train.rate = '0.1'\n")) and "mine.gin:2" in message
    assert ToyTrain().epochs == 11


def test_a_reference_arrives_as_the_configured_function(folder):
    read(folder, "toy_train.schedule=@toy.toy_schedule", "toy_schedule.rate=0.5", files=())
    assert ToyTrain().schedule() == 0.5


# What is in force


def test_the_state_of_an_earlier_call_is_gone(folder):
    read(folder, "toy_train.rate=0.7")
    read(folder)
    assert ToyTrain() == ToyTrain(epochs=5, rate=0.1)


def test_the_text_is_deterministic_and_reads_back_as_itself(folder):
    params = ["toy_train.schedule=@toy_schedule", "toy_train.monitor='a\\nb%c'", "toy_train.colors={(0, 0): 1}", "toy_schedule.rate=1"]
    text = read(folder, *params).text
    assert text == read(folder, *reversed(params)).text
    assert read(folder, text=text).text == text
    assert text.startswith("# toy_schedule\ntoy_schedule.rate = 1.0\n\n# toy_train\n")
    assert configure([], []).text.strip() == "" and configure([], []).summary() == ""


def test_the_summary_shows_every_binding_with_its_source(folder):
    lines = read(folder, "toy_schedule.rate=0.5").summary().splitlines()
    assert lines == ["toy_schedule.rate = 0.5  (--gin_param)", "toy_train.epochs  = 5    (default.gin:1)"]


def test_the_operative_text_holds_defaults_after_the_call(folder):
    configuration = read(folder)
    assert "epochs" not in configuration.operative()
    ToyTrain()
    assert "toy_train.epochs = 5" in configuration.operative() and "toy_train.rate = 0.1" in configuration.operative()


def test_a_function_that_nothing_binds_is_told_as_it_would_be_bound(folder):
    assert configure([], [], modules=["flexseg.models.build"]).value("build_model.architecture") == "@flex_unet"


def test_the_difference_names_the_bindings_that_differ(folder):
    run = read(folder, "toy_train.rate=0.5", "toy_schedule.rate=0.2").text
    assert read(folder, "toy_train.rate=0.5", "toy_schedule.rate=0.2").difference(run) == []
    now = read(folder, "toy_train.epochs=9", "toy_train.size=[8, 8]", "toy_schedule.rate=0.2")
    assert now.difference(run) == ["toy_train.epochs: here 9, in the run 5", "toy_train.rate: here 0.1, in the run 0.5"]  # the size is the default's
    assert now.difference(run, ignore=frozenset({"toy_train.epochs"})) == ["toy_train.rate: here 0.1, in the run 0.5"]
    assert now.difference(run, ignore={"toy_train"}) == []
    assert len(now.difference(run, ignore={"toy", "toy_train.epo"})) == 2
    with pytest.raises(UserError, match="the run's config.gin:1"):
        now.difference("half a li")


# User modules


def test_a_user_module_in_the_current_directory_registers_its_functions(folder, monkeypatch):
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (folder / "elsewhere" / "toy_user_models.py").write_text("import gin\n@gin.configurable('toy_mine', module='u')\ndef f(x: int = 1): return x\n")
    configuration = configure([], ["toy_mine.x=2"], user_modules=["toy_user_models"])
    assert configuration.user_modules == ("toy_user_models",)
    assert configuration.text == "# needs --user_module=toy_user_models\n\n# toy_mine\ntoy_mine.x = 2\n"
    assert read(folder, text=configuration.text).bindings == configuration.bindings


def test_a_mistake_in_a_file_is_found_before_any_module_is_imported(folder):
    (folder / "configs" / "default.gin").write_text("import os\n")
    with pytest.raises(UserError, match="would be executed"):
        configure(["default.gin"], [], modules=["no.such.module"], user_modules=["nor_this"], config_folders=[folder / "configs"])


def test_configure_imports_no_tensorflow():
    code = "import sys, flexseg.config.configure; sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("annotation", "text"),
    [(int | None, "int or None"), (tuple[str | int, ...], "tuple of (str or int)"), (tuple[int, int], "(int, int)"), (dict[int, str], "{int: str}")],
)
def test_a_type_is_told_in_words(annotation, text):
    assert in_words(annotation) == text
