"""flexseg/commands/dispatcher.py: what is listed, what is imported, and with which exit code a command ends."""

import os
import resource
import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from flexseg.commands import dispatcher

TOY = '''
"""Does what a test asks for.

More about it.
"""
from collections.abc import Sequence
from typing import Literal

from absl import logging
from flexseg.commands import dispatcher
from flexseg.commands.config_flags import Positive, flags_of, values
from flexseg.errors import UserError


def run(
    *, workdir: str, epochs: Positive = 3, xla: bool = True, split: Literal["valid", "test"] = "valid",
    gin_file: Sequence[str] = (), gin_param: Sequence[str] = (), user_module: Sequence[str] = (),
):
    """Runs.

    Args:
      workdir: Where things go.
      epochs: How often.
      xla: Whether to compile.
      split: Which part.
    """


FLAGS = flags_of(run)


def main(args):
    print(args, values(FLAGS))
    logging.info("an informing line")
    logging.warning("a warning line")
    {body}
'''
OTHER = '''"""Another one."""
from absl import flags
FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "there", "The same name as the other command's.", flag_values=FLAGS)
flags.DEFINE_string("dataset", None, "A required one.", required=True, flag_values=FLAGS)
POSITIONAL = "FILE ..."
def main(args):
    print(args, FLAGS.workdir)
'''
BROKEN = '"""Must not be imported unless it is asked for."""\nimport no_such_module\ndef main(args): pass\n'
DRIVER = """
import sys
import flexseg.commands
from flexseg.commands import dispatcher
flexseg.commands.__path__.append({folder!r})
dispatcher.__file__ = {folder!r} + "/dispatcher.py"
{action}
"""


@pytest.fixture
def flexseg(tmp_path):
    """Runs `flexseg *args` in a process of its own, with three toy commands; `body` is the end of the first one's main."""

    def call(*args, body="return 0", action="dispatcher.main()"):
        (tmp_path / "toy.py").write_text(TOY.replace("{body}", textwrap.indent(body, " " * 4).strip()))
        (tmp_path / "other.py").write_text(OTHER)
        (tmp_path / "broken.py").write_text(BROKEN)
        (tmp_path / "no_command.py").write_text('"""Has no main."""\n')
        code = DRIVER.format(folder=str(tmp_path), action=action)
        return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)

    return call


def one_line(result) -> str:
    assert result.stderr.count("\n") == 1 and result.stdout == "", (result.stdout, result.stderr)
    return result.stderr


# What there is


def test_the_commands_that_exist_are_listed_with_their_summaries(flexseg):
    for arguments in ([], ["--help"]):
        result = flexseg(*arguments)
        assert result.returncode == 0 and result.stderr == ""
        assert "  toy     Does what a test asks for.\n" in result.stdout and "  other   Another one.\n" in result.stdout
        assert "no_command" not in result.stdout and "dispatcher" not in result.stdout


def test_every_command_of_the_package_has_a_summary_and_no_other_is_listed():
    assert all(summary.endswith(".") for summary in dispatcher.commands().values()), dispatcher.commands()
    assert not {"dispatcher", "config_flags", "__init__"} & dispatcher.commands().keys()


def test_an_unknown_command_is_answered_with_a_suggestion(flexseg):
    result = flexseg("tooy", "--epochs=3")
    assert result.returncode == 1 and "Did you mean 'toy'?" in one_line(result)


def test_the_version_tells_what_a_bug_report_needs_and_brings_no_tensorflow(flexseg):
    result = flexseg("--version")
    assert result.returncode == 0 and [line.split()[0] for line in result.stdout.splitlines()] == [
        "flexseg", "python", "system", "libraries", "cpu", "gpus", "onednn",
    ]  # fmt: skip
    assert f"flexseg    {metadata.version('flexseg')}" in result.stdout and f"tensorflow {metadata.version('tensorflow')}" in result.stdout
    assert "logical CPUs" in result.stdout


# Flags


def test_help_prints_the_docstring_then_the_own_flags_with_defaults(flexseg):
    for flag in ("--help", "-h", "--helpfull"):
        result = flexseg("toy", "--epochs=5", flag)
        assert result.returncode == 0 and result.stderr == ""
        head, _, tail = result.stdout.partition("flags:")
        assert "usage: flexseg toy [flags]\n" in head and "Does what a test asks for.\n\nMore about it." in head
        assert "--epochs (default: 3)\n      How often." in tail and "--[no]xla (default: true)" in tail and "--workdir\n" in tail
        assert "One of valid, test." in tail and "overrides the files.\n" in tail and "pdb" not in tail
    assert "usage: flexseg other [flags] FILE ..." in flexseg("other", "--help").stdout


def test_help_read_only_in_part_is_no_error(flexseg):
    result = flexseg("toy", "--help", action="import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); dispatcher.main()")
    assert result.returncode == 0 and result.stderr == ""


def test_flags_arrive_as_keyword_values(flexseg):
    result = flexseg("toy", "--workdir=a", "--noxla", "--gin_param=a.b=1,2", "--gin_param", "c.d=3")
    expected = "{'workdir': 'a', 'epochs': 3, 'xla': False, 'split': 'valid', 'gin_file': [], 'gin_param': ['a.b=1,2', 'c.d=3'], 'user_module': []}"
    assert result.returncode == 0 and result.stdout == f"[] {expected}\n"


def test_an_unknown_flag_is_one_line_with_a_suggestion(flexseg):
    result = flexseg("toy", "--wrokdir=a")
    assert result.returncode == 1 and "--wrokdir" in one_line(result) and "Did you mean 'workdir'?" in result.stderr


def test_a_bad_flag_value_is_one_line(flexseg):
    for flag in ("--epochs=many", "--epochs=0", "--split=train", "--xla=perhaps", "--workdir"):
        result = flexseg("toy", flag)
        assert result.returncode == 1 and flag.partition("=")[0].strip("-") in one_line(result)


def test_a_required_flag_that_is_missing_is_one_line(flexseg):
    result = flexseg("other")
    assert result.returncode == 1 and one_line(result).startswith("flexseg other: --dataset: expected a value that fits, found none.")


def test_positional_arguments_are_refused_unless_the_command_takes_them(flexseg):
    result = flexseg("toy", "--gin_param", "train.epochs", "=", "3")
    assert result.returncode == 1 and "'='" in one_line(result) and '--gin_param="train.epochs = 3"' in result.stderr
    assert flexseg("other", "--dataset=d", "a.png", "--", "--b.png").stdout == "['a.png', '--b.png'] there\n"


def test_two_commands_with_a_flag_of_one_name_run_in_one_process_from_their_defaults(flexseg):
    calls = [["other", "--dataset=d", "--workdir=x"], ["toy", "--epochs=9", "--gin_file=a"], ["other", "--dataset=d"], ["toy"]]
    result = flexseg(action=f"for call in {calls}: dispatcher.run(call)")
    first, second, third, fourth = result.stdout.splitlines()
    assert (first, third) == ("[] x", "[] there")
    assert "'epochs': 9" in second and "'epochs': 3" in fourth and "'gin_file': []" in fourth


# Logging


def test_warnings_are_logged_to_stderr_and_more_on_request(flexseg):
    quiet, loud = flexseg("toy").stderr, flexseg("toy", "--verbosity=0").stderr
    assert "a warning line" in quiet and "an informing line" not in quiet
    assert "a warning line" in loud and "an informing line" in loud


@pytest.mark.parametrize("command", ["build", "check"])
def test_commands_that_compute_nothing_leave_the_gpus_to_a_training(command):
    code = f"import os; from flexseg.commands import {command} as c; c.run = lambda **_: print(os.environ['CUDA_VISIBLE_DEVICES']) or []; "
    code += "c.values = lambda flags: {}; c.main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": "0"})
    assert done.stdout == "-1\n", done.stderr


def test_tensorflow_is_quiet_unless_the_user_wants_to_hear_it(flexseg, monkeypatch):
    body = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert flexseg("toy", body=body).stdout.endswith("\n2\n")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert flexseg("toy", body=body).stdout.endswith("\n0\n")


# Ends


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return None", 0),
        ("return 75", 75),
        ("raise SystemExit(143)", 143),
        ("raise SystemExit('a sentence')", 1),
        ("raise UserError('masks/a.png', expected='0 or 255', found='76', cure='add x')", 1),
        ("raise KeyboardInterrupt", 130),
        ("raise ValueError('odd')", 70),
        ("raise MemoryError", 70),
        ("raise FileNotFoundError(2, 'No such file', 'x')", 70),
        ("raise OSError(28, 'No space left on device', 'x')", 74),
        ("raise OSError(5, 'Input/output error')", 74),
        ("raise RuntimeError('ckpt.tempstate; No space left on device')", 74),
    ],
)
def test_each_end_has_its_exit_code(flexseg, body, code):
    result = flexseg("toy", body=body)
    assert result.returncode == code
    if code not in (0, 75, 143):
        assert result.stderr.splitlines()[-1].startswith("flexseg toy: ")
    assert ("Traceback" in result.stderr) == (code == 70)


def test_a_users_mistake_inside_a_configured_function_is_one_line(flexseg):
    body = """
import gin
@gin.configurable("toy_split")
def split(): raise UserError("split.train", expected="a share", found="two\\nlines", cure="x")
split()"""
    result = flexseg("toy", body=body)
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == ["flexseg toy: split.train: expected a share, found two lines. To fix it: x"]


def test_a_full_disk_inside_a_configured_function_is_still_a_full_disk(flexseg):
    body = """
import gin
@gin.configurable("toy_write")
def write(): raise OSError(28, "No space left on device", "file")
write()"""
    assert flexseg("toy", body=body).returncode == 74


def test_a_required_binding_that_is_missing_is_the_users_mistake(flexseg):
    body = """
import gin
@gin.configurable("toy_needs")
def needs(rate: float = gin.REQUIRED): pass
needs()"""
    result = flexseg("toy", body=body)
    assert result.returncode == 1 and "toy_needs" in result.stderr and "['rate']" in result.stderr and "Traceback" not in result.stderr


def test_tracebacks_go_to_the_runs_log_once_it_is_named(flexseg, tmp_path):
    for number, body in enumerate(["raise ValueError('odd')", "raise UserError('x', expected='y', found='z')"]):
        result = flexseg("toy", body=f"dispatcher.write_tracebacks_to('log.txt'); {body}")
        assert "Traceback" not in result.stderr and (tmp_path / "log.txt").read_text().count("Traceback") == number + 1
    result = flexseg("toy", body="dispatcher.write_tracebacks_to('no/such/log.txt'); raise ValueError('odd')")
    assert result.returncode == 70 and "Traceback" in result.stderr


def test_the_module_runs_as_a_program_and_shares_its_state_with_the_commands():
    result = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", "nothing"], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.startswith("flexseg: command:") and "Warning" not in result.stderr


def test_help_comes_at_once(flexseg):
    """Under 0.3 s. Processor time, the best of five: the machine may be busy with other things."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        flexseg("toy", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3
