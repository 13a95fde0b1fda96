"""Training from the command to the last checkpoint: early stopping, plateau, skipped steps, out of memory, refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf
import toy_runs
import toys

from flexseg import console
from flexseg.commands import dispatcher
from flexseg.commands import train as train_command
from flexseg.distribution.step import TrainStep
from flexseg.errors import UserError
from flexseg.files.csv_log import read_rows
from flexseg.runs.checkpoint_format import read_checkpoint
from flexseg.training.trainer import Trainer


def test_two_replicas_train_as_one_device_does(toy, tmp_path):
    params = ("train.precision='float64'", "optimizer.name='SGD'", "optimizer.learning_rate=0.1", "augment.enabled=True", "train.epochs=1")
    toy_runs.train(toy, tmp_path / "one", *params)
    said = toy_runs.train(toy, tmp_path / "two", *params, logical_cpus=2)
    assert "4 = 2 × 2" in said
    one, two = toy_runs.last_checkpoint(tmp_path / "one"), toy_runs.last_checkpoint(tmp_path / "two")
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-10, err_msg=name)
    for name in ("train_losses.csv", "train_metrics.csv"):
        rows = [np.array(read_rows(tmp_path / run / name)[1], float) for run in ("one", "two")]
        np.testing.assert_allclose(*rows, rtol=1e-6)  # metrics are summed in float32


@pytest.fixture(scope="module")
def stopped(toy, tmp_path_factory):
    """A run whose validation loss is dictated: best in epoch 2, reduced after epoch 4, stopped after epoch 5. (directory, true results, what it said)"""
    workdir, true, dictated = tmp_path_factory.mktemp("stopped") / "run", [], [1.0, 0.5, 0.7, 0.9, 0.5, 0.1]
    patch = pytest.MonkeyPatch()
    validate = Trainer.validate

    def dictate(self):
        true.append(validate(self))
        return {**true[-1], "loss": dictated[len(true) - 1]}

    patch.setattr(Trainer, "validate", dictate)
    said = toy_runs.train(
        toy, workdir, "train.epochs=20", "train.patience=3", "plateau.learning_rate_reducer=True", "plateau.reducer_factor=0.1", "plateau.reducer_patience=2",
        "optimizer.learning_rate=0.01",
    )  # fmt: skip
    patch.undo()
    return workdir, true, said


def test_early_stopping_ends_the_run_after_its_patience(stopped, toy):
    workdir, true, said = stopped
    assert len(true) == 5 and "ended: early stopping" in said
    assert json.loads((workdir / "finished.json").read_text()) == {"reason": "early stopping", "epochs": 5, "step": 10}
    assert json.loads((workdir / "best" / "facts.json").read_text()) == {"epoch": 2, "step": 4, "monitor": "val_loss", "value": 0.5}


def test_a_run_that_stopped_early_is_not_extended_by_more_epochs(stopped, toy):
    said = toy_runs.train(
        toy, stopped[0], "train.epochs=30", "train.patience=3", "plateau.learning_rate_reducer=True", "plateau.reducer_factor=0.1",
        "plateau.reducer_patience=2", "optimizer.learning_rate=0.01",
    )  # fmt: skip
    assert "this run is finished (early stopping, 5 epochs)" in said


def test_evaluate_takes_the_best_weights_and_the_last_ones_on_request(stopped):
    workdir, true, _ = stopped
    best, said = toy_runs.evaluate(workdir, split="valid")
    assert "valid split, best weights (epoch 2, " in said
    assert best["loss"] == pytest.approx(true[1]["loss"], rel=1e-6)
    last, said = toy_runs.evaluate(workdir, split="valid", checkpoint="last")
    assert "last weights (epoch 5)" in said
    assert last["loss"] == pytest.approx(true[4]["loss"], rel=1e-6)
    assert abs(true[1]["loss"] - true[4]["loss"]) > 1e-4, "weights that are alike prove nothing"


def test_the_ema_is_what_is_validated_kept_as_best_and_evaluated(toy, tmp_path):
    toy_runs.train(toy, tmp_path / "run", "train.epochs=2", "train.steps_per_epoch=4", "optimizer.ema_momentum=0.9", "optimizer.learning_rate=0.02")
    _, rows = read_rows(tmp_path / "run" / "train_losses.csv")
    logged = float(rows[-1][2])
    (checkpoint, _), (best, facts) = (
        read_checkpoint(folder) for folder in (tmp_path / "run" / "checkpoints" / "step_000000008", tmp_path / "run" / "best")
    )
    averages, weights = checkpoint["ema"], checkpoint["model"]
    differ = [np.abs(average - weights[name.replace("average/", "").split(":")[0]]).max() for name, average in averages.items()]
    assert facts["epoch"] == 2 and max(differ) > 1e-3
    for name, average in averages.items():
        np.testing.assert_array_equal(best["model"][name.replace("average/", "").split(":")[0]], average)
    for which in ("best", "last"):
        report, _ = toy_runs.evaluate(tmp_path / "run", split="valid", checkpoint=which)
        assert report["loss"] == pytest.approx(logged, rel=1e-5)


def test_the_plateau_lowers_the_rate_that_is_logged(stopped):
    _, _, said = stopped
    rates = [line.split("lr ")[1].split()[0] for line in said.splitlines() if line.startswith("epoch ")]
    assert rates == ["0.01", "0.01", "0.01", "0.01", "0.001"]
    assert said.count("learning rate reduced to 0.001: val_loss did not improve") == 1


def test_the_step_is_given_the_rate_of_schedule_and_plateau(toy, tmp_path, monkeypatch):
    given, call = [], TrainStep.__call__

    def spy(self, batch, *, global_step, learning_rate, total_weight, stop_requests):
        given.append((global_step, learning_rate, total_weight))
        return call(self, batch, global_step=global_step, learning_rate=learning_rate, total_weight=total_weight, stop_requests=stop_requests)

    monkeypatch.setattr(TrainStep, "__call__", spy)
    toy_runs.train(
        toy, tmp_path / "run", "train.epochs=3", "train.validate_every=3", "train.monitor='loss'", "schedule.name='polynomial'", "schedule.power=1.0",
        "schedule.warmup_steps=2", "plateau.learning_rate_reducer=True", "plateau.reducer_factor=0.5", "plateau.reducer_patience=1", "plateau.min_delta=10.0",
        "optimizer.learning_rate=0.1", "train.patience=0",
    )  # fmt: skip
    # warm-up of 2 steps, then 4 steps down to 0; the plateau (nothing improves by 10) halves after epoch 2 on
    expected = [0.1 * 0.5, 0.1, 0.1, 0.1 * 0.75, 0.05 * 0.5, 0.05 * 0.25]
    assert [number for number, _, _ in given] == list(range(6))
    np.testing.assert_allclose([rate for _, rate, _ in given], expected)
    assert {weight for _, _, weight in given} == {4.0}
    _, rows = read_rows(tmp_path / "run" / "train_losses.csv")
    assert [row[2] == "" for row in rows] == [True, True, False], "validation has its own interval"


def test_too_many_steps_that_are_not_finite_stop_the_run_and_name_the_cases(toy, tmp_path):
    with pytest.raises(UserError) as stop:
        toy_runs.train(
            toy, tmp_path / "run", "optimizer.name='SGD'", "optimizer.learning_rate=1e30", "train.max_skipped_steps=3", "train.steps_per_epoch=10",
        )  # fmt: skip
    assert "expected a finite loss within 3 steps" in str(stop.value)
    named = str(stop.value).split("the cases of the last batch are ")[1].split(".")[0].split(", ")
    assert len(named) == 4 and set(named) <= set(toy.table("train").case_id)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("skipped: loss or gradient not finite") == 3 and "(3 in a row)" in log


def test_skipped_steps_that_are_not_in_a_row_are_survived_and_enter_no_mean(toy, tmp_path, monkeypatch):
    call = TrainStep.__call__

    def every_second(self, batch, *, global_step, **given):
        outcome = call(self, batch, global_step=global_step, **given)
        return outcome._replace(values=outcome.values * np.nan, applied=tf.constant(False)) if global_step % 2 else outcome

    monkeypatch.setattr(TrainStep, "__call__", every_second)
    said = toy_runs.train(toy, tmp_path / "run", "train.max_skipped_steps=2", "train.steps_per_epoch=4", "train.epochs=1")
    assert said.count("not finite (1 in a row)") == 2 and "ended: epochs" in said
    _, rows = read_rows(tmp_path / "run" / "train_losses.csv")
    assert np.isfinite(float(rows[0][1]))


def out_of_memory(self, batch, **_):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[4,64,512,512]")


def test_a_line_before_the_first_loss_is_known_shows_none(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "_SECONDS", 0.0)  # a line a step
    said = toy_runs.train(toy, tmp_path / "run", "train.epochs=1", "train.steps_per_epoch=3")
    lines = [line for line in said.splitlines() if line.startswith("epoch 1/1: ")]
    assert lines[0] == "epoch 1/1: 1 of 3 steps" and "loss" in lines[-1] and "nan" not in said


@pytest.mark.parametrize(
    ("params", "count", "cure"),
    [
        ((), 0, "train.global_batch_size=2"),
        (("train.global_batch_size=6",), 2, "train.global_batch_size=2"),  # 3 is no multiple of the replicas
        (("train.global_batch_size=None", "train.batch_size_per_replica=4"), 0, "train.batch_size_per_replica=2"),
    ],
)
def test_running_out_of_memory_ends_in_one_line_with_the_batch_size_to_try(toy, tmp_path, monkeypatch, capsys, params, count, cure):
    monkeypatch.setattr(TrainStep, "__call__", out_of_memory)
    arguments = toy_runs.arguments(toy, tmp_path / "run", *params)
    flags = [f"--{name}={value}" for name, value in arguments.items() if name != "gin_param"] + [
        f"--gin_param={param}" for param in arguments["gin_param"]
    ]
    with toy_runs.command():
        assert dispatcher.run(["train", *flags, f"--logical_cpus={count}"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "out of memory" in said[0] and f'--gin_param="{cure}"' in said[0]


@pytest.fixture(scope="module")
def without_validation(tmp_path_factory):
    place = tmp_path_factory.mktemp("train_only")
    source = toys.write_folder(place / "source", {f"train/c{number}": (32, 32) for number in range(4)})
    return toys.build(place, source=source, name="train_only")


def test_a_dataset_without_validation_needs_a_monitor_of_training(without_validation, tmp_path):
    with pytest.raises(UserError, match="train.monitor: expected a validation split for val_loss, found none.*train.monitor='loss'"):
        toy_runs.train(without_validation, tmp_path / "run")
    toy_runs.train(without_validation, tmp_path / "run", "train.monitor='loss'", "epoch_change_infer.num_infer_images=2")
    _, rows = read_rows(tmp_path / "run" / "train_losses.csv")
    assert [(row[0], row[2]) for row in rows] == [("1", ""), ("2", "")]
    assert json.loads((tmp_path / "run" / "best" / "facts.json").read_text())["monitor"] == "loss"


def test_pictures_of_a_dataset_without_validation_are_none_and_a_misspelt_split_is_refused(without_validation):
    params = ("train.monitor='loss'", "epoch_change_infer.num_infer_images=2")
    assert "no pictures of the epochs: the dataset has no validation split" in toy_runs.train(without_validation, None, *params, dry_run=True)
    with pytest.raises(UserError, match="epoch_change_infer.split: expected one of train, found 'trian'.*Did you mean 'train'"):
        toy_runs.train(without_validation, None, *params, "epoch_change_infer.split='trian'", dry_run=True)


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["val_mean_foreground_dice", "val_dice/foreground", "mean_foreground_dice"])
def test_any_metric_can_be_monitored_and_auto_lets_scores_rise(toy, tmp_path, monkeypatch, monitor):
    dictated = iter([0.2, 0.6, 0.4])
    key = monitor.removeprefix("val_")
    if monitor.startswith("val_"):
        monkeypatch.setattr(Trainer, "validate", lambda self: {"loss": 1.0, "mean_foreground_dice": 0.5, key: next(dictated)})
    monitor_name = "val_dice/" + toy.label_map.class_names[1] if key.startswith("dice/") else monitor
    if key.startswith("dice/"):
        monkeypatch.setattr(
            Trainer, "validate", lambda self: {"loss": 1.0, "mean_foreground_dice": 0.5, monitor_name.removeprefix("val_"): next(dictated)}
        )
    toy_runs.train(toy, tmp_path / "run", f"train.monitor='{monitor_name}'", "train.epochs=3", "train.steps_per_epoch=1", "train.patience=0")
    facts = json.loads((tmp_path / "run" / "best" / "facts.json").read_text())
    if monitor.startswith("val_"):
        assert (facts["epoch"], facts["value"]) == (2, 0.6)
    else:
        _, rows = read_rows(tmp_path / "run" / "train_metrics.csv")
        assert facts["value"] == pytest.approx(max(float(row[1]) for row in rows))


def test_two_classes_train_with_one_sigmoid_logit(toy, tmp_path):
    said = toy_runs.train(toy, tmp_path / "run", "build_model.num_classes=1", "objective.loss='bce_dice_loss'", "train.epochs=1")
    assert "1 sigmoid logit" in said
    report, _ = toy_runs.evaluate(tmp_path / "run", split="valid", checkpoint="last")
    _, rows = read_rows(tmp_path / "run" / "train_metrics.csv")
    assert report["mean_foreground_dice"] == pytest.approx(float(rows[0][2]), abs=1e-6)
    assert len(report["per_class"]) == 2


def test_a_finished_run_is_not_shown_for_another_dataset(stopped, without_validation):
    with pytest.raises(UserError, match="the run was begun on another dataset"):
        toy_runs.train(
            without_validation, stopped[0], "train.epochs=20", "train.patience=3", "plateau.learning_rate_reducer=True", "plateau.reducer_factor=0.1",
            "plateau.reducer_patience=2", "optimizer.learning_rate=0.01",
        )  # fmt: skip


def test_a_dry_run_starts_from_the_other_runs_weights_too(toy, tmp_path):
    with pytest.raises(UserError, match="nowhere/best: expected whole weights"):
        toy_runs.train(toy, None, init_from=str(tmp_path / "nowhere"), dry_run=True)


def test_the_last_epoch_is_pictured_whatever_the_interval(toy, tmp_path):
    params = ("train.steps_per_epoch=1", "epoch_change_infer.num_infer_images=1", "epoch_change_infer.every=3")
    toy_runs.train(toy, tmp_path / "run", *params, "train.epochs=5")
    drawn = sorted(path.name for path in (tmp_path / "run" / "epoch_change_infer").iterdir())
    assert drawn == ["epoch_0001", "epoch_0004", "epoch_0005"]
    toy_runs.train(
        toy,
        tmp_path / "stopped",
        *params,
        "train.epochs=9",
        "train.monitor='loss'",
        "train.mode='max'",
        "train.patience=1",
        "optimizer.learning_rate=1e-9",
    )
    last = json.loads((tmp_path / "stopped" / "finished.json").read_text())["epochs"]
    assert (tmp_path / "stopped" / "epoch_change_infer" / f"epoch_{last:04d}").is_dir() and last < 9


def test_masks_to_picture_that_the_label_map_does_not_know_name_the_build(toy, tmp_path):
    toys.write_case(tmp_path / "mini", "a", toys.picture("a", (32, 32)), toys.picture("m", (32, 32), 1))
    folder = (
        "epoch_change_infer.num_infer_images=1",
        f"epoch_change_infer.images='{tmp_path}/mini/images'",
        f"epoch_change_infer.masks='{tmp_path}/mini/masks'",
    )
    with pytest.raises(UserError, match="to widen it: flexseg build --overwrite …, and add --gin_param"):
        toy_runs.train(toy, None, *folder, dry_run=True)


def test_one_binding_as_a_plain_string_is_taken_as_one(toy):
    arguments = toy_runs.arguments(toy, None)
    with toy_runs.command(), pytest.raises(UserError, match='--gin_param="train.epoch=3"'):
        train_command.run(**arguments | {"gin_param": "train.epoch=3", "dry_run": True})


@pytest.mark.slow
def test_a_batch_given_per_replica_must_stay_the_runs_global_batch(toy, tmp_path):
    params = ("train.global_batch_size=None", "train.batch_size_per_replica=2", "train.epochs=1")
    assert "4 = 2 × 2" in toy_runs.train(toy, tmp_path / "run", *params, "train.steps_per_epoch=1", logical_cpus=2)
    with pytest.raises(UserError, match="expected the run's global batch of 4, found 2 with 1 replicas"):
        toy_runs.train(toy, tmp_path / "run", *params, "train.steps_per_epoch=1")
