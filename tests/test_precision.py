"""Precision and XLA: what `auto` becomes, what is refused, and that every combination trains alike on one device and on two replicas."""

import functools

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.step import TrainStep
from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.models.flex_unet import flex_unet
from flexseg.objectives.losses import loss_named
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.training import precision
from flexseg.training.assembly import Assembly
from flexseg.training.experiment import Experiment
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope, resolve_precision, resolve_xla
from flexseg.training.settings import TrainSettings

STEPS = 30


def examples():
    """Eight bright discs on dark noise: enough to learn in 30 steps."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    centres = random.uniform(8, 24, (8, 2, 1, 1))
    masks = ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < 64).astype(np.uint8)[..., None]
    return (random.uniform(0, 130, (8, 32, 32, 3)) + 100 * masks).astype(np.uint8), masks


@functools.cache
def losses(policy: str, xla: bool, count: int) -> np.ndarray:
    """The loss of each of 30 steps, float64 [30]."""
    images, masks = examples()
    replicas = open_replicas(global_batch_size=8, replicas=1, logical_cpus=count if count > 1 else 0)
    settings = OptimizerSettings(name="SGD", learning_rate=0.02)
    step_metrics = StepMetrics(loss=loss_named("ce_dice", num_classes=2, background=0), reduction="example", metrics=[])
    with precision_scope(policy):
        keras.utils.set_random_seed(1)
        with replicas.scope():
            model = flex_unet(image_size=(32, 32), image_channels=3, num_classes=2, base_filters=8, num_layers=3, dropout_rate=0.0)
            optimizer = settings.build()
            optimizer.build(model.trainable_variables)
            scale = LossScale(dynamic=policy == "mixed_float16", growth_steps=12)
        step = TrainStep(
            replicas, model, optimizer, scale,
            make_forward_backward(model, step_metrics, preprocessing=Preprocessing(InputSettings()), replicas=count), clip=settings.clip(), seed=0, xla=xla,
        )  # fmt: skip
        batch = replicas.shard({"image": images, "mask": masks, "weight": np.ones(8, np.float32)})
        values = [step(batch, global_step=number, learning_rate=0.02, total_weight=8.0).values.numpy() for number in range(STEPS)]
    assert replicas.read(scale.scale) == (2.0**17 if policy == "mixed_float16" else 1.0), "the loss scale doubled twice in 30 steps"
    return np.array(values, np.float64)[:, 0] / 8


COMBINATIONS = [  # every pair of settings
    ("mixed_bfloat16", False, 2), ("mixed_float16", False, 1), *(pytest.param(*slow, marks=pytest.mark.slow) for slow in (
        ("float32", False, 2), ("float32", True, 1), ("mixed_bfloat16", True, 1), ("mixed_float16", True, 2)
    )),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "xla", "count"), COMBINATIONS)
def test_thirty_steps_go_as_in_float32_on_one_device_without_xla(policy, xla, count):
    expected = losses("float32", False, 1)
    assert expected[-1] < 0.7 * expected[0], "nothing was learned: the comparison would prove nothing"
    np.testing.assert_allclose(losses(policy, xla, count), expected, rtol=0.01 if policy == "float32" else 0.05)


def test_auto_on_a_cpu_follows_what_it_multiplies(monkeypatch):
    def with_flags(*flags):
        monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"fpu", *flags}))
        return resolve_precision("auto", on_gpu=False)

    assert with_flags("avx512f") == with_flags() == "float32"
    assert with_flags("avx512_bf16") == with_flags("amx_bf16") == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0), (8, 0)], "mixed_bfloat16"),
        ([(8, 6), (7, 5)], "mixed_float16"),  # the oldest GPU decides
        ([(7, 0)], "mixed_float16"),
        ([(9, 0), (6, 1)], "float32"),
        ([None], "float32"),
    ],
)
def test_auto_on_gpus_follows_the_compute_capability(monkeypatch, capabilities, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(capabilities))))
    details = lambda gpu: {} if capabilities[gpu] is None else {"compute_capability": capabilities[gpu]}  # noqa: E731
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    assert resolve_precision("auto", on_gpu=True) == expected


@pytest.mark.parametrize("setting", ["float32", "mixed_bfloat16", "mixed_float16", "float64"])
def test_a_precision_that_is_asked_for_is_taken(setting):
    assert resolve_precision(setting, on_gpu=False) == resolve_precision(setting, on_gpu=True) == setting


@pytest.mark.parametrize(
    ("setting", "on_gpu", "excluded_by", "expected"),
    [
        ("auto", True, [], True), ("auto", False, [], False), ("auto", True, ["train.deterministic"], False), ("off", True, [], False),
        ("on", False, [], True), ("off", False, ["train.deterministic"], False),
    ],
)  # fmt: skip
def test_xla_auto_is_on_for_gpus_unless_something_excludes_it(setting, on_gpu, excluded_by, expected):
    assert resolve_xla(setting, on_gpu=on_gpu, excluded_by=excluded_by) is expected


def test_xla_that_is_asked_for_is_refused_where_it_cannot_be():
    with pytest.raises(UserError, match="train.xla: expected 'auto' or 'off' with a and b, found 'on'.*train.xla='auto'"):
        resolve_xla("on", on_gpu=True, excluded_by=["a", "b"])
    with pytest.raises(UserError, match="train.xla.*with train.deterministic, found 'on'"):
        TrainSettings(xla="on", deterministic=True)


def assembled_xla(dataset, *, xla, count=1, reduction="example", normalization="none", deterministic=False):
    """What `Assembly` makes of `train.xla`."""
    for binding in ("build_model.architecture = @flex_unet", "flex_unet.num_layers = 2", "flex_unet.base_filters = 2", "input.image_size = (16, 16)"):
        gin.parse_config(binding)
    gin.parse_config(f"flex_unet.normalization = '{normalization}'\nobjective.reduction = '{reduction}'\ntrain.deterministic = {deterministic}")
    replicas = open_replicas(global_batch_size=4, replicas=1, logical_cpus=count if count > 1 else 0)
    return Assembly(Experiment.from_gin(), dataset, replicas, precision="float32", xla=xla).xla


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"reduction": "batch", "count": 2}, "objective.reduction = 'batch' on several replicas"),
        ({"normalization": "sync_batch"}, "sync_batch normalization"),
    ],
)
def test_a_collective_inside_the_forward_pass_excludes_xla(toy, settings, name):
    with pytest.raises(UserError, match=f"train.xla.*with {name}"):
        assembled_xla(toy, xla="on", **settings)
    assert assembled_xla(toy, xla="auto", **settings) is False


def test_batch_reduction_on_one_device_compiles(toy):
    assert assembled_xla(toy, xla="on", reduction="batch") is True


def test_the_scope_puts_back_both_of_keras_globals_after_an_error_too():
    before = keras.config.floatx(), keras.config.dtype_policy().name
    with pytest.raises(ZeroDivisionError), precision_scope("float64"):
        assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float64", "float64")
        raise ZeroDivisionError
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == before
    with precision_scope("mixed_bfloat16"):
        assert keras.config.floatx() == "float32"
        assert keras.layers.Dense(1).compute_dtype == "bfloat16" and keras.layers.Dense(1).variable_dtype == "float32"
