"""Whether TensorFlow computes with oneDNN: the user's variable first, then what the run recorded, then what suits the CPU; decided before the import."""

import json
import os
import subprocess
import sys

import pytest
import toy_runs

from flexseg import machine
from flexseg.errors import UserError
from flexseg.launch.local import free_addresses
from flexseg.runs.directory import recorded_onednn

AVX2, NEWER, NONE = frozenset({"avx", "avx2", "fma"}), frozenset({"avx2", "avx512f", "avx512_vnni"}), frozenset({"sse4_2"})


@pytest.fixture
def cpu(monkeypatch):
    """Sets the CPU's flags, the user's variable, and a process without TensorFlow."""

    def become(flags, variable=None):
        monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
        monkeypatch.delitem(sys.modules, "tensorflow")
        monkeypatch.setenv(machine.VARIABLE, variable or "")
        if variable is None:
            monkeypatch.delenv(machine.VARIABLE)

    return become


@pytest.mark.parametrize(
    ("flags", "variable", "recorded", "chosen"),
    [
        (AVX2, None, None, "1"), (NEWER, None, None, "1"), (NONE, None, None, None),  # the CPU
        (AVX2, None, False, "0"), (NONE, None, True, "1"), (AVX2, None, True, "1"),  # the run
        (AVX2, "0", None, "0"), (AVX2, "false", True, "false"), (NONE, "1", False, "1"),  # the user
    ],
)  # fmt: skip
def test_the_user_comes_before_the_run_and_the_run_before_the_cpu(cpu, flags, variable, recorded, chosen):
    cpu(flags, variable)
    machine.choose_onednn(recorded=recorded)
    assert os.environ.get(machine.VARIABLE) == chosen


def test_flags_are_those_of_the_kernel_s_table_and_none_without_it(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / name.rsplit("/", 1)[-1])
    assert machine.cpu_flags() == frozenset()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: flags\nflags\t\t: fpu avx2 sse2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert machine.cpu_flags() == {"fpu", "avx2", "sse2"}


def test_a_value_that_tensorflow_does_not_read_is_refused(cpu):
    cpu(AVX2, "yes")
    with pytest.raises(UserError, match="TF_ENABLE_ONEDNN_OPTS: expected 0 or 1, found 'yes'. To fix it: unset TF_ENABLE_ONEDNN_OPTS"):
        machine.choose_onednn()


def test_this_cpu_is_read_as_tensorflow_reads_it():
    """The rule that TensorFlow has where nobody decides, against TensorFlow in a process without the variable."""
    environment = {name: value for name, value in os.environ.items() if name != machine.VARIABLE}
    code = "import tensorflow; from flexseg.machine import onednn_by_default, onednn_in_use; print(onednn_by_default() == onednn_in_use())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.slow
def test_a_run_keeps_its_kernels_and_a_process_that_has_others_is_told(toy, tmp_path):
    """An evaluation in a new process takes what environment.json says; with TensorFlow imported before, it cannot, and says so."""
    run = tmp_path / "run"
    said = toy_runs.train(toy, run, "train.epochs=1")
    assert f"onednn     {'on' if machine.onednn_in_use() else 'off'} for CPU kernels; " in said
    environment = json.loads((run / "environment.json").read_text())
    assert environment["onednn"] is machine.onednn_in_use() is recorded_onednn(str(run))

    other = not machine.onednn_in_use()
    (run / "environment.json").write_text(json.dumps(environment | {"onednn": other}))
    first, left = "import os; from flexseg.machine import onednn_in_use", f"assert {machine.VARIABLE!r} not in os.environ"
    then = f"import flexseg; flexseg.evaluate(workdir={str(run)!r}, split='valid'); print(onednn_in_use()); {left}"
    clean = {name: value for name, value in os.environ.items() if name != machine.VARIABLE}
    done = subprocess.run([sys.executable, "-c", f"{first}; {then}"], env=clean, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith(f"{other}\n") and "warning" not in done.stdout, done.stderr
    opposite = clean | {machine.VARIABLE: str(int(not other))}
    late = f"import os, tensorflow; del os.environ[{machine.VARIABLE!r}]"
    done = subprocess.run([sys.executable, "-c", f"{late}; {first}; {then}"], env=opposite, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("warning: TensorFlow was imported in this process with") == 1, done.stderr
    assert f"with {machine.VARIABLE}={int(other)} before the import" in done.stdout

    said = toy_runs.train(toy, run, "train.epochs=2")
    was, now = ("on", "off") if other else ("off", "on")
    assert f"warning: oneDNN was {was} in this run and is {now} here; {machine.VARIABLE}={int(other)} keeps its bits" in said


@pytest.mark.slow
def test_workers_whose_kernels_differ_are_all_stopped_with_the_line_to_type(toy, tmp_path):
    """By subprocess: what TensorFlow reads when it is imported must differ."""
    addresses, started = ",".join(free_addresses(2)), []
    for worker, value in enumerate("10"):
        words = toy_runs.train_command_line(toy, tmp_path / "run", workers=addresses, worker=worker)
        command = [sys.executable, "-m", "flexseg.commands.dispatcher", *words]
        started.append(
            subprocess.Popen(command, env=os.environ | {machine.VARIABLE: value}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    told = [process.communicate(timeout=300) for process in started]
    for process, (_, wrong) in zip(started, told, strict=True):
        assert process.returncode == 1
        assert (
            "worker 1: expected the chief's TF_ENABLE_ONEDNN_OPTS: 1, found 0. To fix it: on all workers TF_ENABLE_ONEDNN_OPTS=1 flexseg train"
            in wrong
        )
    assert not (tmp_path / "run").exists()


def test_a_run_that_recorded_nothing_keeps_what_tensorflow_decided(tmp_path, monkeypatch):
    (tmp_path / "environment.json").write_text("{}")
    for flags, chosen in ((AVX2, False), (NEWER, True), (frozenset(), None)):  # the last: no x86
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: flags)
        assert recorded_onednn(str(tmp_path)) is chosen


@pytest.mark.parametrize("text", ["", "[]", "{", '{"onednn": "yes"}', "[" * 100_000, '{"onednn": true}' + " " * 2**20, None])
def test_what_no_run_wrote_records_nothing(tmp_path, text):
    if text is not None:
        (tmp_path / "environment.json").write_text(text)
    assert recorded_onednn(str(tmp_path)) is None


def test_what_hangs_when_it_is_read_records_nothing(tmp_path):
    os.mkfifo(tmp_path / "environment.json")
    assert recorded_onednn(str(tmp_path)) is None


def test_a_record_that_was_edited_ends_in_no_traceback(toy, tmp_path):
    toy_runs.train(toy, tmp_path / "run", "train.epochs=1", "train.steps_per_epoch=1")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment | {"onednn": "yes"}))
    said = toy_runs.train(toy, tmp_path / "run", "train.epochs=2", "train.steps_per_epoch=1")
    assert "resumed after epoch 1" in said and "oneDNN was" not in said
