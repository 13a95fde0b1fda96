"""`flexseg evaluate` and `flexseg predict` on a trained run: what they write, what they refuse."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import toy_runs
import toys
from PIL import Image

from flexseg.commands import dispatcher
from flexseg.commands import predict as predict_command
from flexseg.data.images import resize_image, resize_mask
from flexseg.distribution.step import EvaluationStep
from flexseg.errors import UserError
from flexseg.training.opened_run import open_run

pytestmark = pytest.mark.xdist_group("commands")  # the run is trained once

RANDOM = ("build_model.num_classes=1", "objective.loss='bce_dice_loss'", "optimizer.learning_rate=1e-9")


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    """The directory of a run of one epoch that leaves the random weights as they are: their predictions are a mixture of both classes."""
    workdir = tmp_path_factory.mktemp("commands") / "run"
    toy_runs.train(toy, workdir, "train.epochs=1", "train.metrics=('dice_coef','dice_coef_multiclass')", *RANDOM)
    return workdir


@pytest.fixture(scope="module")
def evaluated(run):
    """(the report of the validation split, what was printed)."""
    return toy_runs.evaluate(run, split="valid")


@pytest.fixture
def moved(run, tmp_path):
    """A copy of the run that a test may spoil."""
    return shutil.copytree(run, tmp_path / "moved")


def images_of(toy, split="valid"):
    return toy.directory.parents[3] / "source" / split / "images"


def rows(path):
    with open(path, newline="") as stream:
        return list(csv.reader(stream))


def test_the_report_holds_what_the_design_names(run, evaluated, toy):
    report, _ = evaluated
    assert json.loads((run / "evaluation" / "valid" / "report.json").read_text()) == report
    assert {"loss", "metrics", "mean_foreground_dice", "per_class", "per_group", "definitions", "leaked", "cases", "groups"} <= report.keys()
    assert list(report["per_class"]) == list(toy.label_map.class_names)
    for scores in report["per_class"].values():
        assert {"dice", "iou", "precision", "recall", "pooled_dice", "true_empty"} <= scores.keys()
    assert set(report["per_group"]) == set(toy.table("valid").group_id)
    assert set(report["metrics"]) == {"dice_coef", "dice_coef_multiclass", "mean_foreground_dice"}
    assert report["cases"] == 5 and 0 < report["loss"] < 10
    assert 0.05 < report["mean_foreground_dice"] < 0.95, "a model that says one class everywhere would prove nothing below"


def test_every_case_has_a_row(run, evaluated, toy):
    header, *cases = rows(run / "evaluation" / "valid" / "per_case.csv")
    assert [row[0] for row in cases] == sorted(toy.table("valid").case_id)
    sizes = dict(zip(toy.table("valid").case_id, toy.sizes("valid").tolist(), strict=True))
    assert all([int(row[header.index("height")]), int(row[header.index("width")])] == sizes[row[0]] for row in cases), "own sizes"
    dice = [float(row[header.index("mean_foreground_dice")]) for row in cases]
    assert np.mean(dice) == pytest.approx(evaluated[0]["mean_foreground_dice"], abs=1e-6)


def test_evaluation_csv_is_the_references_at_batches_of_four(run, evaluated, toy):
    """dice_coef is (2 I + 1) / (T + P + 1) over a flattened batch, and the mean of batches weighted by their examples."""
    with toy_runs.command(), open_run(str(run), gin_param=[], checkpoint="best", replicas=1, logical_cpus=0) as opened:
        model = opened.assembly.model
        examples = [toy.records("valid").example(index) for index in range(5)]
        images = np.stack([resize_image(image, (32, 32)) for image, _ in examples]).astype(np.float32)
        truth = np.stack([resize_mask(mask[..., None], (32, 32)) for _, mask in examples])[..., 0]
        p = 1 / (1 + np.exp(-model(images).numpy()[..., 0].astype(np.float64)))
    batches = [(2 * (truth[b] * p[b]).sum() + 1) / (truth[b].sum() + p[b].sum() + 1) for b in (slice(0, 4), slice(4, 5))]
    expected = (4 * batches[0] + batches[1]) / 5
    written = dict(rows(run / "evaluation" / "valid" / "evaluation.csv"))
    assert list(written) == ["bce_dice_loss", "dice_coef", "dice_coef_multiclass", "mean_foreground_dice"]
    assert written["dice_coef"] == f"{expected:.4f}" and written["bce_dice_loss"] == f"{evaluated[0]['loss']:.4f}"


def test_a_reference_metric_that_is_no_dice_comes_with_a_sentence(evaluated):
    report, said = evaluated
    assert "note: dice_coef is that of a whole batch" in said
    assert any(sentence.startswith("dice_coef is that of a whole batch") for sentence in report["definitions"])


@pytest.mark.parametrize("flags", [{"gin_param": ["eval.batch_size=1"]}, {"gin_param": ["eval.batch_size=3"]}, {"logical_cpus": 2}])
def test_scores_depend_on_neither_batch_nor_replicas(moved, evaluated, flags):
    report, _ = toy_runs.evaluate(moved, split="valid", **flags)
    assert report["mean_foreground_dice"] == pytest.approx(evaluated[0]["mean_foreground_dice"], abs=1e-4)
    assert report["loss"] == pytest.approx(evaluated[0]["loss"], rel=1e-5)
    assert report["cases"] == 5
    same_batches = "gin_param" not in flags
    assert (report["metrics"]["dice_coef"] == pytest.approx(evaluated[0]["metrics"]["dice_coef"], abs=1e-6)) == same_batches, "the reference's does"


def test_a_dataset_that_moved_is_found_by_data_dir_and_one_that_changed_is_refused(moved, toy, tmp_path, evaluated):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(toy.directory.parents[2], elsewhere)
    environment = json.loads((moved / "environment.json").read_text())
    (moved / "environment.json").write_text(json.dumps(environment | {"dataset_directory": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="gone: expected the dataset that the run was trained on, found nothing there.*--data_dir=DIR"):
        toy_runs.evaluate(moved, split="valid")
    report, _ = toy_runs.evaluate(moved, split="valid", data_dir=str(elsewhere))
    assert report["mean_foreground_dice"] == evaluated[0]["mean_foreground_dice"]
    manifest = next(elsewhere.rglob("manifest.json"))
    manifest.write_text(manifest.read_text().replace('"leaked": false', '"leaked": true'))
    with pytest.raises(UserError, match="found one that was built again since"):
        toy_runs.evaluate(moved, split="valid", data_dir=str(elsewhere))


def test_a_split_that_is_not_there_is_refused_with_those_that_are(run):
    with pytest.raises(UserError, match="expected a split 'tset', found the splits train, valid, test.*--split"):
        toy_runs.evaluate(run, split="tset")
    assert not (run / "evaluation" / "tset").exists()
    with pytest.raises(UserError, match="Did you mean 'valid'"):
        toy_runs.evaluate(run, split="vaild")


def test_a_misspelt_run_directory_is_refused_with_the_nearest_beside_it(run):
    with pytest.raises(UserError, match="rum: expected a run directory.*found no such directory.*Did you mean 'run'"):
        toy_runs.evaluate(run.with_name("rum"))


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_directory_without_a_run_is_refused(command, tmp_path, toy):
    with pytest.raises(UserError, match="expected a run directory written by `flexseg train`, found no environment.json in it"):
        if command == "evaluate":
            toy_runs.evaluate(tmp_path)
        else:
            toy_runs.predict(tmp_path, images=[images_of(toy)])


def test_a_run_without_a_checkpoint_or_best_weights_is_refused(moved):
    shutil.rmtree(moved / "checkpoints")
    with pytest.raises(UserError, match="expected a whole checkpoint, found none"):
        toy_runs.evaluate(moved, checkpoint="last")
    shutil.rmtree(moved / "best")
    with pytest.raises(UserError, match="best: expected the best weights, found none yet.*--checkpoint=last"):
        toy_runs.evaluate(moved)


def test_a_misspelt_binding_is_refused(run):
    with pytest.raises(UserError, match="batch_siz"):
        toy_runs.evaluate(run, split="valid", gin_param=["eval.batch_siz=2"])


def test_flags_that_are_missing_are_refused_in_one_line(capsys):
    assert dispatcher.run(["evaluate"]) == 1
    assert dispatcher.run(["predict", "--workdir=runs/a"]) == 1
    assert dispatcher.run(["train"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 3 and all("expected" in line and "flexseg" in line for line in said)


def test_masks_have_the_own_size_and_the_colours_of_the_label_map_and_need_the_run_alone(moved, toy, tmp_path):
    environment = json.loads((moved / "environment.json").read_text())
    (moved / "environment.json").write_text(json.dumps(environment | {"dataset_directory": str(tmp_path / "gone")}))
    written = toy_runs.predict(moved, images=[images_of(toy)])
    assert [path.parent for path in written] == [moved / "predictions"] * 5
    colors = {color[0] for color in toy.label_map.colors}
    for path in written:
        mask = np.asarray(Image.open(path))
        assert mask.shape == Image.open(images_of(toy) / path.name).size[::-1]
        assert set(np.unique(mask)) <= colors == {0, 255}


def test_masks_that_exist_are_kept_unless_overwriting_is_asked_for(run, toy, tmp_path):
    first = sorted(images_of(toy).iterdir())[0]
    kept = tmp_path / f"{first.stem}.png"
    kept.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{kept}: expected no such file yet, found 1 masks.*--overwrite"):
        toy_runs.predict(run, images=[images_of(toy)], output=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [kept.name] and kept.read_bytes() == b"mine"
    assert toy_runs.predict(run, images=[first], output=str(tmp_path), overwrite=True) == [kept]
    Image.open(kept).load()


def test_masks_that_would_replace_the_images_are_refused_even_when_overwriting(run, tmp_path):
    Image.fromarray(toys.picture("a", (20, 20))).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="--output=.*: expected another folder than the images', found .*a.png would be replaced by its mask"):
        toy_runs.predict(run, images=[tmp_path], output=str(tmp_path / "sub" / ".."), overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == before


def test_every_header_is_read_before_the_first_mask_is_written(run, tmp_path):
    Image.fromarray(toys.picture("a", (20, 20))).save(tmp_path / "a.png")
    Image.fromarray(toys.picture("b", (20, 20), 1).astype(np.uint16) * 200).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match="b.tif: expected 8 bits"):
        toy_runs.predict(run, images=[tmp_path / "a.png", tmp_path / "b.tif"], output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_report_says_which_weights_were_scored_and_how(moved, evaluated):
    report, _ = toy_runs.evaluate(moved, split="valid", gin_param=["eval.batch_size=2"])
    best = json.loads((moved / "best" / "facts.json").read_text())
    assert report["provenance"] == {"checkpoint": "best", **best, "precision": "float32", "gin_param": ["eval.batch_size=2"], "warnings": []}
    assert toy_runs.evaluate(moved, split="valid", checkpoint="last")[0]["provenance"]["step"] == 2


def test_running_out_of_memory_in_evaluation_names_the_batch_size(moved, monkeypatch):
    def out_of_memory(self, batch):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[4,64,512,512]")

    monkeypatch.setattr(EvaluationStep, "__call__", out_of_memory)
    with pytest.raises(UserError, match='eval.batch_size: .*found out of memory with 4 of 32 × 32 pixels.*--gin_param="eval.batch_size=1"'):
        toy_runs.evaluate(moved, split="valid")


def test_files_that_are_left_out_are_named(run, tmp_path):
    Image.fromarray(toys.picture("a", (20, 20))).save(tmp_path / "a.png")
    (tmp_path / "b.webp").write_bytes(b"RIFF")
    with toy_runs.command() as said:
        predict_command.run(workdir=str(run), images=[str(tmp_path)], output=str(tmp_path / "out"))
    assert f"warning: {tmp_path}: 1 .webp files left out" in said.getvalue() and "1 mask written" in said.getvalue()


def test_a_folder_for_masks_that_cannot_be_made_is_refused(run, toy, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output=.*file/masks: expected a folder that can be made, found Not a directory"):
        toy_runs.predict(run, images=[images_of(toy)], output=str(tmp_path / "file" / "masks"))


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(moved):
    last = max((moved / "checkpoints").iterdir())
    shutil.copytree(last, last.with_name("step_000000009"))
    (last.with_name("step_000000009") / "model.npz").write_bytes(b"garbage")
    report, said = toy_runs.evaluate(moved, split="valid", checkpoint="last")
    assert "step_000000009 is damaged" in said and report["provenance"]["step"] == 2
    (moved / "environment.json").write_text("{")
    with pytest.raises(UserError, match="environment.json: expected what `flexseg train` wrote, found another file"):
        toy_runs.evaluate(moved)


def test_augmentation_never_touches_an_evaluation(moved, evaluated):
    strong = ["augment.enabled=True", "augment.rotation_probability=1.0", "augment.noise_probability=1.0"]
    report, _ = toy_runs.evaluate(moved, split="valid", gin_param=strong)
    assert report["mean_foreground_dice"] == evaluated[0]["mean_foreground_dice"] and report["loss"] == evaluated[0]["loss"]


def test_two_images_of_one_stem_are_refused_before_anything_is_written(run, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("a.png", "a.bmp", "b.png"):
        Image.fromarray(toys.picture(name, (20, 20))).save(folder / name)
    with pytest.raises(UserError, match="a.png|a.bmp"):
        toy_runs.predict(run, images=[folder], output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_images_that_are_not_there_are_refused(run, tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=what):
        toy_runs.predict(run, images=[tmp_path / what], output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_any_readable_image_gets_a_mask_and_a_deep_one_needs_the_datasets_window(run, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    Image.fromarray(toys.picture("grey", (19, 33), 1)).save(folder / "grey.png")
    Image.fromarray(toys.picture("colour", (50, 20))).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(toys.picture("bmp", (21, 22))).save(folder / "plain.bmp")
    written = toy_runs.predict(run, images=[folder / "grey.png", folder / "cmyk.jpg", folder], output=str(tmp_path / "out"))
    assert sorted(path.name for path in written) == ["cmyk.png", "grey.png", "plain.png"]
    assert Image.open(tmp_path / "out" / "grey.png").size == (33, 19)
    Image.fromarray(toys.picture("deep", (20, 20), 1).astype(np.uint16) * 200).save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match="deep.tif: expected 8 bits a channel, as in the dataset"):
        toy_runs.predict(run, images=[tmp_path / "deep.tif"], output=str(tmp_path / "out"))


def test_an_image_larger_than_allowed_is_refused_before_it_is_decoded(run, tmp_path):
    Image.fromarray(toys.picture("large", (40, 40))).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="large.png"):
        toy_runs.predict(run, images=[tmp_path / "large.png"], output=str(tmp_path / "out"), max_image_pixels=1000)


def test_one_mask_does_not_depend_on_what_it_is_predicted_with(run, toy, tmp_path):
    together = toy_runs.predict(run, images=[images_of(toy)], output=str(tmp_path / "one"))
    on_two = toy_runs.predict(run, images=[images_of(toy)], output=str(tmp_path / "two"), logical_cpus=2)
    assert [path.name for path in together] == [path.name for path in on_two], "five images on two replicas"
    for one, two in zip(together, on_two, strict=True):
        differing = (np.asarray(Image.open(one)) != np.asarray(Image.open(two))).mean()
        assert differing <= 0.002, "a pixel at a tie, no more"
