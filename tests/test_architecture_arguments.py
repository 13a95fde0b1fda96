"""The arguments of every network: as release 0.1 had them, documented and checked once; and the import paths of 0.1.

`@architecture` composes them: a changed name or default would change every run that is trained anew from an old `.gin` file.
"""

# ruff: noqa: B008 (settings are frozen)

import importlib
import inspect
from typing import Annotated, Literal

import gin
import keras
import pytest

from flexseg.errors import UserError
from flexseg.models.architectures import ARCHITECTURES
from flexseg.models.layers.architecture import Without, architecture, argument_sentences
from flexseg.models.layers.arguments import AtLeast, Count, OneOf, Share
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task

# name=default of every argument of release 0.1 beside image_size, image_channels and num_classes, by inspect.signature before @architecture was written.
GOLDEN = """
    flex_unet
      base_filters=16 | base_kernels=(3, 3) | num_layers=6 | dropout_rate=0.04 | dilation=(1, 1) | normalization='none'
      normalization_position='after_activation' | activation='relu' | residual=False | input_normalize=True | group_count=8
      normalization_momentum=0.99 | gradient_checkpointing=False
    attention_unet
      base_filters=16 | base_kernels=(3, 3) | num_layers=6 | dropout_rate=0.1 | dilation=(1, 1) | normalization='batch' | activation='relu'
      gate_channels='each' | input_normalize=True | group_count=8 | normalization_momentum=0.99
    basnet
      base_filters=16 | dropout_rate=0.0 | normalization='batch' | activation='relu' | deep_supervision=True | input_normalize=True
      group_count=8 | normalization_momentum=0.99
    deeplabv3_plus
      encoder='ResNet50' | encoder_maps='inner' | encoder_weights=None | encoder_normalization='batch' | encoder_trainable_layers=None
      encoder_dropout_rate=None | atrous=False | atrous_rates=(6, 12, 18) | base_filters=256 | skip_filters=48 | dropout_rate=0.0
      normalization='batch' | activation='relu' | group_count=8 | normalization_momentum=0.99
    efficient_unet
      efficientnet='B0' | decoder='residual' | encoder_weights=None | encoder_normalization='batch' | encoder_trainable_layers=None
      encoder_dropout_rate=None | base_filters=None | dropout_rate=0.0 | normalization='batch' | activation='relu' | group_count=8
      normalization_momentum=0.99
    encoder_unet
      encoder='ResNet50' | encoder_weights=None | encoder_normalization='batch' | encoder_trainable_layers=None | encoder_dropout_rate=None
      base_filters=16 | dropout_rate=0.0 | normalization='batch' | activation='relu' | group_count=8 | normalization_momentum=0.99
    fpn
      encoder='ResNet50' | encoder_weights=None | encoder_normalization='batch' | encoder_trainable_layers=None | encoder_dropout_rate=None
      pyramid_filters=256 | base_filters=128 | dropout_rate=0.0 | normalization='group' | activation='relu' | group_count=32
      normalization_momentum=0.99
    multires_unet
      base_filters=16 | base_kernels=(3, 3) | num_layers=6 | dropout_rate=0.0 | dilation=(1, 1) | normalization='batch' | activation='relu'
      input_normalize=True | normalization_momentum=0.99
    sharp_unet
      base_filters=32 | base_kernels=(3, 3) | num_layers=5 | dropout_rate=0.0 | dilation=(1, 1) | normalization='none' | activation='relu'
      input_normalize=True | group_count=8 | normalization_momentum=0.99
    swin_unet
      base_filters=128 | num_layers=4 | blocks_down=2 | blocks_up=2 | patch_size=4 | num_heads=(4, 8, 8, 8) | window_sizes=(4, 2, 2, 2)
      num_mlp=512 | dropout_rate=0.0 | activation='gelu' | input_normalize=True
    transunet
      base_filters=64 | base_kernels=(3, 3) | num_layers=4 | embed_dim=768 | num_heads=12 | num_transformer=12 | num_mlp=3072 | key_dim='share'
      mlp_activation='gelu' | dropout_rate=0.0 | dilation=(1, 1) | normalization='batch' | activation='relu' | input_normalize=True
      group_count=8 | normalization_momentum=0.99
    u2net
      base_filters=16 | num_layers=6 | dropout_rate=0.0 | normalization='batch' | activation='relu' | deep_supervision=True
      input_normalize=True | group_count=4 | normalization_momentum=0.99
    unet3_plus
      base_filters=16 | base_kernels=(3, 3) | num_layers=5 | dropout_rate=0.0 | dilation=(1, 1) | normalization='batch' | activation='relu'
      deep_supervision=True | classification_guided=False | input_normalize=True | group_count=8 | normalization_momentum=0.99
    xception_unet
      base_filters=16 | base_kernels=(3, 3) | num_layers=4 | dropout_rate=0.0 | dilation=(1, 1) | normalization='batch' | activation='relu'
      input_normalize=True | group_count=8 | normalization_momentum=0.99
"""


def golden() -> dict[str, dict[str, str]]:
    networks: dict[str, dict[str, str]] = {}
    for line in GOLDEN.strip().splitlines():
        if "=" not in line:
            arguments = networks.setdefault(line.strip(), {})
        else:
            arguments |= dict(item.split("=", 1) for item in line.strip().split(" | "))
    return networks


def test_the_networks_are_those_of_0_1():
    assert golden().keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_has_the_arguments_and_defaults_of_0_1(name):
    parameters = inspect.signature(gin.get_configurable(name)).parameters  # as configure reads them
    supplied = [argument for argument, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    assert supplied == ["image_size", "image_channels", "num_classes"]
    assert {argument: repr(parameter.default) for argument, parameter in parameters.items() if argument not in supplied} == golden()[name]
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_argument_has_a_plain_type_and_a_sentence(name):
    sentences = argument_sentences(ARCHITECTURES[name])
    parameters = inspect.signature(ARCHITECTURES[name]).parameters
    assert sentences.keys() == parameters.keys() and all(len(sentence) > 10 for sentence in sentences.values()), sentences
    for argument, parameter in parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty and "Annotated" not in repr(parameter.annotation), argument


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_s_docstring_describes_only_arguments_that_it_has(name):
    described = {
        line.partition(":")[0].strip() for line in inspect.getdoc(ARCHITECTURES[name]).partition("Args:\n")[2].splitlines() if line[2:3].strip()
    }
    described = {argument for words in described for argument in words.split(", ")}
    assert described <= inspect.signature(ARCHITECTURES[name]).parameters.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_shared_argument_names_the_class_that_documents_it(name):
    shared = ARCHITECTURES[name].shared_arguments
    assert shared["image_size"] is Task and shared.get("activation", ConvStyle) is ConvStyle
    assert shared.get("num_layers", Levels) is Levels and shared.get("encoder_weights", Encoder) is Encoder


# The decorator


@architecture
def net(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=4, num_layers=2),
    style: Annotated[ConvStyle, Without("group_count")] = ConvStyle(normalization="batch", momentum=0.9),
    normalization: Literal["none", "batch"] = "none",
    width: Annotated[int, AtLeast(2)] = 3,
    rates: tuple[Count, ...] = (1, 2),
    share: Annotated[float | None, Share()] = None,
    kind: Literal["a", "b"] = "a",
    other: Annotated[str, OneOf(("x", "y"))] = "x",
    factor: Literal[2, 4] = 2,
) -> keras.Model:
    """What it was called with."""
    return locals()


GIVEN = {"image_size": (8, 16), "image_channels": 3, "num_classes": 2}


def test_settings_become_arguments_with_the_defaults_of_their_object_and_come_back_as_one():
    parameters = inspect.signature(net).parameters
    assert parameters["num_layers"].default == 2 and parameters["normalization_momentum"].default == 0.9 and "group_count" not in parameters
    assert parameters["width"].annotation is int and parameters["rates"].annotation == tuple[int, ...]
    called = net(**GIVEN, num_layers=3, activation="mish")
    assert called["levels"] == Levels(owner="net", base_filters=4, num_layers=3) and called["task"] == Task(owner="net", **GIVEN)
    assert called["style"] == ConvStyle(owner="net", normalization="batch", momentum=0.9, activation="mish")


def test_an_argument_of_the_network_s_own_replaces_the_shared_one_and_is_the_network_s_to_check():
    assert net(**GIVEN, normalization="anything")["normalization"] == "anything"
    assert inspect.signature(net).parameters["normalization"].annotation == Literal["none", "batch"]


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("num_classes", 0, "a whole number of 1 or more"), ("num_layers", 1, "a whole number of 2 or more"), ("dilation", (0, 1), "a whole number of 1 or more, or a pair"),
    ("activation", "relo", "Keras activation"), ("normalization_momentum", 1.0, "a share from 0 to below 1"), ("width", 1, "a whole number of 2 or more"),
    ("rates", (1, 0), "a whole number of 1 or more"), ("share", 1.5, "a share from 0 to below 1"), ("kind", "c", "'a' or 'b'"), ("other", "z", "'x' or 'y'"),
])  # fmt: skip
def test_a_value_out_of_range_is_refused_under_the_network_s_name(name, value, expected):
    with pytest.raises(UserError, match=expected) as refusal:
        net(**GIVEN | {name: value})
    assert refusal.value.where == f"net.{name}"


def test_a_name_that_it_does_not_have_is_refused():
    with pytest.raises(TypeError, match="group_count"):
        net(**GIVEN, group_count=2)
    with pytest.raises(TypeError, match="num_classes"):
        net(image_size=(8, 8), image_channels=3)


def test_gin_binds_shared_arguments():
    bound = gin.external_configurable(net, "net_of_this_test")
    gin.parse_config("net_of_this_test.num_layers = 5\nnet_of_this_test.width = 7")
    called = bound(**GIVEN)
    assert called["levels"].num_layers == 5 and called["width"] == 7
    with pytest.raises(ValueError, match="doesn't have a parameter named 'group_count'"):
        gin.parse_config("net_of_this_test.group_count = 2")


# Import paths of 0.1


PATHS = {  # every public name of these modules at release 0.1
    "blocks": "ACTIVATIONS NORMALIZATIONS POSITIONS ConvStyle check_choice check_whole conv_block conv_unit level_dilations level_kernels",
    "frame": "check_head check_image_size check_rate full_precision image_input logits",
    "raising": "BilinearUp interpolation",
    "encoders": "ATROUS ENCODERS NORMALIZATIONS STRIDE Encoder headless network",
    "convolutions": "Conv2D Conv2DTranspose Dense SeparableConv2D add_bias",
}


@pytest.mark.parametrize("module", PATHS)
def test_the_import_paths_of_0_1_are_kept(module):
    kept = importlib.import_module(f"flexseg.models.{module}")
    assert set(PATHS[module].split()) == set(kept.__all__) and all(hasattr(kept, name) for name in kept.__all__)
