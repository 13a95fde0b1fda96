"""Several workers are one training: processes under MultiWorkerMirroredStrategy, against one device and against each other.

In float64, where correct variants agree to rounding; dropout and augmentation off; momentum, which after one step is minus rate times gradient.
"""

import re
import signal

import numpy as np
import pytest
import toy_runs
from toys import slow_unless

from flexseg.files.csv_log import read_rows
from flexseg.runs.checkpoint_format import read_checkpoint

EXACT = (
    "train.precision='float64'", "train.global_batch_size=8", "flex_unet.num_layers=2", "flex_unet.base_filters=4", "train.checkpoint_minutes=0",
    "optimizer.name='SGD'", "optimizer.momentum=0.9", "plateau.learning_rate_reducer=False",
)  # fmt: skip
RATE = 0.1
VARIANTS = (("none", "on", 2), ("group", "off", 2), ("group", "on", 4))  # neither, on two: every test below


def parts(workdir, step: int | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The checkpoint of a step, or the last, by part, and by place and kind: Keras numbers layers and optimizers of one process on."""
    folder = workdir / "checkpoints" / f"step_{step:09d}" if step else max((workdir / "checkpoints").glob("step_*"))
    found, _ = read_checkpoint(folder)
    return {part: {re.sub(r"_\d+/", "/", name): array for name, array in arrays.items()} for part, arrays in found.items()}


def several(toy, workdir, *params, count: int, codes=(0,), **options) -> list:
    ended = toy_runs.workers(toy, workdir, *EXACT, *params, count=count, **options)
    for worker, process in enumerate(ended):
        assert process.returncode in codes, f"worker {worker} ended with {process.returncode}:\n{process.stdout[-2000:]}\n{process.stderr[-3000:]}"
    return ended


@pytest.mark.slow
@pytest.mark.parametrize(("normalization", "xla", "count"), VARIANTS)
def test_gradients_and_weights_are_those_of_one_device(toy, tmp_path, normalization, xla, count):
    params = (
        f"flex_unet.normalization='{normalization}'", f"train.xla='{xla}'", "train.epochs=2", "train.steps_per_epoch=5", "train.checkpoint_steps=1",
        f"optimizer.learning_rate={RATE}", "train.keep=100", *(("flex_unet.group_count=2",) if normalization == "group" else ()),
    )  # fmt: skip
    toy_runs.train(toy, tmp_path / "one", *EXACT, *params)
    first, last = parts(tmp_path / "one", 1), parts(tmp_path / "one", 10)
    gradients = {name: array / -RATE for name, array in first["optimizer"].items() if "momentum" in name}
    assert len(gradients) > 10 and all(np.abs(gradient).max() > 0 for gradient in gradients.values())
    several(toy, tmp_path / "several", *params, count=count)
    found = parts(tmp_path / "several", 1)["optimizer"]
    for name, gradient in gradients.items():
        assert np.linalg.norm(found[name] / -RATE - gradient) <= 1e-10 * np.linalg.norm(gradient), name
    found, moved = parts(tmp_path / "several", 10)["model"], []
    for name, weight in last["model"].items():
        where = np.abs(weight - first["model"][name]) >= 1e-3
        moved.append(where.mean())
        assert np.abs(found[name] - weight)[where].max(initial=0) <= 1e-10, name
    assert np.mean(moved) > 0.3, "weights that do not move prove nothing"


@pytest.mark.slow
def test_accumulation_ema_gradient_checkpointing_and_several_steps_a_call_change_nothing_over_workers(toy, tmp_path):
    params = (*LENGTH, "flex_unet.normalization='group'", "flex_unet.group_count=2", "optimizer.ema_momentum=0.5", "optimizer.global_clipnorm=0.5")
    toy_runs.train(toy, tmp_path / "one", *EXACT, *params)
    options = ("train.accumulation_steps=2", "flex_unet.gradient_checkpointing=True", "train.steps_per_execution=3", "train.checkpoint_steps=0")
    several(toy, tmp_path / "two", *params, *options, count=2)
    assert "ema" in parts(tmp_path / "two")
    assert_is(tmp_path / "two", tmp_path / "one")


def table(workdir) -> np.ndarray:
    return np.array([[float(value) for value in row] for name in ("train_losses.csv", "train_metrics.csv") for row in read_rows(workdir / name)[1]])


LENGTH = ("train.epochs=3", "train.steps_per_epoch=4", "optimizer.learning_rate=0.05", "train.checkpoint_steps=1", "eval.batch_size=2")


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """A run of one process that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    toy_runs.train(toy, workdir, *EXACT, *LENGTH)
    return workdir


def assert_is(workdir, whole):
    """The same run to rounding: weights, optimizer, and the tables, whose validation counts every case once."""
    for part, arrays in parts(whole).items():
        for name, array in arrays.items():
            np.testing.assert_allclose(parts(workdir)[part][name], array, rtol=1e-9, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(table(workdir), table(whole), rtol=1e-6)  # metrics are float32


def test_only_the_chief_knows_the_run_directory(toy, tmp_path, whole):
    ended = several(toy, tmp_path / "run", *LENGTH, count=2, workdirs={1: tmp_path / "nobody" / "knows" / "this"})
    assert_is(tmp_path / "run", whole)
    assert not (tmp_path / "nobody").exists() and not ended[1].stdout
    assert "2 workers × 1 × CPU (--workers, --worker: 127.0.0.1:" in ended[0].stdout


@pytest.mark.parametrize(
    ("name", "code", "goes_on"), [slow_unless(n == "SIGTERM", n, c, g) for n, c, g in (("SIGTERM", 143, 2), ("SIGUSR1", 75, 4), ("SIGINT", 130, 1))]
)
def test_a_signal_at_one_worker_ends_all_after_the_same_step_and_any_number_goes_on(toy, tmp_path, whole, name, code, goes_on):
    workdir = tmp_path / "run"
    ended = several(toy, workdir, *LENGTH, count=2, codes=(code,), faults={1: (name, 6)})
    assert all(re.search(rf"^flexseg train: {name}: checkpoint of step \d+ written", process.stderr, re.M) for process in ended)
    assert not (workdir / "run.lock").exists()
    steps = [int(folder.name.removeprefix("step_")) for folder in (workdir / "checkpoints").glob("step_*")]
    assert 6 <= max(steps) <= 8, "within two steps"
    if goes_on == 1:
        assert "resumed after epoch" in toy_runs.train(toy, workdir, *EXACT, *LENGTH)
    else:
        assert "resumed after epoch" in several(toy, workdir, *LENGTH, count=goes_on)[0].stdout
    assert_is(workdir, whole)


@pytest.mark.parametrize(("killed", "fault"), [slow_unless(k == 1 and f == "step", k, f) for k in (0, 1) for f in ("step", "validation")])
def test_a_killed_worker_ends_the_others_with_75_and_nothing_is_lost(toy, tmp_path, whole, killed, fault):
    workdir = tmp_path / "run"
    ended = several(toy, workdir, *LENGTH, count=2, codes=(75, -signal.SIGKILL), faults={killed: (fault, 3)})
    assert ended[killed].returncode == -signal.SIGKILL and ended[1 - killed].returncode == 75
    assert "another worker was lost; the same command resumes from the last checkpoint" in ended[1 - killed].stderr
    several(toy, workdir, *LENGTH, count=2)
    assert_is(workdir, whole)


@pytest.mark.slow
def test_a_signal_in_the_validation_ends_all_within_it(toy, tmp_path, whole):
    workdir = tmp_path / "run"
    ended = several(toy, workdir, *LENGTH, count=2, codes=(75,), faults={1: ("validation_SIGUSR1", 2)})
    said = re.findall(r"^flexseg train: SIGUSR1: checkpoint of step (\d+) written", "".join(process.stderr for process in ended), re.M)
    first = 4  # the validation of the first epoch
    assert said == [str(first)] * 2 and "epoch 1  step" not in ended[0].stdout, "before the epoch was reported"
    assert f"resumed after epoch 0, step {first}" in several(toy, workdir, *LENGTH, count=2)[0].stdout
    assert_is(workdir, whole)


@pytest.mark.slow
def test_workers_that_hang_leave_with_75_and_all_stacks_and_go_on(toy, tmp_path, whole):
    workdir = tmp_path / "run"
    params = (*LENGTH, "train.watchdog_multiple=10", "train.watchdog_minutes=0.15")
    ended = several(toy, workdir, *params, count=2, codes=(75,), faults={1: ("hang", 4)})
    assert "watchdog: nothing moved for 9 s; the same command resumes" in ended[1].stderr and "in wait_for_ever" in ended[1].stderr
    assert "resumed after epoch" in several(toy, workdir, *params, count=2)[0].stdout
    assert_is(workdir, whole)


@pytest.mark.slow
def test_a_stop_file_ends_all_with_0(toy, tmp_path):
    workdir = tmp_path / "run"
    several(toy, workdir, *LENGTH, "train.epochs=1", count=2)
    (workdir / "break_training").touch()
    ended = several(toy, workdir, *LENGTH, "train.epochs=1000", count=2)
    assert "ended: break_training was found; checkpoint of step" in ended[0].stdout and not (workdir / "break_training").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        slow_unless(True, ["train.seed=1"], "worker 1: expected the chief's configuration: .*, found train.seed = 1"),
        slow_unless(False, {"all_reduce": "ring"}, "worker 1: expected the chief's communication: .*auto.*, found .*ring"),
    ],
)
def test_workers_that_differ_are_all_stopped_with_the_difference_before_anything_is_written(toy, tmp_path, other, words):
    where = "flags_of" if isinstance(other, dict) else "params_of"
    ended = several(toy, tmp_path / "run", *LENGTH, count=2, codes=(1,), **{where: {1: other}})
    for process in ended:
        (line,) = [line for line in process.stderr.splitlines() if line.startswith("flexseg train: ")]
        assert re.search(words, line), line
    assert not (tmp_path / "run").exists()


def test_what_the_chief_is_refused_stops_all(toy, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    ended = several(toy, tmp_path / "run", *LENGTH, count=2, codes=(1,))
    assert all("other files and no config.gin" in process.stderr for process in ended)
    assert "worker 0: " in ended[1].stderr
