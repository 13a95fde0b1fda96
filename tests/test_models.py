"""What every architecture must do: the contract, gradients everywhere, every precision, XLA, replicas, checkpoints, export; and its published size."""

from pathlib import Path

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import DEEP, ENCODED, GROUPS, SETTINGS, builder, counted, fresh_global_state, moving, redundant_biases, small, unmixed  # noqa: F401 (a fixture)
from test_step import MOMENTUM, rig
from toys import slow_unless

from flexseg import models
from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.models.architectures import ARCHITECTURES
from flexseg.models.build import build_model
from flexseg.models.layers.upsampling import BilinearUpsampling
from flexseg.objectives.supervision import main_output
from flexseg.runs.checkpoint_format import read_checkpoint, write_checkpoint
from flexseg.runs.variables import assign, model_variables, named_arrays
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope

MODELS = tuple(SETTINGS)
# Of all kinds of layers. What takes seconds for each network is a slow test for the others.
QUICK = ("flex_unet", "unet3_plus", "transunet", "swin_unet", "fpn")
QUICK_FIRST = [slow_unless(name in QUICK, name) for name in MODELS]


def pixels(batch=2, size=(32, 64), channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, *size, channels)).astype("float32")


# Published sizes: (settings, count, how the count here becomes it)

REFERENCE = "the reference, whose counts REFERENCE_SYSTEM.md section 4 has"
COUNTS = [
    ("attention_unet", {"num_layers": 8}, 131_499_746, redundant_biases, REFERENCE),
    ("attention_unet", {"num_layers": 5}, 2_058_210, redundant_biases, REFERENCE),
    ("multires_unet", {"num_layers": 8}, 130_899_485, lambda _: 0, REFERENCE),
    ("multires_unet", {"num_layers": 5}, 2_037_637, lambda _: 0, REFERENCE),
    ("xception_unet", {"num_layers": 8, "num_classes": 1}, 131_563_473, redundant_biases, REFERENCE),
    # Its dead convolutions count here; there are its fixed filters, and up-convolutions of the wider maps before those convolutions.
    ("sharp_unet", {}, 5_613_154, lambda m: 9 * (32 + 64 + 128 + 256) + 4 * (256 * 128 + 128 * 64 + 64 * 32) - sum(
        m.get_layer(f"decoder_{level}_conv_{letter}").count_params() for level in (1, 2, 3) for letter in "ab"), REFERENCE),
    # Its tables of offsets within windows and of what a shift keeps apart counted as weights.
    ("swin_unet", {"base_filters": 64}, 9_377_544, lambda m: _tables_of_offsets(m) + 369_664, REFERENCE),
    ("swin_unet", {"base_filters": 128}, 28_452_456, lambda m: _tables_of_offsets(m) + 369_664, REFERENCE),
    ("transunet", {"image_size": (256, 256), "key_dim": "embedding", "normalization": "none"}, 407_179_010, lambda _: 0, REFERENCE),
    ("u2net", {"base_filters": 64, "num_classes": 1, "image_size": (320, 320)}, 44_009_869, lambda m: redundant_biases(m) - moving(m), "the authors' code: U2NET(3, 1)"),
    ("basnet", {"base_filters": 64, "num_classes": 1, "image_size": (256, 256)}, 87_060_360,
     lambda m: redundant_biases(m, without="encoder") - moving(m), "the authors' code: BASNet(3, 1); 348.5 MB in the paper"),
    ("deeplabv3_plus", {}, 11_852_610, lambda m: m.get_layer("global_conv_a").filters, REFERENCE),
    # Its EfficientNets counted the seven numbers of their own pixel normalization.
    ("efficient_unet", {"num_classes": 1}, 6_292_804, lambda m: redundant_biases(m) + 7, REFERENCE),
    ("efficient_unet", {"num_classes": 1, "efficientnet": "B7", "decoder": "transposed"}, 56_725_112, lambda m: redundant_biases(m) + 7, REFERENCE),
]  # fmt: skip


def _tables_of_offsets(model):
    return sum(layer.window**4 for layer in model.layers if hasattr(layer, "offset_bias"))


@pytest.mark.parametrize(("name", "settings", "count", "difference", "source"), COUNTS, ids=[f"{name}-{count}" for name, _, count, *_ in COUNTS])
def test_the_published_number_of_parameters(name, settings, count, difference, source):
    model = counted(name, **settings)
    assert model.count_params() + difference(model) == count, source


def test_unet3_plus_has_the_paper_s_26_97_million():
    model = counted("unet3_plus", base_filters=64, num_classes=1, image_size=(320, 320), deep_supervision=False)
    assert round((model.count_params() + redundant_biases(model) - moving(model)) / 1e6, 2) == 26.97, "table 1 of the paper"


# The contract


@pytest.mark.parametrize(
    ("num_classes", "channels"), [(1, 3), slow_unless(False, 6, 1)]
)  # two classes of colour images are what all other tests have
@pytest.mark.parametrize("name", MODELS)
def test_logits_of_the_image_s_size(name, num_classes, channels):
    model = build_model(
        image_size=(32, 64),
        channels=channels,
        classes=max(2, num_classes),
        num_classes=num_classes,
        architecture=lambda **given: small(name, **given),
    )
    outputs = keras.tree.flatten(model(pixels(channels=channels)))
    assert len(outputs) == (1 if name not in DEEP else {"unet3_plus": 3, "u2net": 5, "basnet": 8}[name])
    assert all(output.shape == (2, 32, 64, num_classes) and output.dtype == "float32" and np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("name", DEEP)
def test_without_deep_supervision_the_main_logits_are_the_same(name):
    deep, alone = small(name), small(name, deep_supervision=False)
    weights = dict(zip((v.path for v in deep.variables), deep.get_weights(), strict=True))
    alone.set_weights([weights[v.path] for v in alone.variables])
    np.testing.assert_array_equal(alone(pixels()), deep(pixels())[0])


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_a_size_that_it_cannot_take_is_refused_with_sizes_that_it_can(name):
    with pytest.raises(UserError) as refusal:
        small(name, image_size=(33, 70))
    assert refusal.value.where == "input.image_size" and "33 x 70" in refusal.value.found
    height, width = eval_size(refusal.value.cure)
    assert small(name, image_size=(height, width)).output is not None


def eval_size(cure: str) -> tuple[int, int]:
    """The last size that a refusal names."""
    numbers = cure.rsplit("image_size=(", 1)[1].partition(")")[0]
    return tuple(int(number) for number in numbers.split(","))


@pytest.mark.parametrize(("name", "setting"), [
    *((name, setting) for name in MODELS for setting in ({"dropout_rate": 1.5}, {"activation": "relo"}, {"base_filters": 0}, {"num_classes": 0})),
    *((name, {"normalization": "layer"}) for name in MODELS if name != "swin_unet"), ("multires_unet", {"normalization": "group"}),
    ("attention_unet", {"gate_channels": "two"}), ("swin_unet", {"num_heads": (3, 4)}), ("swin_unet", {"window_sizes": (4,)}), ("swin_unet", {"patch_size": 3}),
    *((name, setting) for name in ENCODED for setting in ({"encoder_normalization": "none"}, {"encoder_trainable_layers": -1}, {"encoder_weights": 3})),
    *((name, {"encoder": "ResNet18"}) for name in ENCODED if name != "efficient_unet"), ("efficient_unet", {"efficientnet": "B8"}), ("efficient_unet", {"decoder": "plain"}),
    *((name, {"encoder_normalization": "frozen"}) for name in ENCODED), ("encoder_unet", {"encoder_dropout_rate": 0.1}), ("fpn", {"pyramid_filters": 0}),
    ("deeplabv3_plus", {"encoder_maps": "inner", "encoder": "Xception"}), ("deeplabv3_plus", {"atrous": True, "encoder": "Xception", "encoder_maps": "stage"}),
    ("deeplabv3_plus", {"atrous_rates": (6, 6)}), ("transunet", {"num_heads": 3}), ("transunet", {"key_dim": "half"}), ("u2net", {"num_layers": 3}),
])  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(name, setting):
    with pytest.raises(UserError) as refusal:
        small(name, **setting)
    assert refusal.value.where == f"{name}.{next(iter(setting))}"


def test_a_dilation_of_two_is_felt_by_an_xception_unet():
    rates = [layer.dilation_rate for layer in small("xception_unet", dilation=2).layers if "Separable" in type(layer).__name__]
    assert (2, 2) in rates and {layer.dilation_rate for layer in small("xception_unet").layers if "Separable" in type(layer).__name__} == {(1, 1)}


@pytest.mark.parametrize(("name", "binding"), [("u2net", "base_kernels = (5, 5)"), ("basnet", "num_layers = 5"), ("swin_unet", "dilation = 2")])
def test_a_setting_without_a_meaning_is_refused_by_name(name, binding):
    builder(name)  # its module registers it
    with pytest.raises(ValueError, match=f"'{name}' doesn't have a parameter named '{binding.partition(' ')[0]}'"):
        gin.parse_config(f"{name}.{binding}")


# Gradients


def loss_of(outputs):
    """Three quarters are foreground: with halves a first step's gradients nearly cancel, and the rest is rounding (0.19 of TransUNet's in bfloat16 on one CPU)."""
    outputs, mask = keras.tree.flatten(outputs), tf.cast(pixels(seed=1)[..., 0] > 64, tf.int32)
    return tf.add_n([tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(mask, tf.cast(output, "float32"))) for output in outputs])


CASES = [(name, {}) for name in MODELS]  # without normalization: test_the_gradient_of_a_batch_is_the_sum_of_those_of_its_halves
CASES += [(name, {"normalization": "group"}) for name in GROUPS]
CASES += [("deeplabv3_plus", {"encoder": "MobileNetV3Small", "encoder_maps": "stage"}), ("deeplabv3_plus", {"encoder_maps": "stage", "atrous": True})]
CASES += [("unet3_plus", {"classification_guided": True}), ("attention_unet", {"gate_channels": "one"}), ("transunet", {"key_dim": "embedding"})]


@pytest.mark.parametrize(
    ("name", "settings"),
    [slow_unless(not settings or name in QUICK, name, settings) for name, settings in CASES],
    ids=[f"{n}{s or ''}" for n, s in CASES],
)
def test_the_gradient_reaches_every_weight(name, settings):
    model = small(name, activation="mish", **settings)
    state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = loss_of(model.stateless_call(weights, state, pixels(), training=True)[0])
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, weights), strict=True):
        assert gradient is not None and np.isfinite(gradient).all() and np.any(gradient), variable.path


def indifferent(path: str, gradient, largest: float) -> bool:
    """A bias on all keys alike moves every score of a query by the same, and keras.applications shifts what a batch normalization takes out again."""
    shift = path.startswith("encoder/") and path.endswith(("/bias", "/beta"))
    return path.endswith("key/bias") or (shift and np.linalg.norm(gradient) < 1e-12 * largest)


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_the_gradient_of_a_batch_is_the_sum_of_those_of_its_halves(name):
    """So two replicas, whose gradients the step adds up (test_replicas.py), and micro-batches (test_step_options.py) have that of one device."""
    masks = tf.cast(pixels(8, seed=1)[..., 0] > 64, tf.int32)
    with precision_scope("float64"):
        model = small(name, **unmixed(name))
        weights, state = ([tf.convert_to_tensor(v.value) for v in kind] for kind in (model.trainable_variables, model.non_trainable_variables))

        def gradients(part):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs = keras.tree.flatten(model.stateless_call(weights, state, pixels(8).astype("float64")[part], training=True)[0])
                losses = [
                    tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(masks[part], tf.cast(output, "float64"))) for output in outputs
                ]
                loss = tf.add_n(losses)
            return dict(zip((v.path for v in model.trainable_variables), tape.gradient(loss, weights), strict=True))

        whole, first, second = (gradients(part) for part in (slice(None), slice(0, 4), slice(4, 8)))
    assert len(whole) > 10
    largest = max(map(np.linalg.norm, whole.values()))
    for path, gradient in whole.items():
        assert np.isfinite(gradient).all() and np.any(gradient), path
        difference = np.linalg.norm(first[path] + second[path] - gradient)
        assert indifferent(path, gradient, largest) or difference <= 1e-10 * np.linalg.norm(gradient), path


# What the step does with replicas knows no network; these and FlexUNet (test_replicas.py) have every kind of layer that flexseg has of its own, and
# statistics that replicas exchange.
REPLICATED = ("unet3_plus", "attention_unet", "swin_unet", "transunet", "sharp_unet", "xception_unet", "encoder_unet")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "unet3_plus" else [pytest.mark.slow]) for name in REPLICATED])
def test_the_reduced_gradient_of_every_weight_is_that_of_one_device(name):
    settings = unmixed(name, replicas=True)
    images = np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3))
    masks = (images.mean(-1, keepdims=True) > 128).astype(np.uint8)

    def build(*, size, num_classes, **options):
        keras.utils.set_random_seed(0)
        return small(name, image_size=(size, size), num_classes=num_classes, **options)

    def gradients(count):
        with precision_scope("float64"):
            made = rig(
                count, OptimizerSettings(name="SGD", learning_rate=1.0, momentum=MOMENTUM), build=build, images=images, masks=masks, **settings
            )
            assert bool(made.run(0, rate=1.0).applied)
            return {v.path: -made.replicas.read(m) for v, m in zip(made.model.trainable_variables, made.optimizer.momentums, strict=True)}

    alone, both = gradients(1), gradients(2)
    assert len(alone) > 10
    largest = max(map(np.linalg.norm, alone.values()))
    for path, gradient in alone.items():
        assert indifferent(path, gradient, largest) or np.linalg.norm(both[path] - gradient) <= 1e-10 * np.linalg.norm(gradient), path


# Precision and XLA


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_gradients_in_16_bits_are_those_of_float32(name):
    """Without normalization: statistics of the four values that a deep map has here turn rounding into any direction."""
    settings = unmixed(name)

    def gradients(model):
        with tf.GradientTape() as tape:
            outputs = model(pixels(), training=True)
            loss = loss_of(outputs)
        assert all(output.dtype == "float32" for output in keras.tree.flatten(outputs))
        return tf.concat([tf.reshape(tf.cast(g, "float32"), [-1]) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])], 0)

    exact = small(name, **settings)
    expected = gradients(exact)
    for policy in ("mixed_bfloat16", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        rounded = small(name, **settings)
        rounded.set_weights(exact.get_weights())
        found = gradients(rounded)
        assert np.isfinite(found).all() and np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected), policy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy"), [*((name, "float32") for name in MODELS), *((name, "mixed_bfloat16") for name in ("flex_unet", "transunet", "encoder_unet"))]
)
def test_xla_gives_the_same_logits_and_gradients(name, policy):
    settings = unmixed(name)  # as above
    if name == "fpn":  # its own encoder is efficient_unet's
        settings = {key: value for key, value in settings.items() if key != "encoder_dropout_rate"} | {"encoder": "MobileNetV3Small"}
    keras.config.set_dtype_policy(policy)
    model = small(name, **settings)
    state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]

    def step(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, _ = model.stateless_call(weights, state, pixels(), training=True)
            loss = loss_of(outputs)
        return main_output(outputs), tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, weights)], 0)

    plain, compiled = step(weights), tf.function(step, jit_compile=True)(weights)
    for one, other in zip(plain, compiled, strict=True):
        assert np.linalg.norm(other - one) < (1e-3 if policy == "float32" else 0.1) * np.linalg.norm(one)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 16])
def test_upsampling_is_that_of_tensorflow(factor):
    x = pixels(size=(5, 7))
    np.testing.assert_allclose(BilinearUpsampling(factor, name="up")(x), tf.image.resize(x, (5 * factor, 7 * factor)), rtol=1e-5, atol=1e-3)


# Disks


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_a_checkpoint_gives_the_same_logits(name, tmp_path):
    replicas, model = open_replicas(global_batch_size=None, replicas=1, logical_cpus=0), small(name)
    write_checkpoint(tmp_path / "weights", {"model": named_arrays(replicas, model_variables(model))}, {"step": 1})
    expected = main_output(model(pixels()))
    other = small(name)  # whose layers Keras numbers on
    assert np.any(main_output(other(pixels())) != expected)
    assign(replicas, model_variables(other), read_checkpoint(tmp_path / "weights")[0]["model"], where="here")
    np.testing.assert_array_equal(main_output(other(pixels())), expected)


# fpn has efficient_unet's encoder and unet3_plus's layers.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "attention_unet" else [pytest.mark.slow]) for name in MODELS if name != "fpn"]
)
def test_a_saved_model_gives_the_same_logits(name, tmp_path):
    model = small(name)
    model.export(str(tmp_path / "exported"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))  # which must outlive its function
    np.testing.assert_allclose(main_output(loaded.serve(pixels())), main_output(model(pixels())), rtol=1e-4, atol=1e-3)


# Training


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_it_learns_eight_pictures_by_heart(name):
    y, x = np.mgrid[:64, :64]
    rng = np.random.default_rng(3)
    masks = np.stack([((y - c[0]) ** 2 + (x - c[1]) ** 2 < r**2) for c, r in zip(rng.integers(15, 49, (8, 2)), rng.integers(8, 14, 8), strict=True)])
    images = np.clip(90 + 70 * masks[..., None] * rng.uniform(0.6, 1, (8, 1, 1, 3)) + rng.normal(0, 25, (8, 64, 64, 3)), 0, 255)
    masks = masks[..., None].astype(np.uint8)

    settings = (
        {"base_filters": 16, "num_mlp": 64} if name == "swin_unet" else {"base_filters": 8, "normalization": "batch", "normalization_momentum": 0.9}
    )

    def build(*, size, num_classes, **options):
        keras.utils.set_random_seed(0)
        return small(name, image_size=(size, size), num_classes=num_classes, **settings)

    with precision_scope("float32"):
        made = rig(1, OptimizerSettings(name="Adam", learning_rate=3e-3), policy="float32", build=build, images=images, masks=masks)
        for number in range(400):
            made.run(number, rate=3e-3, weights=np.ones(8))
            if number % 25 == 24 and dice(made.model, images, masks) > 0.95:
                break
        assert dice(made.model, images, masks) > 0.95, number


def dice(model, images, masks) -> float:
    found = np.argmax(main_output(model(images.astype("float32"), training=False)), -1)
    return 2 * np.sum(found * masks[..., 0]) / (found.sum() + masks.sum())


def test_every_network_is_found_by_its_file():
    folder = Path(models.__file__).parent
    decorated = {path.stem for path in folder.glob("*.py") if "@architecture" in path.read_text().splitlines()}
    assert decorated == set(MODELS) == set(ARCHITECTURES)
    assert list(ARCHITECTURES) == ["flex_unet", *sorted(set(ARCHITECTURES) - {"flex_unet"})]
    assert all(hasattr(function, "shared_arguments") and function.__name__ == name for name, function in ARCHITECTURES.items())
