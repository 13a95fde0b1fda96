"""Every mistake that a user can make is answered by one line that says what was expected, what was found and what to type, and the right exit
code; no traceback, and nothing is written. One row a mistake. Mistakes in source folders: test_build.py."""

import io
import re
import shutil
from contextlib import redirect_stderr

import pytest
import toy_runs
import toys
from PIL import Image

from flexseg.commands import dispatcher
from flexseg.runs.lock import FolderLock


class Place:
    """A folder that holds `data/` with the dataset `toy`, a trained run `run`, a foreign folder, and what a row adds to them."""

    def __init__(self, folder, toy):
        self.folder, self.toy = folder, toy
        shutil.copytree(toy.directory.parents[2], folder / "data")
        (folder / "foreign").mkdir()
        (folder / "foreign" / "thesis.tex").write_text("mine")
        (folder / "a_file").write_text("")

    @property
    def dataset(self):
        return next((self.folder / "data").glob("*/toy/*/manifest.json")).parent

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def shard(self, split="train"):
        return sorted(self.dataset.glob(f"*-{split}.tfrecord*"))[0]

    def truncated(self, name):
        image = io.BytesIO()
        Image.fromarray(toys.picture(name, (64, 64))).save(image, "PNG")
        (self.folder / name).write_bytes(image.getvalue()[:3000])

    def flip(self, path, place=-100):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(bytes(data))


@pytest.fixture(scope="module")
def template(toy, tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("refusals") / "place", toy)
    toy_runs.train(toy, place.folder / "run", "train.epochs=1")
    return place


def train(*params, gin_file=None, **flags):
    """A command line of `flexseg train` on the toy dataset, with TINY's bindings and then these."""
    given = {"dataset": "toy", "data_dir": "data", "workdir": "new"} | flags
    files = [f"--gin_file={gin_file}"] if gin_file else []
    bindings = params if gin_file else toy_runs.tiny(*params)
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return ["train", *words, *files, *(f"--gin_param={binding}" for binding in bindings)]


FAILING = """import gin
import keras

@gin.configurable
def failing_net(*, image_size, image_channels, num_classes):
    inputs = keras.Input((*image_size, image_channels))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = keras.layers.Concatenate()([x, inputs])
    return keras.Model(inputs, x)
"""


def config(place, text):
    place.write("mine.gin", text)


def no_training_split(place):
    text = (place.dataset / "manifest.json").read_text()
    (place.dataset / "manifest.json").write_text(text.replace('"train"', '"other"'))


def held(place):
    lock = FolderLock(place.folder / "run" / "run.lock", what="flexseg train")
    lock.__enter__()
    return lock


def checkpoint_archive(place):
    return next((place.folder / "run" / "checkpoints").glob("step_*/model.npz"))


def nothing(place):
    pass


# name: (what is spoilt, the command line, words of the answer)
RUN = train("train.epochs=1", workdir="run")
ENCODED = ("build_model.architecture=@encoder_unet", "encoder_unet.encoder='MobileNetV3Small'")
MISTAKES = {
    # commands and flags
    "an unknown command": (nothing, ["trian"], "name of a command.*'trian'.*Did you mean 'train'"),
    "an unknown flag": (nothing, [*train(), "--gin_parm=x"], "--gin_parm.*a flag of flexseg train.*Did you mean 'gin_param'"),
    "a flag that is a binding": (nothing, [*train(), "--epochs=3"], '--gin_param="train.epochs=…"'),
    "a flag's wrong type": (nothing, [*train(), "--logical_cpus=two"], "logical_cpus.*--help describes it"),
    "an argument without a flag": (nothing, [*train(), "train.epochs=3"], "flags only.*belongs to no flag"),
    "no dataset": (nothing, train(dataset=None), "--dataset: expected a value"),
    "no run directory": (nothing, train(workdir=None), "--workdir: expected a value"),
    "an unknown dataset": (nothing, train(dataset="tyo"), "--dataset=tyo.*found the datasets.*Did you mean 'toy'"),
    "a data folder without datasets": (nothing, train(data_dir="foreign"), "a built dataset, found none"),
    "a module with a slip of the pen": (
        lambda p: p.write("slip_models.py", "def my_net(:\n    pass\n"), [*train(), "--user_module=slip_models"],
        "--user_module=slip_models: expected valid Python, found invalid syntax .slip_models.py:1: def my_net",
    ),
    "a module that wants another one": (
        lambda p: p.write("wanting_models.py", "import no_such_package\n"), [*train(), "--user_module=wanting_models"],
        "expected a module that can be imported, found ModuleNotFoundError: No module named 'no_such_package' .wanting_models.py:1",
    ),
    "a network that is not gin's": (
        lambda p: p.write("bare_models.py", "def bare_net(**settings): pass\n"),
        [*train("build_model.architecture=@bare_net"), "--user_module=bare_models"], "'bare_net'.*needs @gin.configurable\\(\"bare_net\"\\) above it.*Did you mean 'basnet'",
    ),
    "a network that fails": (
        lambda p: p.write("failing_models.py", FAILING), [*train("build_model.architecture=@failing_net"), "--user_module=failing_models"],
        "build_model.architecture = @failing_net: expected a network, found ValueError: .* .failing_models.py:8",
    ),
    "a module that is not there": (nothing, [*train(), "--user_module=my_modles"], "--user_module=my_modles.*no module named 'my_modles'"),
    # gin
    "a misspelt configurable": (nothing, train("trian.epochs=3"), "'trian'.*Did you mean 'train'"),
    "a misspelt parameter": (nothing, train("train.epoch=3"), "a parameter of train.*'epoch'.*Did you mean 'epochs'"),
    "text for a number": (nothing, train("optimizer.learning_rate='0.1'"), "optimizer.learning_rate.*'0.1'"),
    "a fraction for a count": (nothing, train("train.epochs=2.5"), "train.epochs.*2.5"),
    "a value that no choice has": (nothing, train("optimizer.name='Adm'"), "optimizer.name.*'Adam'.*'Adm'"),
    "an import": (lambda p: config(p, "import os\n"), train(gin_file="mine.gin"), "mine.gin:1.*'import os', which would be executed.*--user_module"),
    "an include from elsewhere": (lambda p: config(p, "include '/etc/hosts'\n"), train(gin_file="mine.gin"), "mine.gin:1.*an include from.*/etc/hosts"),
    "one parameter twice": (lambda p: config(p, "train.epochs = 1\ntrain.epochs = 2\n"), train(gin_file="mine.gin"), "mine.gin:2.*a second binding beside mine.gin:1"),
    "a macro that is not there": (lambda p: config(p, "train.epochs = %EPOCHS\n"), train(gin_file="mine.gin"), "mine.gin:1.*EPOCHS"),
    "a scope": (lambda p: config(p, "a/train.epochs = 1\n"), train(gin_file="mine.gin"), "mine.gin:1.*without a scope"),
    "no gin at all": (lambda p: config(p, "train.epochs: 3\n"), train(gin_file="mine.gin"), "mine.gin:1.*a line like train.epochs = 3"),
    "an unknown gin file": (nothing, train(gin_file="defualt.gin"), "--gin_file=defualt.gin.*Did you mean 'default.gin'"),
    "a config of the reference": (lambda p: p.write("old.config", "[model]"), train(gin_file="old.config"), "old.config.*flexseg import_config old.config"),
    # settings against each other, the dataset and the machine
    "zero epochs": (nothing, train("train.epochs=0"), "train.epochs.*at least 1.*found 0"),
    "both batch sizes": (nothing, train("train.batch_size_per_replica=2"), "one of them.*train.global_batch_size=None"),
    "a setting of another optimizer": (nothing, train("optimizer.weight_decay=0.1"), "optimizer.weight_decay.*AdamW"),
    "a scaled rate without the batch that it belongs to": (nothing, train("optimizer.scaling='linear'"), "optimizer.base_batch_size.*beside a scaling"),
    "micro-batches that do not divide": (nothing, train("train.accumulation_steps=3"), "train.accumulation_steps.*a divisor of the 4 examples.*1, 2, 4"),
    "micro-batches of a loss over the whole batch": (nothing, train("train.accumulation_steps=2", "objective.reduction='batch'"), "accumulation_steps.*'example'"),
    "micro-batches with synchronised statistics": (nothing, train("train.accumulation_steps=2", "flex_unet.normalization='sync_batch'"), "accumulation_steps.*sync"),
    "recomputed synchronised statistics": (nothing, train("flex_unet.gradient_checkpointing=True", "flex_unet.normalization='sync_batch'"), "flex_unet.gradient_checkpointing.*computed twice"),
    "NCCL without GPUs": (nothing, train(all_reduce="nccl", logical_cpus=2), "--all_reduce.*'ring' on CPUs.*'nccl'"),
    "XLA with determinism": (nothing, train("train.deterministic=True", "train.xla='on'"), "train.xla.*with train.deterministic.*train.xla='auto'"),
    "XLA with synchronised statistics": (nothing, train("flex_unet.normalization='sync_batch'", "train.xla='on'"), "train.xla.*sync_batch"),
    "XLA with a loss over several replicas' batch": (nothing, train("objective.reduction='batch'", "train.xla='on'", logical_cpus=2), "train.xla.*on several replicas"),
    "an unknown loss": (nothing, train("objective.loss='dice_los'"), "objective.loss.*'dice_los'.*Did you mean 'dice_loss'"),
    "an unknown metric": (nothing, train("train.metrics=('dice_coeff',)"), "train.metrics.*Did you mean 'dice_coef'"),
    "an unknown monitor": (nothing, train("train.monitor='val_los'"), "train.monitor.*'val_los'.*val_loss"),
    "classes against the LabelMap": (nothing, train("build_model.num_classes=3"), "build_model.num_classes.*2.*3"),
    "a size that does not fit the depth": (nothing, train("input.image_size=(33,32)"), "input.image_size.*33"),
    "an encoder that keras.applications does not have": (nothing, train(*ENCODED, "encoder_unet.encoder='ResNet51'"), "encoder_unet.encoder.*'ResNet51'.*Did you mean 'ResNet50'"),
    "learnt weights that are not there": (nothing, train(*ENCODED, "encoder_unet.encoder_weights='r.h5'"), "encoder_unet.encoder_weights.*an existing .h5 file, found 'r.h5'"),
    "an encoder's rate without an encoder": (nothing, train("optimizer.encoder_rate_factor=0.1"), "optimizer.encoder_rate_factor.*a model with an encoder.*flex_unet"),
    "an encoder frozen with random weights": (nothing, train(*ENCODED, "encoder_unet.encoder_trainable_layers=0"), "encoder_trainable_layers.*encoder_weights beside it"),
    "a checkpoint of the reference that is none": (lambda p: p.write("best_model.h5", "text"), train(init_from="best_model.h5"), "--init_from=best_model.h5.*Keras's .h5 layout"),
    "a drawing of no network": (nothing, ["models", "--plot=all.png"], "--plot.*the network by --gin_file or --gin_param"),
    "images larger than a padded input": (nothing, train("input.fit='pad'"), "input.image_size.*random_crop"),
    "more replicas than examples in a batch": (nothing, train("train.global_batch_size=2", logical_cpus=4), "train.global_batch_size.*multiple of the 4 replicas.*train.global_batch_size=4"),
    "more GPUs than there are": (nothing, train(replicas=9), "--replicas.*visible GPUs.*--logical_cpus"),
    "an input host that does not answer": (nothing, train(data_service="grpc://127.0.0.1:1"), r"--data_service.*a server at grpc://127\.0\.0\.1:1.*launch\.data_service"),
    "a binding without effect": (nothing, train("schedule.power=2.0"), "schedule.power"),
    "a binding of the build": (nothing, train("split.seed=1"), "flexseg build"),
    # datasets
    "an empty training split": (no_training_split, train(), "a training split, found none"),
    "a missing shard": (lambda p: p.shard().unlink(), train(), "a shard of the dataset, found no such file.*--overwrite"),
    "a flipped byte in a TFRecord": (lambda p: p.flip(p.shard()), train("train.steps_per_epoch=5"), r"\.tfrecord.*record \d+ damaged \(case train.*--overwrite"),
    "a flipped byte in the validation's TFRecord": (lambda p: p.flip(p.shard("valid")), train(), r"\.tfrecord.*record \d+ damaged \(case valid.*--overwrite"),
    "a flipped byte in a case to be pictured": (lambda p: p.flip(p.shard("valid")), train("epoch_change_infer.num_infer_images=5"), r"\.tfrecord.*record \d+ damaged \(case valid.*--overwrite"),
    "a flipped byte, with the images in memory": (lambda p: p.flip(p.shard()), train("input.cache='ram'"), r"\.tfrecord.*record \d+ damaged \(case train.*--overwrite"),
    "a shard that is cut off": (lambda p: p.shard().write_bytes(p.shard().read_bytes()[:-50]), train("train.steps_per_epoch=5"), r"\.tfrecord.*the record of case train"),
    "a garbled manifest": (lambda p: (p.dataset / "manifest.json").write_text("{"), train(), r"manifest\.json"),
    # run directories
    "a run directory that is a file": (nothing, train(workdir="a_file"), "--workdir=.*a directory, found a file"),
    "a run directory with other files": (nothing, train(workdir="foreign"), "other files and no config.gin.*name another --workdir"),
    "a run of another config": (nothing, train("train.epochs=1", "optimizer.learning_rate=0.5", workdir="run"), "begun with.*learning_rate: here 0.5, in the run 0.001.*another --workdir"),
    "a second trainer": (held, train("train.epochs=2", workdir="run"), "no other process that writes there.*flexseg train, process"),
    "a checkpoint with a flipped byte, and no other": (lambda p: p.flip(checkpoint_archive(p)), train("train.epochs=2", workdir="run"), "a whole checkpoint, found 1 damaged"),
    "weights of no run": (nothing, train(init_from="foreign"), "foreign.*no such folder"),
    # evaluation and prediction
    "evaluation of no run": (nothing, ["evaluate", "--workdir=rnu"], "--workdir=.*written by `flexseg train`.*Did you mean 'run'"),
    "evaluation of an unknown split": (nothing, ["evaluate", "--workdir=run", "--split=tset"], "a split 'tset'.*Did you mean 'test'"),
    "evaluation of damaged weights": (lambda p: p.flip(p.folder / "run" / "best" / "model.npz"), ["evaluate", "--workdir=run", "--split=valid"], "model.npz does not have its checksum"),
    "prediction of nothing": (nothing, ["predict", "--workdir=run", "--images=nowhere", "--output=masks"], "nowhere"),
    "prediction of what is no image": (lambda p: p.write("a.png", "text"), ["predict", "--workdir=run", "--images=a.png", "--output=masks"], "a.png"),
    "prediction of a truncated image": (lambda p: p.truncated("c.png"), ["predict", "--workdir=run", "--images=c.png", "--output=masks"], "c.png"),
    "prediction of too many pixels": (lambda p: Image.new("1", (20000, 20000)).save(p.folder / "b.png"), ["predict", "--workdir=run", "--images=b.png", "--output=masks"], "b.png.*20000"),
}  # fmt: skip
# What a training run that is refused in its middle may leave: its directory, which the same command resumes with.
BEGUN = ("a flipped byte in a TFRecord", "a flipped byte in the validation", "a shard that is cut off", "a second trainer", "a checkpoint with")


def test_there_are_at_least_forty():
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(template, tmp_path, monkeypatch, name):
    spoil, command, words = MISTAKES[name]
    place = Place.__new__(Place)
    place.folder, place.toy = tmp_path / "place", template.toy
    shutil.copytree(template.folder, place.folder)
    monkeypatch.chdir(place.folder)
    lock = spoil(place)
    before = files(place.folder)
    said = io.StringIO()
    try:
        with toy_runs.command() as printed, redirect_stderr(said):
            code = dispatcher.run(command)
    finally:
        if lock is not None and hasattr(lock, "__exit__"):
            lock.__exit__()
    answer = [line for line in said.getvalue().splitlines() if line.startswith("flexseg")]
    assert code == 1, said.getvalue()
    assert len(answer) == 1 and re.search(words, answer[0]), said.getvalue()
    assert "Traceback" not in said.getvalue() + printed.getvalue()
    left = {path: content for path, content in files(place.folder).items() if before.get(path) != content}
    kept = {path for path in before if path not in files(place.folder)} - {"run/run.lock"}
    assert not kept, "nothing of the user's is deleted"
    if name.startswith(BEGUN):
        half = [path for path in left if "/." in path and not path.startswith("run/tensorboard")]
        assert not half, half
        left = {path: content for path, content in left.items() if not path.startswith("new") and path != "run/log.txt"}
    assert not left, sorted(left)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}
