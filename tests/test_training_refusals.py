"""Settings that cannot be trained with: each is refused in one line, with what to type."""

import pytest
import toy_runs

from flexseg.commands import dispatcher
from flexseg.config.configure import configure
from flexseg.config.effects import idle_bindings
from flexseg.errors import UserError


def test_an_unknown_monitor_is_refused_with_the_names_there_are(toy):
    with pytest.raises(
        UserError, match="train.monitor: expected one of loss, mean_foreground_dice, val_loss, val_mean_foreground_dice, val_dice/.*found 'val_los'"
    ):
        toy_runs.train(toy, None, "train.monitor='val_los'", dry_run=True)


def test_another_number_of_classes_than_the_datasets_is_refused(toy):
    with pytest.raises(UserError, match="build_model.num_classes: expected 2.*found 3"):
        toy_runs.train(toy, None, "build_model.num_classes=3", dry_run=True)


@pytest.mark.parametrize("binding", ["label_map.off_map='nearest'", "split.seed=3"])
def test_bindings_of_build_are_refused_in_training(toy, binding):
    with pytest.raises(UserError, match=f"{binding.split('=')[0]}: expected bindings of training, found one of `flexseg build`"):
        toy_runs.train(toy, None, binding, dry_run=True)


def test_an_evaluation_input_that_the_network_cannot_take_is_refused_with_one_that_it_can(toy):
    with pytest.raises(UserError, match=r"input.eval_image_size: .*found 50 × 34.*input.eval_image_size=\(64,64\)"):
        toy_runs.train(toy, None, "input.eval_image_size=(50,34)", "flex_unet.num_layers=4", dry_run=True)


def test_a_number_of_gpus_beside_another_number_of_logical_cpus_is_refused(toy):
    with pytest.raises(UserError, match="--replicas: expected none beside --logical_cpus=2, found 3"):
        toy_runs.train(toy, None, dry_run=True, replicas=3, logical_cpus=2)


def test_a_seed_that_is_no_32_bit_number_is_refused(toy):
    with pytest.raises(UserError, match="train.seed: expected at most"):
        toy_runs.train(toy, None, "train.seed=4294967296", dry_run=True)


@pytest.mark.parametrize(("flag", "cure"), [("--epochs=2", "train.epochs"), ("--batch-size=2", "train.global_batch_size"), ("--epoch=2", "")])
def test_a_flag_that_is_a_binding_is_refused_with_the_binding(capsys, flag, cure):
    assert dispatcher.run(["train", "--dataset=x", flag]) == 1
    said = capsys.readouterr().err
    assert (f'--gin_param="{cure}=…"' if cure else "--help lists the flags") in said


@pytest.mark.parametrize(
    ("binding", "cure"),
    [
        ("flex_unet.num_classes=6", "build_model.num_classes=1"), ("flex_unet.image_size=(64,64)", "input.image_size"),
        ("flex_unet.image_channels=1", "the dataset's images say it"), ("build_model.classes=5", "the dataset says it"), ("build_model.channels=1", "leave it out"),
    ],
)  # fmt: skip
def test_a_binding_of_what_the_dataset_decides_is_refused(toy, binding, cure):
    with pytest.raises(UserError, match=f"{binding.split('=')[0]}: expected no such binding, found.*{cure}"):
        toy_runs.train(toy, None, binding, dry_run=True)


@pytest.mark.parametrize(
    ("binding", "switch"),
    [
        ("plateau.reducer_factor=0.2", "plateau.learning_rate_reducer = True"), ("schedule.power=2.0", "schedule.name = 'polynomial'"),
        ("flex_unet.group_count=4", "flex_unet.normalization = 'group'"), ("augment.rotation_probability=1.0", "augment.enabled = True"),
        ("flex_unet.normalization_momentum=0.5", "flex_unet.normalization = 'batch' or 'sync_batch' or True"),
    ],
)  # fmt: skip
def test_a_binding_that_another_one_switches_off_is_refused(toy, binding, switch):
    with pytest.raises(UserError, match=f"expected {switch} beside it, found .*, with which it has no effect"):
        toy_runs.train(toy, None, "plateau.learning_rate_reducer=False", binding, dry_run=True)


@pytest.mark.parametrize("architecture", [(), ("build_model.architecture=@encoder_unet", "encoder_unet.encoder='MobileNetV3Small'")])
def test_a_binding_of_a_network_that_is_not_built_is_refused(toy, architecture):
    other = "flex_unet" if architecture else "u2net"
    with pytest.raises(UserError, match=rf"{other}.base_filters = 4: expected build_model.architecture = @{other} beside it, found .*no effect"):
        toy_runs.train(toy, None, *architecture, f"{other}.base_filters=4", dry_run=True)


@pytest.mark.parametrize(("files", "params", "cure"), [
    (["models/u2net_small.gin", "default.gin"], [], "give --gin_file=models/u2net_small.gin last, or leave it out"),
    (["default.gin", "models/u2net_small.gin"], ["build_model.architecture=@fpn"], "leave the file out"),
])  # fmt: skip
def test_a_file_of_a_network_that_is_not_built_is_refused(files, params, cure):
    configuration = configure(files, params, modules=("flexseg.training.assembly",))
    with pytest.raises(UserError, match=r"^--gin_file=models/u2net_small.gin: expected .* = @u2net beside it, found @.*no effect") as refusal:
        idle_bindings(configuration)
    assert refusal.value.cure == cure
    idle_bindings(configure(["default.gin", "models/u2net_small.gin"], [], modules=("flexseg.training.assembly",)))  # takes the right order


def test_an_idle_binding_of_a_file_is_named_because_it_may_be_inherited(toy, tmp_path):
    (tmp_path / "mine.gin").write_text("plateau.reducer_factor = 0.2\n")
    said = toy_runs.train(toy, None, dry_run=True, gin_file=[str(tmp_path / "mine.gin")])
    assert "plateau.reducer_factor has no effect while plateau.learning_rate_reducer = False" in said
    (tmp_path / "mine.gin").write_text("plateau.reducer_factor = 0.2\nplateau.learning_rate_reducer = True\n")
    assert "no effect" not in toy_runs.train(toy, None, dry_run=True, gin_file=[str(tmp_path / "mine.gin")])


@pytest.mark.parametrize("architecture", ["'flex_unet'", "@flex_unet()"])
def test_an_architecture_in_quotes_or_with_brackets_is_refused_with_the_right_way(toy, architecture):
    with pytest.raises(UserError, match="expected a function, found.*write build_model.architecture = @name, without quotes and brackets"):
        toy_runs.train(toy, None, f"build_model.architecture={architecture}", dry_run=True)


@pytest.mark.parametrize(("binding", "where"), [("train.metrics=('dice_coeff',)", "train.metrics: .*Did you mean 'dice_coef'"),
                                                ("train.monitor='val_los'", "train.monitor: .*Did you mean 'val_loss'")])  # fmt: skip
def test_a_misspelt_metric_is_refused_with_the_binding_and_the_nearest_name(toy, binding, where):
    with pytest.raises(UserError, match=where):
        toy_runs.train(toy, None, binding, dry_run=True)


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(toy):
    with pytest.raises(UserError, match="train.global_batch_size: expected a multiple of the 2 replicas, found 5.*train.global_batch_size=6"):
        toy_runs.train(toy, None, "train.global_batch_size=5", dry_run=True, logical_cpus=2)


def test_weights_of_a_run_that_is_not_there_are_refused(toy, tmp_path):
    with pytest.raises(UserError, match="nowhere/best: expected whole weights"):
        toy_runs.train(toy, tmp_path / "run", init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere/best: expected whole weights"):  # and not that the directory holds other files
        toy_runs.train(toy, tmp_path / "run", init_from=str(tmp_path / "nowhere"))
