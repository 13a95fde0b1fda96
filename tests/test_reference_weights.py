"""Weights of the reference's best_model.h5: a FlexUNet written down from its description in plain Keras, saved in its layout, gives the same logits here."""

import gin
import h5py
import keras
import numpy as np
import pytest
import toy_runs
import toys
from model_zoo import fresh_global_state  # noqa: F401 (a fixture)
from test_models import pixels

from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.models.flex_unet import flex_unet
from flexseg.models.u2net import u2net
from flexseg.training.reference_weights import assign_reference

SETTINGS = {"base_filters": 4, "base_kernels": (5, 5), "num_layers": 3, "dilation": (2, 2), "dropout_rate": 0.05, "activation": "relu"}
SIZE = (32, 32)


def reference(*, num_classes=1, normalization=False) -> keras.Model:
    """REFERENCE_SYSTEM.md section 1.2, FlexUNet, with Keras's own layers and names."""
    layers, kernels, dilations = keras.layers, (5, 3, 3), (2, 1, 1)

    def block(x, level):
        for number in range(2):
            x = layers.Conv2D(4 * 2**level, kernels[level], dilation_rate=dilations[level], padding="same", activation="relu")(x)
            x = layers.BatchNormalization()(x) if normalization else x
            x = layers.Dropout(0.05 * level)(x) if number == 0 else x
        return x

    inputs = keras.Input((*SIZE, 3))
    x, skips = layers.Rescaling(1 / 255)(inputs), []
    for level in range(2):
        x = block(x, level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, 2)
    for level in (1, 0):
        x = layers.Conv2DTranspose(4 * 2**level, 2, strides=2, padding="same")(x)
        x = block(layers.concatenate([x, skips[level]]), level)
    return keras.Model(inputs, layers.Conv2D(num_classes, 1, activation="sigmoid" if num_classes == 1 else "softmax")(x))


def ours(*, num_classes=1, **settings) -> keras.Model:
    return flex_unet(image_size=SIZE, image_channels=3, num_classes=num_classes, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def replicas():
    return open_replicas(global_batch_size=None, replicas=1, logical_cpus=0)


@pytest.fixture
def checkpoint(tmp_path):
    """(path, model), whole as ModelCheckpoint writes it, or weights alone."""

    def write(*, alone=False, **settings):
        model, path = reference(**settings), tmp_path / "best_model.h5"
        for variable in model.variables:
            if "moving" in variable.path:
                variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
        model.compile("adam")
        model.save(path)
        if alone:
            with h5py.File(path) as whole, h5py.File(tmp_path / "alone.h5", "w") as file:
                for name in whole["model_weights"]:
                    whole.copy(whole["model_weights"][name], file, name)
                file.attrs["layer_names"] = whole["model_weights"].attrs["layer_names"]
            path = tmp_path / "alone.h5"
        return path, model

    return write


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("num_classes", "normalization"), [(1, False), (3, True)])
def test_the_logits_are_the_reference_s(num_classes, normalization, alone, checkpoint, replicas):
    path, model = checkpoint(num_classes=num_classes, normalization=normalization, alone=alone)
    found = ours(num_classes=num_classes, normalization=normalization)
    assert assign_reference(replicas, found, path) == []
    logits = found(pixels(size=SIZE))
    probabilities = keras.ops.sigmoid(logits) if num_classes == 1 else keras.ops.softmax(logits)
    np.testing.assert_allclose(probabilities, model(pixels(size=SIZE)), atol=1e-5)


def test_another_head_stays_new(checkpoint, replicas):
    path, _ = checkpoint(num_classes=1)
    model = ours(num_classes=2)
    before = model.get_layer("logits").get_weights()
    assert assign_reference(replicas, model, path) == ["logits/kernel", "logits/bias"]
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], before[0])


@pytest.mark.parametrize(("settings", "words"), [
    ({"normalization": "batch"}, "expected 66 arrays"), ({"base_kernels": 7}, "encoder_0_conv_a/kernel of shape"), ({"base_filters": 8}, "of shape"),
    ({"num_layers": 2}, "arrays"),
])  # fmt: skip
def test_other_settings_are_refused_with_the_way_to_find_them(settings, words, checkpoint, replicas):
    path, _ = checkpoint()
    with pytest.raises(UserError, match=words) as refusal:
        assign_reference(replicas, ours(**settings), path)
    assert "flexseg import_config" in refusal.value.cure


def test_another_architecture_is_refused(checkpoint, replicas):
    path, _ = checkpoint()
    with pytest.raises(UserError, match="the architecture flex_unet"):
        assign_reference(replicas, u2net(image_size=(32, 32), image_channels=3, num_classes=1, base_filters=4), path)


def no_hdf5(path):
    path.write_bytes(b"weights")


def no_weights(path):
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros(3)


def cut_off(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def no_group(path):
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.zeros(3)


def no_list(path):
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = 7


def no_numbers(path):
    with h5py.File(path, "a") as file:
        layer = file["model_weights"][file["model_weights"].attrs["layer_names"][2]]
        name = layer.attrs["weight_names"][0]
        words = np.full(layer[name].shape, b"word")
        del layer[name]
        layer[name] = words


def elsewhere(path):
    """A link that would make h5py open another file."""
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["secret"] = np.zeros((5, 5, 3, 4), "float32")
    with h5py.File(path, "a") as file:
        layer = file["model_weights"][file["model_weights"].attrs["layer_names"][2]]
        name = layer.attrs["weight_names"][0]
        del layer[name]
        layer[name] = h5py.ExternalLink("other.h5", "secret")


@pytest.mark.parametrize(("damage", "words"), [
    (no_hdf5, "in Keras's .h5 layout"), (no_weights, "no layer_names"), (cut_off, "in Keras's .h5 layout"), (elsewhere, "refers to elsewhere"),
    (no_group, "in Keras's .h5 layout"), (no_list, "in Keras's .h5 layout"), (no_numbers, "floating-point numbers"),
])  # fmt: skip
def test_a_file_that_is_none_is_refused(damage, words, checkpoint, replicas):
    path, _ = checkpoint()
    damage(path)
    with pytest.raises(UserError, match=words):
        assign_reference(replicas, ours(), path)
    with pytest.raises(UserError, match="no such file|No such file"):
        assign_reference(replicas, ours(), path.with_name("none.h5"))


def test_a_run_starts_from_it(checkpoint, tmp_path):
    path, model = checkpoint()
    toy = toys.build(
        tmp_path,
        source=toys.write_folder(tmp_path / "source", {f"{split}/{split}{n}": (32, 32) for split in ("train", "valid") for n in range(4)}),
        name="toy",
    )
    given = [f"flex_unet.{name}={value!r}" for name, value in SETTINGS.items()]
    said = toy_runs.train(
        toy, tmp_path / "run", *given, "optimizer.learning_rate=1e-9", "train.epochs=1", "build_model.num_classes=1", init_from=str(path)
    )
    gin.clear_config()
    assert f"weights from {path}\n" in said
    best = toy_runs.read_checkpoint(tmp_path / "run" / "best")[0]["model"]
    for found, expected in zip(best.values(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
