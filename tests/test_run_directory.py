"""What a run leaves in its directory, and what a second start may find there."""

import json
from pathlib import Path

import numpy as np
import pytest
import toy_runs
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorflow import io as tf_io

from flexseg.commands import dispatcher
from flexseg.config.configure import configure
from flexseg.errors import UserError
from flexseg.files.csv_log import read_rows

pytestmark = pytest.mark.xdist_group("run_directory")  # the run is trained once

PARAMS = (
    "train.epochs=3",
    "train.metrics=('dice_coef','sensitivity')",
    "epoch_change_infer.num_infer_images=2",
    "train.keep=1",
    "train.curves_every=1",
)
METRICS = ("dice_coef", "sensitivity", "mean_foreground_dice")


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """The directory of a run of three epochs, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    said = toy_runs.train(toy, workdir, *PARAMS)
    return workdir, said


@pytest.fixture(scope="module")
def events(finished):
    found = {}
    for split in ("train", "valid"):
        found[split] = EventAccumulator(str(finished[0] / "tensorboard" / split), size_guidance={"tensors": 0})
        found[split].Reload()
    return found


def scalars(accumulator, tag):
    return [(event.step, float(tf_io.decode_raw(event.tensor_proto.tensor_content, "float32")[0]) if event.tensor_proto.tensor_content
             else event.tensor_proto.float_val[0]) for event in accumulator.Tensors(tag)]  # fmt: skip


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_file_of_the_run_directory_is_there(finished):
    workdir, _ = finished
    assert {path.name for path in workdir.iterdir()} == {
        "config.gin", "operative_config.gin", "environment.json", "label_map.json", "manifest.json", "summary.txt", "log.txt", "checkpoints", "best",
        "tensorboard", "train_losses.csv", "train_losses.png", "train_metrics.csv", "train_metrics.png", "epoch_change_infer", "epoch_change_infer.png",
        "finished.json",
    }  # fmt: skip
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["step_000000006"]
    assert {path.name for path in (workdir / "best").iterdir()} == {"model.npz", "facts.json", "SHA256SUMS"}, "best holds weights only"
    assert all(word in (workdir / "summary.txt").read_text() for word in ("Connected to", "decoder_0_concat")), (
        "not cut off at the width of a terminal"
    )


def test_both_tables_count_epochs_from_one_and_pair_each_metric_with_its_validation(finished):
    workdir, _ = finished
    header, rows = read_rows(workdir / "train_losses.csv")
    assert header == ("epoch", "loss", "val_loss") and [row[0] for row in rows] == ["1", "2", "3"]
    header, rows = read_rows(workdir / "train_metrics.csv")
    assert header == ("epoch", *(column for name in METRICS for column in (name, f"val_{name}"))) and [row[0] for row in rows] == ["1", "2", "3"]
    assert np.isfinite(np.array(rows, float)).all()


def test_every_epoch_has_its_pictures_and_the_sheet_shows_them(finished, toy):
    workdir, _ = finished
    cases = sorted(toy.table("valid").case_id)[:2]
    for epoch in (1, 2, 3):
        folder = workdir / "epoch_change_infer" / f"epoch_{epoch:04d}"
        assert sorted(path.stem for path in folder.iterdir()) == cases
        for path in folder.iterdir():
            Image.open(path).load()
    for name in ("epoch_change_infer.png", "train_losses.png", "train_metrics.png"):
        assert min(Image.open(workdir / name).size) > 50


def test_tensorboard_holds_the_curves_of_both_splits(finished, events):
    facts = {"learning_rate", "loss_scale", "images_per_second", "input_wait_fraction", "host_memory_gib"}
    assert {"loss", *METRICS} | facts <= set(events["train"].Tags()["tensors"])
    assert {"loss", *METRICS, "dice/background"} <= set(events["valid"].Tags()["tensors"])
    _, losses = read_rows(finished[0] / "train_losses.csv")
    for place, split in ((1, "train"), (2, "valid")):
        found = scalars(events[split], "loss")
        assert [step for step, _ in found] == [1, 2, 3], "epochs from 1 on the x axis"
        np.testing.assert_allclose([value for _, value in found], [float(row[place]) for row in losses], rtol=1e-6)
    for tag, low, high in (
        ("learning_rate", 1e-3, 1e-3),
        ("loss_scale", 1, 1),
        ("images_per_second", 1, 1e6),
        ("input_wait_fraction", 0, 1),
        ("host_memory_gib", 0.1, 64),
    ):
        assert all(low * 0.999 <= value <= high * 1.001 for _, value in scalars(events["train"], tag)), tag


def test_tensorboard_holds_the_pictures_of_every_epoch_as_the_files_have_them(finished, events):
    for path in (finished[0] / "epoch_change_infer" / "epoch_0001").iterdir():
        shown = events["valid"].Tensors(f"epoch_change_infer/{path.stem}")
        assert [event.step for event in shown] == [1, 2, 3]
        data = shown[0].tensor_proto.string_val
        np.testing.assert_array_equal(tf_io.decode_png(data[2]), np.asarray(Image.open(path).convert("RGB")))


def test_tensorboard_holds_config_and_summary_as_text(finished, events):
    for tag, name in (("config", "config.gin"), ("model", "summary.txt")):
        text = events["train"].Tensors(tag)[0].tensor_proto.string_val[0].decode()
        assert [line[4:] for line in text.splitlines()] == (finished[0] / name).read_text().splitlines()


def test_the_facts_of_the_run_are_recorded_and_printed(finished, toy):
    workdir, said = finished
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["dataset"] == "toy" and Path(environment["dataset_directory"]) == toy.directory
    assert environment["precision"] == "float32" and environment["xla"] is False and environment["global_batch_size"] == 4
    assert environment["packages"]["tensorflow"] and environment["devices"].startswith("1 × CPU")
    assert (workdir / "manifest.json").read_bytes() == (toy.directory / "manifest.json").read_bytes()
    assert json.loads((workdir / "label_map.json").read_text()) == toy.manifest.label_map
    assert f"{environment['parameters']:,} parameters" in said and "train 19, valid 5, test 1" in said
    for line in ("epoch 1  step 2", "epoch 3  step 6", "ended: epochs"):
        assert line in said and line in (workdir / "log.txt").read_text()


def test_both_gin_files_can_be_read_back(finished):
    workdir, _ = finished
    config = configure([str(workdir / "config.gin")], [], modules=("flexseg.training.assembly",))
    assert config.bindings["train.epochs"] == "3" and config.bindings["train.precision"] == "'float32'"
    assert config.text == (workdir / "config.gin").read_text()
    operative = (workdir / "operative_config.gin").read_text()
    assert "train.max_skipped_steps = 50" in operative, "defaults are recorded too"


def test_a_finished_run_says_so_and_changes_nothing_but_its_log(finished, toy):
    workdir, _ = finished
    before = tree(workdir)
    assert "this run is finished (epochs, 3 epochs): nothing to do" in toy_runs.train(toy, workdir, *PARAMS)
    after = tree(workdir)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= {"log.txt"}


def test_a_finished_run_exits_with_zero(finished, toy, capsys):
    arguments = toy_runs.arguments(toy, finished[0], *PARAMS)
    flags = [f"--{name}={value}" for name, value in arguments.items() if name != "gin_param"] + [
        f"--gin_param={param}" for param in arguments["gin_param"]
    ]
    with toy_runs.command():
        assert dispatcher.run(["train", *flags]) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("optimizer.learning_rate=0.5", r"optimizer.learning_rate: here 0.5, in the run 0.001"),
        ("flex_unet.base_filters=3", r"flex_unet.base_filters: here 3, in the run 2"),
        ("train.seed=4", r"train.seed: here 4, in the run 0"),
    ],
)
def test_a_changed_binding_is_refused_by_name(finished, toy, changed, message):
    before = tree(finished[0])
    with pytest.raises(UserError, match=message):
        toy_runs.train(toy, finished[0], *PARAMS, changed)
    assert tree(finished[0]) == before


@pytest.mark.parametrize("changed", ["train.keep=5", "train.curves_every=7", "eval.batch_size=2", "epoch_change_infer.every=3", "input.cache='ram'"])
def test_settings_of_reporting_and_machine_may_change(finished, toy, changed):
    assert "this run is finished" in toy_runs.train(toy, finished[0], *PARAMS, changed)


def test_a_directory_with_other_files_is_refused_and_left_alone(toy, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="expected an empty directory or a run to resume, found other files"):
        toy_runs.train(toy, tmp_path)
    assert tree(tmp_path) == {"thesis.tex": b"mine"}


def test_a_file_in_place_of_the_directory_is_refused(toy, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="expected a directory, found a file"):
        toy_runs.train(toy, tmp_path / "run")


def test_a_directory_that_cannot_be_made_is_refused(toy, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--workdir=.*expected a folder that can be made"):
        toy_runs.train(toy, tmp_path / "file" / "run")


def test_a_refused_start_can_be_repeated_in_its_directory(toy, tmp_path):
    """A refusal leaves a log.txt at most, and that is no foreign file."""
    with pytest.raises(UserError, match="train.monitor"):
        toy_runs.train(toy, tmp_path / "run", "train.monitor='val_los'")
    assert set(tree(tmp_path / "run")) <= {"log.txt"}
    with pytest.raises(UserError, match="train.monitor"):
        toy_runs.train(toy, tmp_path / "run", "train.monitor='val_los'")


@pytest.mark.parametrize("count", [0, 2])
def test_a_dry_run_prints_the_facts_and_writes_nothing(toy, tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    before = tree(toy.directory)
    said = toy_runs.train(toy, tmp_path / "run" if count else None, dry_run=True, logical_cpus=count)
    assert list(tmp_path.iterdir()) == [] and tree(toy.directory) == before
    assert "first step" in said and "second step" in said and "GiB of host memory" in said
    assert f"4 = {count or 1} × {4 // (count or 1)}, 2 steps an epoch" in said


def test_a_dataset_that_was_built_again_is_refused(finished, toy, tmp_path):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    manifest = json.loads((workdir / "manifest.json").read_text())
    (workdir / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "another"}))
    with pytest.raises(UserError, match="found another one: the run was begun on another dataset, or it was built again"):
        toy_runs.train(toy, workdir, *PARAMS, "train.epochs=4")
