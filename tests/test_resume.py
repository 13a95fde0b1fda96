"""Resuming to the bit after any kill, extending, starting from another run's weights."""

import json
import math
import shutil

import numpy as np
import pytest
import toy_runs
import toys
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator  # as TensorBoard itself reads

from flexseg.distribution.step import TrainStep
from flexseg.errors import UserError
from flexseg.files import atomic
from flexseg.files.atomic import replace_file
from flexseg.files.csv_log import read_rows
from flexseg.runs import checkpoint_interval, directory
from flexseg.runs.checkpoint_format import read_checkpoint
from flexseg.training import session
from flexseg.training.steps import Steps
from flexseg.training.trainer import Trainer

# Everything that could carry state from step to step: dropout, moving statistics, random crops, Adam's moments, averages, a schedule, a plateau.
FULL = (
    "optimizer.ema_momentum=0.8",
    "train.deterministic=True", "flex_unet.dropout_rate=0.1", "flex_unet.normalization='batch'", "input.fit='random_crop'", "input.eval_fit='resize'",
    "train.steps_per_epoch=3", "schedule.name='cosine'", "schedule.schedule_epochs=4", "schedule.warmup_steps=2", "plateau.learning_rate_reducer=True", "plateau.reducer_patience=1", "plateau.min_delta=10.0",
    "train.metrics=('dice_coef',)", "train.mode='max'",  # the loss falls: the first epoch stays the best, if it is remembered
)  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(toy, tmp_path_factory):
    """The directory of a run of four epochs of three steps."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    toy_runs.train(toy, workdir, *FULL, "train.epochs=4")
    return workdir


def test_a_run_that_is_extended_equals_one_that_was_longer_from_the_start(uninterrupted, toy, tmp_path):
    toy_runs.train(toy, tmp_path / "run", *FULL, "train.epochs=2")
    half = toy_runs.outcome(tmp_path / "run")
    said = toy_runs.train(toy, tmp_path / "run", *FULL, "train.epochs=4")
    assert "resumed after epoch 2, step 6" in said and "epoch 3  step 9" in said and "epoch 2  step" not in said
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(uninterrupted) != half


class Killed(BaseException):
    """As a signal would: no handler of the trainer sees it."""


@pytest.mark.parametrize(
    ("method", "call", "checkpoint_steps", "resumed"),
    [
        ("advance", 6, 2, "resumed after epoch 1, step 4"),  # in the middle of epoch 2, whose first step is in the checkpoint
        ("_save", 1, 0, "resumed after epoch 0, step 0"),  # before the first checkpoint: the row of epoch 1 is written and must be cut
        pytest.param("validate", 2, 2, "resumed after epoch 1, step 6", marks=pytest.mark.slow),  # after the last step of epoch 2
        pytest.param("advance", 11, 2, "resumed after epoch 3, step 10", marks=pytest.mark.slow),
        pytest.param("_watch", 3, 2, "resumed after epoch 2, step 8", marks=pytest.mark.slow),  # the row of epoch 3 is written
        pytest.param("_save", 4, 2, "resumed after epoch 1, step 4", marks=pytest.mark.slow),  # 2, 3 (end of the epoch), 4, 6
    ],
)
def test_a_run_that_was_killed_and_started_again_equals_one_that_was_not(
    uninterrupted, toy, tmp_path, monkeypatch, method, call, checkpoint_steps, resumed
):
    params = (*FULL, "train.epochs=4", f"train.checkpoint_steps={checkpoint_steps}")
    owner = Steps if method == "advance" else Trainer
    original, calls = getattr(owner, method), []

    def killed(self, *arguments, **keywords):
        calls.append(method)
        if len(calls) == call:
            raise Killed
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(owner, method, killed)
    monkeypatch.setattr(checkpoint_interval, "_EPOCH_END_SHARE", math.inf)  # at the end of every epoch, however long it takes
    with pytest.raises(Killed):
        toy_runs.train(toy, tmp_path / "run", *params)
    monkeypatch.undo()
    first, call_step, advance = [], TrainStep.__call__, Steps.advance
    monkeypatch.setattr(
        TrainStep, "__call__", lambda self, batch, **given: first.append((given["global_step"], batch)) or call_step(self, batch, **given)
    )
    monkeypatch.setattr(Steps, "advance", lambda self, batches, *, last: first.append(self.stream) or advance(self, batches, last=last))
    assert resumed in toy_runs.train(toy, tmp_path / "run", *params)
    stream, (step, batch) = first[:2]
    assert f"step {step}" in resumed and batch["index"].numpy().tolist() == stream.indices(step), "the batch after the checkpoint"
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(uninterrupted)
    for split in ("train", "valid"):
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / split), size_guidance={"tensors": 0})
        events.Reload()
        assert [event.step for event in events.Tensors("loss")] == [1, 2, 3, 4], "no epoch twice in TensorBoard"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_two_replicas_resume_to_the_bit_in_every_precision(toy, tmp_path, precision):
    params = (*FULL, "augment.enabled=True", f"train.precision='{precision}'", "train.loss_scale_growth_steps=4")
    toy_runs.train(toy, tmp_path / "long", *params, "train.epochs=4", logical_cpus=2)
    for epochs in (2, 4):
        toy_runs.train(toy, tmp_path / "run", *params, f"train.epochs={epochs}", logical_cpus=2)
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(tmp_path / "long")
    scale = toy_runs.last_checkpoint(tmp_path / "run")["loss_scale 0000"]
    assert scale == (2.0**18 if precision == "mixed_float16" else 1.0)


@pytest.mark.slow
def test_a_run_with_another_seed_is_another_run(uninterrupted, toy, tmp_path):
    toy_runs.train(toy, tmp_path / "run", *FULL, "train.epochs=1", "train.seed=1")
    _, rows = read_rows(tmp_path / "run" / "train_losses.csv")
    assert rows[0] != read_rows(uninterrupted / "train_losses.csv")[1][0]


def test_a_run_starts_from_another_runs_weights_and_keeps_what_fits(uninterrupted, toy, tmp_path):
    place = tmp_path / "three"
    palette = np.array([0, 100, 200], np.uint8)
    for number in range(4):
        toys.write_case(
            place / "source", f"train/c{number}", toys.picture(f"c{number}", (32, 32)), palette[toys.picture(f"m{number}", (32, 32), 1) % 3]
        )
    three = toys.build(place, source=place / "source", name="three", gin_param=["label_map.values={0: 0, 100: 1, 200: 2}"])
    params = ("flex_unet.normalization='batch'", "train.monitor='loss'", "train.epochs=1", "train.steps_per_epoch=1", "optimizer.learning_rate=1e-12")
    said = toy_runs.train(three, tmp_path / "run", *params, init_from=str(uninterrupted))
    assert f"weights from {uninterrupted} (epoch " in said
    assert "of another shape and therefore new: logits/kernel, logits/bias" in said
    old, new = (read_checkpoint(workdir / "best")[0]["model"] for workdir in (uninterrupted, tmp_path / "run"))
    trained = [name for name in old if "logits" not in name and "moving" not in name]
    assert len(trained) > 10
    for name in trained:
        np.testing.assert_allclose(new[name], old[name], atol=1e-6)
    assert "weights from" not in toy_runs.train(three, tmp_path / "run", *params, "train.epochs=2", init_from=str(uninterrupted)), (
        "a resumed run goes on"
    )


@pytest.mark.slow
def test_a_start_from_other_weights_that_was_killed_early_starts_from_them_again(uninterrupted, toy, tmp_path, monkeypatch):
    params = ("flex_unet.normalization='batch'", "train.epochs=1", "train.steps_per_epoch=2", "optimizer.learning_rate=1e-12")
    advance, calls = Steps.advance, []

    def killed(self, batches, *, last):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        advance(self, batches, last=last)

    monkeypatch.setattr(Steps, "advance", killed)
    with pytest.raises(Killed):
        toy_runs.train(toy, tmp_path / "run", *params, init_from=str(uninterrupted))
    assert f"weights from {uninterrupted}" in toy_runs.train(toy, tmp_path / "run", *params, init_from=str(uninterrupted))
    old, new = (read_checkpoint(workdir / "best")[0]["model"] for workdir in (uninterrupted, tmp_path / "run"))
    np.testing.assert_allclose(list(new.values())[0], list(old.values())[0], atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_start_that_was_killed_before_its_config_was_written_can_be_repeated(toy, tmp_path, monkeypatch, count):
    written = []

    def killed(path, content):
        if len(written) == count:
            raise Killed
        written.append(replace_file(path, content))

    for module in (directory, session):
        monkeypatch.setattr(module, "replace_file", killed)
    with pytest.raises(Killed):
        toy_runs.train(toy, tmp_path / "run", "train.epochs=1", "train.steps_per_epoch=1")
    monkeypatch.undo()
    assert not (tmp_path / "run" / "config.gin").exists() and (tmp_path / "run" / "manifest.json").exists()
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: "epochs")
    toy_runs.train(toy, tmp_path / "run", "train.epochs=1", "train.steps_per_epoch=1")
    assert json.loads((tmp_path / "run" / "label_map.json").read_text()) == toy.manifest.label_map


@pytest.mark.parametrize("count", [0, 2, 5])
def test_a_start_that_was_killed_while_it_wrote_a_file_can_be_repeated(toy, tmp_path, monkeypatch, count):
    moves, move = [], atomic.os.replace

    def killed(*paths):
        if len(moves) == count:
            raise Killed
        moves.append(move(*paths))

    monkeypatch.setattr(atomic.os, "replace", killed)
    monkeypatch.setattr(atomic.Path, "unlink", lambda *_, **__: None)  # nobody cleans up after SIGKILL
    with pytest.raises(Killed):
        toy_runs.train(toy, tmp_path / "run", "train.epochs=1", "train.steps_per_epoch=1")
    monkeypatch.undo()
    (tmp_path / "run" / "run.lock").unlink(missing_ok=True)  # this process lives
    assert any(path.name.startswith(".") for path in (tmp_path / "run").iterdir())
    toy_runs.train(toy, tmp_path / "run", "train.epochs=1", "train.steps_per_epoch=1")
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(uninterrupted, toy, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    toy_runs.train(toy, tmp_path / "run", *FULL, "train.epochs=5", "train.checkpoint_steps=1", "train.keep=3")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    (newest / "model.npz").write_bytes(b"garbage")
    said = toy_runs.train(toy, tmp_path / "run", *FULL, "train.epochs=6", "train.keep=3")
    assert (tmp_path / "run" / "checkpoints" / f"damaged_{newest.name}").is_dir()
    assert f"{newest} is damaged" in said and "resumed after epoch 4, step 14" in said
    _, rows = read_rows(tmp_path / "run" / "train_losses.csv")
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_as_it_stands(uninterrupted, toy, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for folder in (run / "checkpoints").iterdir():
        (folder / "model.npz").write_bytes(b"garbage")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    with pytest.raises(UserError, match="damaged ones. To fix it: start again in another --workdir"):
        toy_runs.train(toy, run, *FULL, "train.epochs=6")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}


def test_what_would_change_what_is_monitored_may_not_change(toy, tmp_path):
    params = ("train.metrics=('dice_coef',)", "train.monitor='val_dice_coef'", "train.validate_every=2")
    toy_runs.train(toy, tmp_path / "run", *params, "train.epochs=3")
    for other in ("eval.batch_size=2", "train.epochs=4"):  # a metric of whole batches; a last epoch that only the shorter run looks at
        with pytest.raises(UserError, match=other.partition("=")[0]):
            toy_runs.train(toy, tmp_path / "run", *params, *({"train.epochs=3", other} if "eval" in other else {other}))
