"""Every architecture at a size that a test can afford: `small("u2net", image_size=(32, 64), num_classes=3)`; and where its published counts come from."""

import keras
import pytest

from flexseg.models.abstract_build import abstract_build
from flexseg.models.architectures import ARCHITECTURES

# Settings beside base_filters=4; all of them take multiples of 32.
SETTINGS = {
    "flex_unet": {"num_layers": 3},
    "attention_unet": {"num_layers": 3},
    "multires_unet": {"num_layers": 3},
    "sharp_unet": {"num_layers": 3},
    "unet3_plus": {"num_layers": 3},
    "u2net": {"base_filters": 8, "num_layers": 4},
    "basnet": {},
    "xception_unet": {"num_layers": 3},
    "swin_unet": {"base_filters": 8, "num_layers": 2, "patch_size": 2, "num_heads": (2, 4), "window_sizes": (4, 2), "num_mlp": 16},
    "transunet": {"num_layers": 3, "embed_dim": 8, "num_heads": 2, "num_transformer": 2, "num_mlp": 16},
    "deeplabv3_plus": {"skip_filters": 4},
    "efficient_unet": {},
    "encoder_unet": {"encoder": "MobileNetV3Small"},
    "fpn": {"encoder": "EfficientNetB0", "pyramid_filters": 8},
}
DEEP = ("unet3_plus", "u2net", "basnet")  # with deep supervision
GROUPS = tuple(name for name in SETTINGS if name not in ("multires_unet", "swin_unet"))  # that take group normalization


ENCODED = ("deeplabv3_plus", "efficient_unet", "encoder_unet", "fpn")  # on a network of keras.applications
DROPPING = ("efficient_unet", "fpn")  # whose encoder drops branches, if it is let


@pytest.fixture(autouse=True)
def fresh_global_state():
    """Imported by the tests of networks: seeds, names and the precision of one test are none of the next one's."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)


def unmixed(name: str, *, replicas: bool = False) -> dict:
    """Settings under which nothing is normalised by the values of one batch on one replica, or dropped."""
    if name == "swin_unet":
        return {}
    settings = {"normalization": "group" if replicas and name in GROUPS else "none"}
    if name in ENCODED:  # there is no network of keras.applications without normalization; building never reads the weights
        settings |= {"encoder_normalization": "sync_batch"} if replicas else {"encoder_normalization": "frozen", "encoder_weights": "imagenet"}
        settings |= {"encoder_dropout_rate": 0.0} if name in DROPPING else {}
    return settings


def builder(name: str):
    return ARCHITECTURES[name]


def small(name: str, *, image_size=(32, 64), image_channels=3, num_classes=2, **settings) -> keras.Model:
    own = {"base_filters": 4, "dropout_rate": 0.0} | SETTINGS[name] | ({"group_count": 2} if name in GROUPS else {})
    return builder(name)(image_size=image_size, image_channels=image_channels, num_classes=num_classes, **(own | settings))


def counted(name: str, *, image_size=(512, 512), image_channels=3, num_classes=2, **settings) -> keras.Model:
    """The network as shapes alone: gigabytes of weights are never drawn."""
    with abstract_build():
        return builder(name)(image_size=image_size, image_channels=image_channels, num_classes=num_classes, **settings)


def redundant_biases(model: keras.Model, *, without: str = " ") -> int:
    """How many biases convolutions that a normalization follows would have, by the ones that have none."""
    layers = [layer for layer in model.layers if hasattr(layer, "filters") and not layer.use_bias and not layer.name.startswith(without)]
    return sum(layer.filters for layer in layers)


def moving(model: keras.Model) -> int:
    return sum(v.shape[0] for v in model.non_trainable_variables if "moving" in v.path)
