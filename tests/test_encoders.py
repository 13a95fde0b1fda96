"""Encoders of keras.applications: maps of every size, Keras's own features from Keras's own files, and what is trained of them."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy_runs
import toys
from keras.src.legacy.saving import legacy_h5_format  # the layout of the published files; Keras 3 writes it no more under a public name
from model_zoo import counted, fresh_global_state, small  # noqa: F401 (a fixture)
from test_models import pixels
from test_step import rig

from flexseg.errors import UserError
from flexseg.models import pretrained
from flexseg.models.abstract_build import abstract_build
from flexseg.models.layers.encoders import ENCODERS, Encoder
from flexseg.models.pretrained import encoder_of, learnt_weights
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope

FAMILIES = ("ResNet50", "EfficientNetB0", "EfficientNetV2B0", "EfficientNetV2S", "ConvNeXtTiny", "MobileNetV3Small", "DenseNet121", "Xception")
OWN_PIXELS = ("EfficientNet", "ConvNeXt", "MobileNetV3")  # whose network takes raw pixels
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], "float32"), np.array([0.229, 0.224, 0.225], "float32")  # of ImageNet, in RGB


def made(name: str, *, size=(96, 128), channels=3, weights="a file", **settings) -> tuple[keras.Model, dict]:
    """A model from raw pixels to all maps, and these by stride."""
    inputs = keras.Input((*size, channels))
    maps = Encoder(owner="net", name=name, weights=weights, **settings)(inputs, size)
    return keras.Model(inputs, list(maps.values())), maps


def application(name: str, size=(96, 128)) -> keras.Model:
    """Keras's network with its own pixel layers, where it has some, and statistics that are none of a fresh one."""
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(*size, 3))
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "moving_mean" in variable.path:
            variable.assign(random.normal(0, 0.1, variable.shape))
        elif "moving_variance" in variable.path:
            variable.assign(random.uniform(1, 3, variable.shape))
        elif "layer_scale" in variable.path:  # a millionth: the block would hardly count
            variable.assign(random.normal(0, 0.3, variable.shape))
    if name.startswith("EfficientNetB"):
        model.get_layer("normalization").set_weights([MEAN, DEVIATION**2, np.array(0)])  # what its published file and its last pixel layer come to
        model.get_layer("normalization").finalize_state()
    return model


def write_published(model: keras.Model, path) -> str:
    import h5py

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return str(path)


# What keras.applications counts with include_top=False, Keras 3.15.1.
PARAMETERS = {
    "ResNet50": 23_587_712, "ResNet101": 42_658_176, "EfficientNetB0": 4_049_571, "EfficientNetB1": 6_575_239, "EfficientNetB2": 7_768_569,
    "EfficientNetB3": 10_783_535, "EfficientNetB4": 17_673_823, "EfficientNetB5": 28_513_527, "EfficientNetB6": 40_960_143,
    "EfficientNetB7": 64_097_687, "EfficientNetV2B0": 5_919_312, "EfficientNetV2B1": 6_931_124, "EfficientNetV2B2": 8_769_374,
    "EfficientNetV2B3": 12_930_622, "EfficientNetV2S": 20_331_360, "EfficientNetV2M": 53_150_388, "EfficientNetV2L": 117_746_848,
    "ConvNeXtTiny": 27_820_128, "ConvNeXtSmall": 49_454_688, "ConvNeXtBase": 87_566_464, "ConvNeXtLarge": 196_230_336,
    "ConvNeXtXLarge": 348_147_968, "MobileNetV3Small": 939_120, "MobileNetV3Large": 2_996_352, "DenseNet121": 7_037_504,
    "DenseNet169": 12_642_880, "DenseNet201": 18_321_984, "Xception": 20_861_480,
}  # fmt: skip


def test_every_encoder_has_a_count():
    assert set(PARAMETERS) == set(ENCODERS)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAMILIES else [pytest.mark.slow]) for name in PARAMETERS])
def test_every_encoder_has_keras_s_weights_and_a_map_of_every_size(name):
    with abstract_build():
        model, maps = made(name)
    assert list(maps) == ([4, 8, 16, 32] if name.startswith("ConvNeXt") else [2, 4, 8, 16, 32])
    assert all(one.shape[1:3] == (96 // stride, 128 // stride) for stride, one in maps.items())
    assert model.count_params() == PARAMETERS[name] - (7 if name.startswith("EfficientNetB") else 0)  # mean, variance and count of their pixels


LAYOUTS = [("ResNet50", "published"), ("EfficientNetB0", "published"), ("MobileNetV3Small", "keras_3")]
LAYOUTS += [pytest.param(name, "published", marks=pytest.mark.slow) for name in FAMILIES if (name, "published") not in LAYOUTS]
LAYOUTS += [pytest.param("ConvNeXtTiny", "keras_3", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_file_of_keras_s_layout_gives_keras_s_features(name, layout, tmp_path):
    own = application(name)
    path = tmp_path / "own.weights.h5"
    if layout == "published":
        path = write_published(own, tmp_path / "own_notop.h5")
    else:
        own.save_weights(path)
    model, maps = made(name, weights=str(path))
    encoder = encoder_of(model)
    encoder.set_weights([*learnt_weights(encoder)])
    images = pixels(size=(96, 128))
    prepared = images if name.startswith(OWN_PIXELS) else own_preprocessing(name)(images.copy())
    if name == "Xception":  # Keras's leaves a border out of its first maps, which reaches everywhere further on
        first = keras.Model(own.input, own.get_layer("block1_conv2_act").output)(prepared)
        ours = keras.Model(encoder.input, encoder.get_layer("block1_conv2_act").output)(normalized(model, images))
        np.testing.assert_allclose(ours[:, :-3, :-3][:, 1:, 1:], first[:, :, :][:, : ours.shape[1] - 4, : ours.shape[2] - 4], rtol=1e-4, atol=1e-4)
        return
    expected, found = own(prepared), model(images)[-1]
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def own_preprocessing(name: str):
    module = {"ResNet50": "resnet50", "DenseNet121": "densenet", "Xception": "xception"}[name]
    return getattr(keras.applications, module).preprocess_input


def normalized(model: keras.Model, images):
    return keras.Model(model.input, model.get_layer("normalize_pixels").output)(images)


def test_one_channel_is_taken_three_times_and_four_are_refused():
    grey, _ = made("MobileNetV3Small", channels=1)
    colour, _ = made("MobileNetV3Small")
    colour.set_weights(grey.get_weights())
    images = pixels(size=(96, 128), channels=1)
    np.testing.assert_array_equal(grey(images)[-1], colour(np.repeat(images, 3, -1))[-1])
    with pytest.raises(UserError, match="1 or 3 channels"):
        made("MobileNetV3Small", channels=4)


def test_a_dilated_last_stage_has_the_same_weights_at_twice_the_size():
    plain, _ = made("ResNet50")
    dilated, maps = made("ResNet50", atrous=True)
    assert list(maps) == [2, 4, 8, 16] and maps[16].shape[1:] == (6, 8, 2048)
    assert [v.shape for v in dilated.variables] == [v.shape for v in plain.variables]


def test_making_a_model_never_asks_for_weights(monkeypatch):
    monkeypatch.setattr(pretrained, "network", None)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", None)
    model = small("encoder_unet", encoder_weights="imagenet")
    assert encoder_of(model).source.weights == "imagenet" and model(pixels()).shape == (2, 32, 64, 2)
    with pytest.raises(UserError):  # the two are what reading would need
        learnt_weights(encoder_of(model))


# What cannot be read


def wrong_file(tmp_path):
    return write_published(application("MobileNetV3Large"), tmp_path / "large.h5")


def wrong_file_of_keras_3(tmp_path):
    application("MobileNetV3Large").save_weights(tmp_path / "large.weights.h5")
    return str(tmp_path / "large.weights.h5")


def damaged(tmp_path):
    (tmp_path / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    return str(tmp_path / "damaged.h5")


def page(tmp_path):
    (tmp_path / "page.h5").write_text("<html>404</html>")
    return str(tmp_path / "page.h5")


@pytest.mark.parametrize(("write", "expected"), [
    (page, "fetch it again: this is no HDF5 file"), (lambda place: str(place / "none.h5"), "an existing .h5 file"), (wrong_file, "MobileNetV3Small"), (wrong_file_of_keras_3, "MobileNetV3Small"), (damaged, "MobileNetV3Small"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(write, expected, tmp_path, recwarn):
    model, _ = made("MobileNetV3Small", weights=write(tmp_path))
    with pytest.raises(UserError, match=expected) as refusal:
        learnt_weights(encoder_of(model))
    assert refusal.value.where == "net.encoder_weights" and not [one for one in recwarn if "Skipping" in str(one.message)]


def test_the_download_is_keras_s_and_its_failure_names_the_way_around(tmp_path, monkeypatch):
    """What get_file would have fetched lies here; its address and hash are Keras's own business."""
    own, asked = application("ResNet50"), []

    def fetched(name, address, **options):
        asked.append((address, options["file_hash"]))
        return write_published(own, tmp_path / "resnet50_notop.h5")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fetched)
    encoder = encoder_of(made("ResNet50", weights="imagenet")[0])
    for found, expected in zip(learnt_weights(encoder), own.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert asked[0][0].endswith("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5") and asked[0][1]

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", unreachable)
    with pytest.raises(UserError, match="no route to host") as refusal:
        learnt_weights(encoder)
    assert "net.encoder_weights='FILE'" in refusal.value.cure


# What is trained


def trained_numbers(model) -> int:
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def test_the_last_61_layers_of_the_reference_s_b7():
    model = counted("efficient_unet", num_classes=1, efficientnet="B7", decoder="transposed", encoder_weights="imagenet", encoder_trainable_layers=61)
    biases = 2 * sum(32 * 2**level for level in range(5))
    assert trained_numbers(model) + biases == 15_756_193, "15.76 million in REFERENCE_SYSTEM.md section 4"


@pytest.mark.parametrize(("name", "count", "words"), [
    ("encoder_unet", 157, "at most the 156 layers of MobileNetV3Small"), ("encoder_unet", 1, "0 for none, or 2 or more"),
])  # fmt: skip
def test_a_number_of_trained_layers_that_means_nothing_is_refused(name, count, words):
    with pytest.raises(UserError, match=words):
        small(name, encoder="MobileNetV3Small", encoder_weights="imagenet", encoder_trainable_layers=count)


def test_layers_that_are_cut_off_cannot_be_the_trained_ones():
    with pytest.raises(UserError, match="0 for none, or 38 or more") as refusal:
        small("deeplabv3_plus", encoder_weights="imagenet", encoder_trainable_layers=32)
    assert refusal.value.where == "deeplabv3_plus.encoder_trainable_layers"
    assert encoder_of(small("deeplabv3_plus", encoder_weights="imagenet", encoder_trainable_layers=38)).trainable_variables


@pytest.mark.parametrize("name", ["encoder_unet", "fpn", "deeplabv3_plus"])
def test_no_trained_layer_leaves_the_encoder_as_it_is(name):
    model = small(
        name,
        encoder="MobileNetV3Small",
        encoder_weights="imagenet",
        encoder_trainable_layers=0,
        **({"encoder_maps": "stage"} if name == "deeplabv3_plus" else {}),
    )
    encoder = encoder_of(model)
    assert not encoder.trainable_variables and model.trainable_variables
    before = encoder.get_weights()
    model(pixels(), training=True)
    for one, other in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_normalization_keeps_its_statistics_while_the_rest_is_trained():
    model = small("encoder_unet", encoder_weights="imagenet", encoder_normalization="frozen")
    encoder = encoder_of(model)
    assert encoder.trainable_variables and not any("_bn/" in v.path for v in encoder.trainable_variables)
    before = [v.numpy() for v in encoder.non_trainable_variables]
    assert before
    model(pixels(), training=True)
    for one, other in zip(before, encoder.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_encoder_waits_and_then_takes_its_share_of_the_rate(name):
    """A network's first update by SGD is linear in the rate, and so are Adam's and the decay's."""

    def build(*, size, num_classes):
        keras.utils.set_random_seed(0)
        inner = keras.Input((size, size, 3))
        encoder = keras.Model(inner, keras.layers.Conv2D(4, 3, padding="same")(inner))
        encoder.source = "here"
        inputs = keras.Input((size, size, 3))
        return keras.Model(inputs, keras.layers.Conv2D(num_classes, 1)(encoder(keras.layers.Rescaling(1 / 255)(inputs))))

    def moved(**settings):
        with precision_scope("float64"):
            made = rig(1, OptimizerSettings(name=name, learning_rate=0.1, **settings), build=build)
            own = {id(v) for v in encoder_of(made.model).trainable_variables}
            before, history = [v.numpy() for v in made.model.trainable_variables], []
            for number in range(2):
                made.run(number, rate=1e-3)
                history.append([v.numpy() - old for v, old in zip(made.model.trainable_variables, before, strict=True)])
            return history, [id(v) in own for v in made.model.trainable_variables]

    plain, _ = moved()
    slow, encoder = moved(encoder_rate_factor=0.25)
    waiting, _ = moved(encoder_frozen_steps=1)
    assert 0 < sum(encoder) < len(encoder)
    for own, full, less, later, at_last in zip(encoder, plain[0], slow[0], waiting[0], waiting[1], strict=True):
        np.testing.assert_allclose(less, full * (0.25 if own else 1), rtol=1e-9, atol=1e-15)
        assert np.any(at_last)
        assert not np.any(later) if own else np.array_equal(later, full)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    cases = {f"{split}/{split}{number}": (40, 50) for split in ("train", "valid", "test") for number in range(3)}
    return toys.build(place, source=toys.write_folder(place / "source", cases), name="toy")


ENCODED = ("build_model.architecture=@encoder_unet", "encoder_unet.encoder='MobileNetV3Small'", "encoder_unet.base_filters=2", "train.epochs=1")


@pytest.mark.slow
def test_a_run_starts_from_a_file_that_nothing_needs_afterwards(toy, tmp_path):
    path = tmp_path / "own_notop.h5"
    own = application("MobileNetV3Small", (32, 32))
    write_published(own, path)
    params = (*ENCODED, f"encoder_unet.encoder_weights='{path}'", "optimizer.learning_rate=1e-9", "encoder_unet.encoder_normalization='frozen'")
    params += ("input.fit='random_crop'", "input.eval_fit='pad'", "input.eval_image_size=(64,64)")
    said = toy_runs.train(toy, tmp_path / "run", *params, "optimizer.encoder_rate_factor=0.1")
    assert f"encoder MobileNetV3Small starts from {path}" in said
    best = {name.split(" ", 1)[1]: array for name, array in toy_runs.read_checkpoint(tmp_path / "run" / "best")[0]["model"].items()}
    for variable in own.variables:
        np.testing.assert_allclose(best[f"encoder/{variable.path}"], variable.numpy(), atol=1e-6)
    path.unlink()
    report, _ = toy_runs.evaluate(tmp_path / "run", split="test")
    assert report["cases"]
    assert "starts from" not in toy_runs.train(toy, tmp_path / "run", *params, "optimizer.encoder_rate_factor=0.1", "train.epochs=2")


def test_settings_of_an_encoder_want_one(toy):
    frozen = ("encoder_unet.encoder_trainable_layers=0", "encoder_unet.encoder_weights='imagenet'")
    for binding in ("optimizer.encoder_rate_factor=0.1", "optimizer.encoder_frozen_steps=5"):
        with pytest.raises(UserError, match="a model with an encoder"):
            toy_runs.train(toy, None, binding, dry_run=True)
        with pytest.raises(UserError, match="a model with an encoder"):
            toy_runs.train(toy, None, *ENCODED, *frozen, binding, dry_run=True)
    with pytest.raises(UserError, match="optimizer.encoder_rate_factor: expected a factor above 0"):
        toy_runs.train(toy, None, "optimizer.encoder_rate_factor=0", dry_run=True)
    with pytest.raises(UserError, match="an existing .h5 file"):
        toy_runs.train(toy, None, *ENCODED, "encoder_unet.encoder_weights='nowhere.h5'", dry_run=True)
    with pytest.raises(UserError, match="Did you mean 'imagenet'"):
        toy_runs.train(toy, None, *ENCODED, "encoder_unet.encoder_weights='imagenett'", dry_run=True)


def test_the_log_tells_the_encoder_s_rate_and_a_wait_for_ever_is_refused(toy, tmp_path):
    params = (*ENCODED, "train.steps_per_epoch=2", "train.epochs=2", "optimizer.encoder_rate_factor=0.1", "optimizer.learning_rate=0.01")
    said = toy_runs.train(toy, tmp_path / "run", *params, "optimizer.encoder_frozen_steps=2")
    assert "0.01; of the encoder 0.001 from step 3 on" in said
    rates = [line.partition("lr of the encoder ")[2].split()[0] for line in said.splitlines() if line.startswith("epoch ") and "lr of" in line]
    assert rates == ["0", "0.001"]
    with pytest.raises(UserError, match="encoder_frozen_steps: expected fewer than the 4 steps of the run, found 4.*encoder_unet.encoder_trainable"):
        toy_runs.train(toy, None, *params, "optimizer.encoder_frozen_steps=4", dry_run=True)


@pytest.mark.parametrize("normalization", ["sync_batch", "frozen"])
def test_a_network_that_normalizes_by_layer_has_no_batch_normalization_to_set(normalization):
    with pytest.raises(UserError, match="encoder_unet.encoder_normalization: expected 'batch' with ConvNeXtTiny"):
        Encoder(owner="encoder_unet", name="ConvNeXtTiny", weights="imagenet", normalization=normalization)


def test_learnt_weights_and_bgr_exclude_each_other(toy):
    with pytest.raises(UserError, match="input.color_order: expected 'RGB' with encoder_unet.encoder_weights"):
        toy_runs.train(toy, None, *ENCODED, "encoder_unet.encoder_weights='imagenet'", "input.color_order='BGR'", dry_run=True)


def test_one_image_a_replica_has_no_statistics_of_a_map_of_one_pixel(toy):
    """DeepLabV3+ normalizes the mean of the whole map: of one image that is one value a channel."""
    params = ("build_model.architecture=@deeplabv3_plus", "deeplabv3_plus.base_filters=4", "train.global_batch_size=2")
    params += ("deeplabv3_plus.encoder='MobileNetV3Small'", "deeplabv3_plus.encoder_maps='stage'", "input.image_size=(64,64)")
    with pytest.raises(UserError, match="two images a replica and micro-batch or more, since global_norm_a") as refusal:
        toy_runs.train(toy, None, *params, logical_cpus=2, dry_run=True)
    assert "deeplabv3_plus.normalization='group'" in refusal.value.cure
    with pytest.raises(UserError, match="two images a replica"):
        toy_runs.train(toy, None, *params, "train.accumulation_steps=2", dry_run=True)
    assert "second step" in toy_runs.train(toy, None, *params, dry_run=True)


def test_xla_takes_what_an_encoder_adds():
    for name in ("ConvNeXtTiny", "Xception"):
        model, _ = made(name, weights=None)
        compiled = tf.function(lambda x, model=model: model(x)[-1], jit_compile=True)(pixels(size=(96, 128)))
        np.testing.assert_allclose(compiled, model(pixels(size=(96, 128)))[-1], rtol=1e-2, atol=1e-3 * np.abs(compiled).max())
