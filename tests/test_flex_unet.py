"""FlexUNet: the reference's network weight for weight, its additions, and the contract that build_model holds every model to."""

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import fresh_global_state  # noqa: F401 (a fixture)

from flexseg.errors import UserError
from flexseg.models.abstract_build import abstract_build
from flexseg.models.build import build_model
from flexseg.models.flex_unet import flex_unet
from flexseg.models.layers.conv_style import ACTIVATIONS, ConvStyle
from flexseg.models.layers.convolutions import Conv2D, Conv2DTranspose, Dense, SeparableConv2D
from flexseg.models.layers.levels import level_dilations, level_kernels

# REFERENCE_SYSTEM.md sections 2 and 4: counts of the published networks (PanNuke's stands in its published summary.txt).
REFERENCE = {
    "tnbc": (dict(num_classes=2, base_kernels=(9, 9), num_layers=8, dropout_rate=0.04), 124_996_866),
    "malignant_breastdm": (dict(num_classes=1, base_kernels=(7, 7), num_layers=8, dropout_rate=0.05), 124_557_041),
    "tnbc_5_layers": (dict(num_classes=2, base_kernels=(9, 9), num_layers=5, dropout_rate=0.04), 2_497_538),
    "pannuke": (dict(num_classes=6, base_kernels=(9, 9), num_layers=8, dropout_rate=0.04, dilation=(3, 3)), 124_996_934),
    "breastdm": (dict(num_classes=3, base_kernels=(7, 7), num_layers=8, dropout_rate=0.05), 124_557_075),
}


def small(**settings):
    return flex_unet(**(dict(image_size=(16, 24), image_channels=3, num_classes=2, base_filters=8, num_layers=3, dropout_rate=0.1) | settings))


def pixels(batch=2, size=(16, 24), channels=3):
    return np.random.default_rng(0).integers(0, 256, (batch, *size, channels)).astype("float32")


@pytest.mark.parametrize("name", REFERENCE)
def test_the_parameter_counts_are_the_reference_s(name):
    settings, count = REFERENCE[name]
    with abstract_build():
        model = flex_unet(image_size=(512, 512), image_channels=3, base_filters=16, **settings)
    assert model.count_params() == count


def test_kernels_and_dilations_shrink_with_depth_as_listed_and_decoder_and_encoder_agree():
    model = small(image_size=(32, 32), num_layers=6, base_filters=2, base_kernels=(9, 9), dilation=3, dropout_rate=0.04)
    kernels, dilations = [9, 7, 5, 3, 3, 3], [3, 2, 1, 1, 1, 1]
    for level in range(6):
        for part in ("bridge",) if level == 5 else (f"encoder_{level}", f"decoder_{level}"):
            for letter in "ab":
                conv = model.get_layer(f"{part}_conv_{letter}")
                assert conv.kernel_size == (kernels[level],) * 2 and conv.dilation_rate == (dilations[level],) * 2
                assert conv.filters == 2 * 2**level and isinstance(conv.kernel_initializer, keras.initializers.HeNormal)
    assert [model.get_layer(f"decoder_{level}_up").kernel_initializer.__class__ for level in range(5)] == [keras.initializers.GlorotUniform] * 5
    assert level_kernels((7, 5), 4, owner="x") == [(7, 5), (5, 3), (3, 3), (3, 3)] and level_kernels(7, 3, owner="x") == [(7, 7), (5, 5), (3, 3)]
    assert level_dilations((3, 1), 3, owner="x") == [(3, 1), (2, 1), (1, 1)]


def test_dropout_grows_with_the_level_and_each_layer_owns_a_seed_state():
    model = small(image_size=(16, 16), num_layers=4, dropout_rate=0.1)
    rates = {layer.name: layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    expected = {"encoder_1": 0.1, "encoder_2": 0.2, "bridge": 0.3, "decoder_2": 0.2, "decoder_1": 0.1}
    assert rates == pytest.approx({f"{part}_dropout": rate for part, rate in expected.items()})
    seeds = [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
    assert len(seeds) == len(rates) and all(tuple(v.shape) == (2,) for v in seeds)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in small(dropout_rate=0.0).layers)


def test_the_decoder_joins_the_upsampled_map_before_the_skip_of_its_level():
    model = small()
    for level in range(2):
        upsampled, skip = model.get_layer(f"decoder_{level}_concat").input
        assert upsampled is model.get_layer(f"decoder_{level}_up").output and skip is model.get_layer(f"encoder_{level}_act_b").output


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_logits_are_full_precision_at_the_image_s_size_under_every_policy(policy, num_classes):
    keras.config.set_dtype_policy(policy)
    model = build_model(image_size=(16, 24), channels=1, classes=max(2, num_classes), num_classes=num_classes, architecture=small)
    full = "float64" if policy == "float64" else "float32"
    for raw in (pixels(channels=1), pixels(channels=1).astype("uint8")):
        logits = model(raw)
        assert logits.shape == (2, 16, 24, num_classes) and logits.dtype == full and np.isfinite(logits).all()
    assert model.get_layer("bridge_conv_a").compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_input_normalize_equals_pixels_divided_by_255(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    inside, outside = small(), small(input_normalize=False)
    outside.set_weights(inside.get_weights())
    raw = pixels().astype(policy)
    np.testing.assert_allclose(inside(raw), outside(raw / 255), rtol=tolerance, atol=tolerance)


def test_pixels_keep_full_precision_up_to_the_first_convolution():
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert small().get_layer("scale_pixels").compute_dtype == "float32"


def test_xla_gives_the_same_logits():
    model = small(base_kernels=5, dilation=2, normalization="batch")
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(pixels()), model(pixels(), training=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("position", ["after_activation", "before_activation"])
@pytest.mark.parametrize("normalization", ["none", "batch", "sync_batch", "group"])
def test_every_normalization_trains_and_the_gradient_reaches_every_weight(normalization, position, residual):
    model = small(
        num_layers=2, normalization=normalization, normalization_position=position, residual=residual, base_kernels=5, dilation=2, activation="mish"
    )
    mask = tf.cast(pixels()[..., 0] > 128, tf.int32)

    @tf.function
    def step(weights, state):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, state = model.stateless_call(weights, state, pixels(), training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(mask, logits))
        return loss, tape.gradient(loss, weights), state

    weights, state = ([tf.convert_to_tensor(v.value) for v in group] for group in (model.trainable_variables, model.non_trainable_variables))
    loss, gradients, new_state = step(weights, state)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.isfinite(gradient).all() and np.any(gradient), variable.path
    changed = [v.name for v, old, new in zip(model.non_trainable_variables, state, new_state, strict=True) if np.any(old != new)]
    assert sum(name.startswith("moving") for name in changed) == (2 * 6 if "batch" in normalization else 0)  # mean and variance of six convolutions
    new_loss, _, _ = step([w - 1e-3 * g for w, g in zip(weights, gradients, strict=True)], state)
    assert new_loss < loss


def test_normalization_stands_after_the_activation_as_in_the_reference_or_before_it_without_a_bias():
    after, before = small(normalization=True), small(normalization="batch", normalization_position="before_activation")
    assert after.get_layer("encoder_1_norm_a").input is after.get_layer("encoder_1_act_a").output
    assert after.get_layer("encoder_1_conv_a").use_bias
    assert before.get_layer("encoder_1_norm_a").input is before.get_layer("encoder_1_conv_a").output
    assert not before.get_layer("encoder_1_conv_a").use_bias
    assert not after.get_layer("encoder_1_norm_a").synchronized and small(normalization="sync_batch").get_layer("bridge_norm_b").synchronized
    assert [layer.name for layer in small(normalization=False).layers] == [layer.name for layer in small().layers]


def test_the_moving_statistics_keep_the_share_that_is_set():
    assert small(normalization="batch").get_layer("bridge_norm_a").momentum == 0.99
    assert small(normalization="sync_batch", normalization_momentum=0.9).get_layer("bridge_norm_a").momentum == 0.9


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_gradient_of_a_bias_does_not_stall_in_16_bits(dtype, xla):
    # TensorFlow 2.21's BiasAddGrad on a CPU answers 256 for bfloat16 here: a sum of ones that has grown to 256 rounds back to 256.
    policy = f"mixed_{dtype}"
    layers = [
        Conv2D(4, 1, dtype=policy),
        Conv2DTranspose(4, 2, strides=2, dtype=policy),
        SeparableConv2D(4, 3, padding="same", dtype=policy),
        Dense(4, dtype=policy),
    ]
    for layer in layers:
        model = keras.Sequential([keras.Input((64, 64, 2)), layer])

        @tf.function(jit_compile=xla)
        def gradient(kernels, bias, model=model):
            with tf.GradientTape() as tape:
                tape.watch(bias)
                y, _ = model.stateless_call([*kernels, bias], [], tf.zeros((2, 64, 64, 2)))
            return y, tape.gradient(y, bias)

        y, result = gradient([tf.convert_to_tensor(kernel.value) for kernel in layer.trainable_variables[:-1]], tf.zeros(4))
        assert y.dtype == dtype
        np.testing.assert_array_equal(result, [np.prod(y.shape[:3])] * 4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_convolutions_give_keras_s_own_result(policy):
    keras.config.set_dtype_policy(policy)
    for padding, size in (("same", (16, 24)), ("valid", (15, 23)), ("same", (15, 23))):  # 1 x 1 with strides: see convolutions.py
        settings = dict(filters=5, kernel_size=1, strides=(2, 3), padding=padding, bias_initializer="random_normal")
        one, other = Conv2D(**settings), keras.layers.Conv2D(**settings)
        one.build((None, *size, 3)), other.build((None, *size, 3))
        other.set_weights(one.get_weights())
        np.testing.assert_array_equal(tf.cast(one(pixels(size=size)), "float32"), tf.cast(other(pixels(size=size)), "float32"))
    dense = [kind(5, activation="relu", bias_initializer="random_normal") for kind in (Dense, keras.layers.Dense)]
    for layer in dense:
        layer.build((None, 16, 24, 3))
    dense[1].set_weights(dense[0].get_weights())
    np.testing.assert_array_equal(*(tf.cast(layer(pixels()), "float32") for layer in dense))
    for ours, theirs in (
        (Conv2D, keras.layers.Conv2D),
        (Conv2DTranspose, keras.layers.Conv2DTranspose),
        (SeparableConv2D, keras.layers.SeparableConv2D),
    ):
        settings = dict(filters=5, kernel_size=3, strides=2, padding="same", activation="relu", bias_initializer="random_normal")
        one, other = ours(**settings), theirs(**settings)
        one.build((None, 16, 24, 3)), other.build((None, 16, 24, 3))
        other.set_weights(one.get_weights())
        np.testing.assert_array_equal(tf.cast(one(pixels()), "float32"), tf.cast(other(pixels()), "float32"))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_gradients_in_16_bits_are_those_of_float32(policy):
    reference, image = small(dropout_rate=0.0), pixels(4)

    def gradients(model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(image) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    keras.config.set_dtype_policy(policy)
    rounded = small(dropout_rate=0.0)
    rounded.set_weights(reference.get_weights())
    for variable, g, exact in zip(reference.trainable_variables, gradients(rounded), gradients(reference), strict=True):
        assert np.linalg.norm(g - exact) < 0.05 * np.linalg.norm(exact), variable.path


def test_group_normalization_does_not_overflow_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    model = small(normalization="group", normalization_position="before_activation", input_normalize=False)
    assert np.isfinite(model(pixels() * 20, training=True)).all()


def test_a_residual_block_adds_its_projected_input_before_the_second_activation():
    model = small(residual=True)
    shortcut, add = model.get_layer("encoder_1_shortcut"), model.get_layer("encoder_1_add")
    assert shortcut.input is model.get_layer("encoder_0_pool").output and not shortcut.use_bias
    assert add.input[0] is model.get_layer("encoder_1_conv_b").output and add.input[1] is shortcut.output
    assert model.get_layer("encoder_1_act_b").input is add.output


def test_mish_is_x_times_tanh_of_softplus():
    x = np.linspace(-20, 20, 81)
    layer = small(activation="mish").get_layer("encoder_0_act_a")
    np.testing.assert_allclose(layer(x.astype("float32")), x * np.tanh(np.log1p(np.exp(x))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_listed_activation_acts_on_each_value_alone(name):
    x = np.random.default_rng(0).normal(size=(1, 4, 6)).astype("float32")
    activation = keras.activations.get(ConvStyle(owner="x", activation=name).activation)
    np.testing.assert_allclose(activation(tf.constant(x))[..., ::-1], activation(tf.constant(x[..., ::-1].copy())), rtol=1e-6)
    np.testing.assert_allclose(activation(tf.constant(x))[..., :1], activation(tf.constant(x[..., :1])), rtol=1e-6)


def test_a_size_that_the_depth_cannot_halve_is_refused_with_the_nearest_sizes_and_depth():
    with pytest.raises(UserError) as refusal:
        flex_unet(image_size=(500, 300), image_channels=3, num_classes=2, num_layers=6)
    assert refusal.value.where == "input.image_size"
    for part in ("multiples of 32", "flex_unet.num_layers = 6", "500 x 300", "(480, 288)", "(512, 320)", "flex_unet.num_layers=3"):
        assert part in str(refusal.value)
    with pytest.raises(UserError, match=r"\(64, 32\)") as refusal:
        flex_unet(image_size=(51, 7), image_channels=3, num_classes=2, num_layers=6)
    assert "num_layers=" not in str(refusal.value)  # odd sides fit no depth


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (dict(image_size=None), "input.image_size"),
        (dict(image_size=(16, None)), "input.image_size"),
        (dict(num_layers=1), "flex_unet.num_layers"),
        (dict(num_layers=3.0), "flex_unet.num_layers"),
        (dict(num_classes=0), "flex_unet.num_classes"),
        (dict(base_filters=True), "flex_unet.base_filters"),
        (dict(base_kernels=1), "flex_unet.base_kernels"),
        (dict(base_kernels=(3, 3, 3)), "flex_unet.base_kernels"),
        (dict(dilation=(0, 1)), "flex_unet.dilation"),
        (dict(dilation="2"), "flex_unet.dilation"),
        (dict(dropout_rate=0.5), "flex_unet.dropout_rate"),
        (dict(dropout_rate="0.1"), "flex_unet.dropout_rate"),
        (dict(normalization="layer"), "flex_unet.normalization"),
        (dict(normalization_position="after"), "flex_unet.normalization_position"),
        (dict(normalization="group", group_count=3), "flex_unet.group_count"),
        (dict(activation="softmax"), "flex_unet.activation"),
        (dict(normalization_momentum=1.0), "flex_unet.normalization_momentum"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(settings, where):
    with pytest.raises(UserError) as refusal:
        small(**settings)
    assert refusal.value.where == where


def test_a_misspelt_activation_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'relu'"):
        small(activation="relo")


# build_model


def test_gin_chooses_the_architecture_and_its_settings():
    gin.parse_config("build_model.architecture = @flex_unet\nflex_unet.num_layers = 2\nflex_unet.base_filters = 4")
    model = build_model(image_size=(6, 10), channels=3, classes=3)
    assert model.output.shape == (None, 6, 10, 3) and "encoder_1_conv_a" not in [layer.name for layer in model.layers]


def net(last, *, outputs=lambda x: x):
    """An architecture whose last layers are given."""

    def my_net(*, image_size, image_channels, num_classes):
        inputs = keras.Input((*image_size, image_channels))
        return keras.Model(inputs, outputs(last(inputs)))

    return my_net


def test_deep_supervision_returns_a_list_with_the_main_logits_first():
    conv = keras.layers.Conv2D(2, 1)
    architecture = net(conv, outputs=lambda x: [x, keras.layers.AveragePooling2D(2)(x)])
    model = build_model(image_size=(8, 8), channels=3, classes=2, architecture=architecture)
    assert [o.shape for o in model.output] == [(None, 8, 8, 2), (None, 4, 4, 2)]


def test_the_head_follows_the_dataset_and_a_contradicting_binding_is_refused():
    assert build_model(image_size=(32, 32), channels=1, classes=4).output.shape == (None, 32, 32, 4)
    assert build_model(image_size=(32, 32), channels=1, classes=2, num_classes=1).output.shape == (None, 32, 32, 1)
    with pytest.raises(UserError, match="build_model.num_classes: expected 2, or 1"):
        build_model(image_size=(32, 32), channels=1, classes=2, num_classes=3)
    with pytest.raises(UserError, match="build_model.num_classes: expected 3,"):
        build_model(image_size=(32, 32), channels=1, classes=3, num_classes=1)
    with pytest.raises(UserError, match="build_model.image_channels: expected 1,"):
        build_model(image_size=(32, 32), channels=1, classes=3, image_channels=3)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("flex_unet", "@flex_unet"),
        (lambda image_size: None, "image_channels"),
        (lambda **_: None, "functional API, found NoneType"),
        (lambda **_: Subclassed(), "functional API, found Subclassed"),
        (lambda **_: flex_unet(image_size=(16, 16), image_channels=3, num_classes=2, num_layers=2), r"one input of shape \(None, 8, 8, 3\)"),
        (net(keras.layers.Conv2D(3, 1)), r"@my_net: expected main logits of shape \(None, 8, 8, 2\), found \(None, 8, 8, 3\)"),
        (net(keras.layers.Conv2D(2, 1, strides=2)), "main logits of shape"),
        (net(keras.layers.Conv2D(2, 1, dtype="float16")), "float32 logits .*, found float16"),
        (net(keras.layers.Conv2D(2, 1), outputs=lambda x: {"main": x}), "found dict"),
        (net(keras.layers.Conv2D(2, 1), outputs=lambda x: [x, x[..., :1]]), r"every output of shape \[B, h, w, 2\]"),
        (net(keras.layers.Conv2D(2, 1, activation="softmax")), "logits: .* with softmax"),
        (net(keras.layers.Conv2D(2, 1), outputs=keras.layers.Activation("sigmoid")), "logits: .* with sigmoid"),
        (net(keras.layers.Conv2D(2, 1), outputs=keras.layers.Softmax()), "logits: .* with softmax"),
    ],
)
def test_an_architecture_that_breaks_the_contract_is_refused_by_name(architecture, message):
    with pytest.raises(UserError, match=message) as refusal:
        build_model(image_size=(8, 8), channels=3, classes=2, architecture=architecture)
    assert refusal.value.where.startswith("build_model.architecture")


@pytest.mark.slow
def test_the_published_network_runs_at_its_published_size():
    settings, _ = REFERENCE["tnbc"]
    model = build_model(image_size=(512, 512), channels=3, classes=2, architecture=lambda **k: flex_unet(**(k | settings)))
    assert np.isfinite(model(pixels(1, (512, 512)))).all()
