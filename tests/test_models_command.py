"""`flexseg models`: costs agree with published figures and with TensorFlow's own counter; the documents' network of one's own; the drawing."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gin
import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
import toy_runs
import toys
from model_zoo import SETTINGS, small
from PIL import Image
from toys import slow_unless

from flexseg.commands import models as command
from flexseg.errors import UserError
from flexseg.models import network_plot
from flexseg.models.abstract_build import abstract_build
from flexseg.models.cost import cost_of
from flexseg.models.flex_unet import flex_unet
from flexseg.models.layers.encoders import ENCODERS
from flexseg.models.layers.upsampling import BilinearUpsampling
from flexseg.models.network_plot import plot_network
from flexseg.training.precision import precision_scope

OWN_NETWORK = (Path(__file__).parents[1] / "docs" / "training" / "own_network.md").read_text()


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


# Costs


def test_the_published_flex_unet_costs_what_the_reference_s_does():
    with abstract_build():
        model = flex_unet(
            image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, base_kernels=(9, 9), num_layers=8, dropout_rate=0.04
        )
    cost = cost_of(model)
    assert cost.parameters == 124_996_866 and round(cost.macs / 1e9, 1) == 57.8, "REFERENCE_SYSTEM.md section 4"


QUICK = ("flex_unet", "attention_unet", "multires_unet", "sharp_unet", "unet3_plus", "xception_unet")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SETTINGS if name not in ("swin_unet", "transunet")
])  # fmt: skip
def test_convolutions_are_counted_as_tensorflow_s_profiler_counts_them(name):
    """Its counter knows no einsum, and calls a multiplication and an addition two operations."""
    model = small(name)
    forward = tf.function(lambda x: model(x, training=True))
    graph = forward.get_concrete_function(tf.TensorSpec((1, *model.input.shape[1:]), model.input.dtype)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    with graph.as_default():
        found = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    kinds = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MatMul")

    def counted(node):
        return (node.float_ops if node.name in kinds else 0) + sum(map(counted, node.children))

    assert cost_of(model).macs == counted(found) // 2 > 0


def test_attention_is_counted_by_its_formula():
    tokens, width, heads = 12, 8, 2
    inputs = keras.Input((3, 4, width))
    x = keras.layers.Reshape((tokens, width))(inputs)
    x = keras.layers.MultiHeadAttention(heads, width // heads)(x, x)
    cost = cost_of(keras.Model(inputs, keras.layers.Reshape((3, 4, width))(x)))
    assert cost.macs == 4 * tokens * width * width + 2 * tokens * tokens * width  # four projections; scores and their sums


def test_convolutions_in_groups_are_counted_though_keras_compiles_them_by_themselves():
    inputs = keras.Input((8, 10, 6))
    x = keras.layers.Conv2D(12, 3, padding="same", groups=3)(inputs)
    assert cost_of(keras.Model(inputs, x)).macs == 8 * 10 * 12 * 9 * 2


def test_upsampling_is_not_counted_however_it_is_computed():
    inputs = keras.Input((8, 10, 6))
    cost = cost_of(keras.Model(inputs, BilinearUpsampling(2, name="up")(keras.layers.Conv2D(6, 1)(inputs))))
    assert cost.macs == 8 * 10 * 6 * 6 and cost.activation_bytes >= 4 * 16 * 20 * 6


def test_activations_take_half_the_memory_in_16_bits_and_grow_with_the_area():
    def bytes_of(policy, size):
        with precision_scope(policy), abstract_build():
            return cost_of(small("attention_unet", image_size=size)).activation_bytes

    wide = bytes_of("float32", (64, 64))
    assert wide == pytest.approx(2 * bytes_of("float32", (32, 64)), rel=0.01)
    assert 0.45 < bytes_of("mixed_bfloat16", (64, 64)) / wide < 0.65


def test_an_abstract_build_draws_no_weights_not_even_in_a_later_scope():
    with abstract_build():
        counted = small("encoder_unet")
    model = small("encoder_unet")
    model.stateless_call(model.trainable_variables, model.non_trainable_variables, np.zeros((1, *model.input.shape[1:])))
    assert all(v._value is None for v in counted.trainable_variables) and all(v._value is not None for v in model.trainable_variables)


# The command


def table(capsys, **flags) -> list[str]:
    command.run(**flags)
    return capsys.readouterr().out.splitlines()


def test_one_network_is_built_trained_and_told(capsys):
    lines = table(capsys, gin_file=["models/xception_unet_small.gin"], image_size=["64", "128"], precision="float32", batch_size=2)
    assert lines[0].split() == ["network", "parameters", "GMAC", "activations", "images/s", "memory"]
    cells = lines[1].split()
    assert cells[:2] == ["xception_unet_small", "518,194"] and float(cells[5]) > 0.5 and float(cells[6]) > 0.1
    assert lines[-1] == "64 × 128 × 3, 2 classes, batches of 2, float32"


def test_json_has_every_number(capsys):
    (line,) = table(
        capsys, gin_file=["models/u2net_small.gin"], gin_param=["u2net.base_filters=8"], precision="mixed_bfloat16", measure=False, json=True
    )
    row = json.loads(line)
    assert row["network"] == "u2net" and row["precision"] == "mixed_bfloat16" and row["image_size"] == [256, 256]
    assert row["parameters"] > 0 and row["macs"] > 0 and row["activation_bytes"] > 0 and "images_per_second" not in row


@pytest.mark.slow
def test_all_small_networks_are_listed(monkeypatch):
    # test_a_network_that_fails_is_a_line takes the real one
    monkeypatch.setattr(
        command.subprocess, "run", lambda words, **_: processes.start("flexseg.commands.dispatcher:run", words[words.index("models") :]).wait(300)
    )
    rows = command.run(image_size=[64], measure=False, precision="float32")
    assert len(rows) == 14 and all(row["parameters"] <= 10_000_000 for row in rows if "failure" not in row)
    assert [row["network"] for row in rows if "failure" in row] == [], "every small network takes 64 x 64"


def test_a_network_that_fails_is_a_line(capsys, monkeypatch):
    monkeypatch.setattr(command, "_configs", lambda published: ["models/fpn_small.gin", "models/xception_unet_small.gin"])
    failed, listed = command.run(image_size=[48], measure=False, precision="float32")
    assert failed["network"] == "fpn_small" and "failure" in failed and "failure" not in listed
    assert "multiples of 32" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "expected"), [
    ({"image_size": ["wide"]}, "one or two numbers"), ({"image_size": [1, 2, 3]}, "one or two numbers"), ({"plot": "all.png"}, "the network by --gin_file"),
    ({"published": True, "gin_file": ["models/fpn_small.gin"]}, "no --gin_file"),
    ({"gin_param": ["input.image_size = (96, 96)"]}, "--image_size=256,512"),
    ({"gin_param": ["u2net.base_filters=8"]}, "architecture = @u2net beside it, found flex_unet, which"),
    ({"gin_param": ["build_model.num_classes=3"]}, "build_model.num_classes: expected 2, or 1, as --num_classes says, found 3"),
    ({"gin_param": ["train.epochs=3"]}, "train.epochs: expected bindings of the network, found 3"),
    ({"gin_param": ["flex_unet.num_classes=3"]}, "flex_unet.num_classes: expected no such binding, .*--num_classes=…"),
    ({"gin_file": ["models/fpn_small.gin"], "image_size": [48]}, "^--image_size: expected .* multiples of 32 .* fix it: --image_size=32,32 or --image_size=64,64"),
    ({"plot": "net.txt", "gin_file": ["models/fpn_small.gin"]}, "a .png or .svg file"), ({"gin_file": ["models/no_net.gin"]}, "no such file"),
])  # fmt: skip
def test_mistakes(flags, expected):
    with pytest.raises(UserError, match=expected):
        command.run(measure=False, **flags)


# The drawing


@pytest.mark.parametrize("name", [slow_unless(name in QUICK, name) for name in SETTINGS])
def test_every_network_is_drawn_with_its_parts(name, tmp_path):
    model = small(name)
    plot_network(model, tmp_path / "net.png")
    with Image.open(tmp_path / "net.png") as image:
        assert image.width < 4000 and image.height < 1500
        assert np.asarray(image.convert("L")).std() > 5
    plot_network(model, tmp_path / "net.svg")
    text = (tmp_path / "net.svg").read_text()
    assert f"{model.count_params():,} parameters" in text and ("bridge" in text or "encoder" in text or "down" in text)
    arrows = [text.rfind(f"stroke: {colour}") for colour in ("#333333", "#8c8c8c")]  # to the next part, and further
    assert 0 < max(arrows) < text.index("<!-- image -->")  # what is painted later lies above


@pytest.mark.parametrize("name", SETTINGS)
def test_the_parts_of_a_drawing_follow_on_what_they_come_from_and_outputs_are_marked(name):
    with abstract_build():
        model = small(name)
    parts, flows = network_plot._parts(model)
    index = {part: number for number, part in enumerate(parts)}
    assert all(index[source] < index[target] for source, target in flows)
    assert {target for _, target in flows} == set(parts) - {"image"}
    assert sum(part["parameters"] for part in parts.values()) == model.count_params()
    assert 1 <= sum(part["output"] for part in parts.values()) <= len(model.outputs)
    encoders = [source for part in parts.values() for source in part["source"]]
    assert len(encoders) == (name in ("deeplabv3_plus", "efficient_unet", "encoder_unet", "fpn")) and set(encoders) <= set(ENCODERS)


def test_a_part_that_would_flow_back_into_itself_goes_on_under_another_name():
    inputs = keras.Input((8, 8, 3))
    upsampled = keras.layers.UpSampling2D(2, name="x_up")(inputs)
    between = keras.layers.Conv2D(3, 3, padding="same", name="y_conv")(upsampled)
    model = keras.Model(inputs, keras.layers.Add(name="x_add")([between, upsampled]))
    parts, flows = network_plot._parts(model)
    assert list(parts)[1:] == ["x", "y", "x_add"] and ("y", "x_add") in flows and ("x", "x_add") in flows and parts["x_add"]["output"]


def test_a_squeeze_and_excitation_block_that_ends_under_its_own_name_is_drawn(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="block1_conv")(inputs)
    y = keras.layers.Conv2D(4, 1, activation="sigmoid", name="se1_gate")(x)
    model = keras.Model(inputs, keras.layers.Multiply(name="block1")([x, y]))
    assert list(network_plot._parts(model)[0])[1:] == ["block1", "se1", "block1_2"]
    plot_network(model, tmp_path / "net.png")


# The documents' network of one's own


def test_the_network_of_the_documents_is_listed_drawn_trained_and_evaluated(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", OWN_NETWORK, re.DOTALL)[1]
    assert len(code.splitlines()) <= 30
    (tmp_path / "my_models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    listed = re.search(r"^flexseg (models .*)$", OWN_NETWORK, re.MULTILINE)[1]
    words = [*shlex.split(listed), "--nomeasure", "--image_size=64"]
    done = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], capture_output=True, text=True)
    assert done.returncode == 0 and "my_net" in done.stdout, done.stderr
    assert (tmp_path / "my_net.png").is_file()
    cases = {f"{split}/{split}{number}": (32, 32) for split in ("train", "valid", "test") for number in range(4)}
    toy = toys.build(tmp_path, source=toys.write_folder(tmp_path / "source", cases), name="toy")
    given = ("build_model.architecture=@my_net", "my_net.base_filters=8", "my_net.num_layers=2", "train.epochs=1")
    toy_runs.train(toy, tmp_path / "run", *given, user_module=["my_models"])
    report, _ = toy_runs.evaluate(tmp_path / "run", split="test", user_module=["my_models"])
    assert report["cases"] and report["provenance"]["warnings"] == []

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["evaluate", f"--workdir={tmp_path / 'run'}", "--split=test"]
    lost = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], cwd=elsewhere, capture_output=True, text=True)
    assert lost.returncode == 1 and len(lost.stderr.splitlines()) == 1, lost.stderr
    assert f"then {tmp_path / 'my_models.py'}" in lost.stderr and "add --user_module=my_models" in lost.stderr
    words.append("--user_module=my_models")
    lost = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], cwd=elsewhere, capture_output=True, text=True)
    assert lost.returncode == 1 and "found no module named 'my_models'" in lost.stderr and len(lost.stderr.splitlines()) == 1, lost.stderr

    (tmp_path / "my_models.py").write_text(code + "# edited\n")
    report, said = toy_runs.evaluate(tmp_path / "run", split="test", user_module=["my_models"])
    assert "warning:" in said and f"{tmp_path / 'my_models.py'}: the run was trained, in whole or in part, with another text" in said
    assert len(report["provenance"]["warnings"]) == 1
    said = toy_runs.train(toy, tmp_path / "run", *given[:-1], "train.epochs=2", user_module=["my_models"])
    assert "warning:" in said and "resumed after epoch 1" in said
    report, said = toy_runs.evaluate(tmp_path / "run", split="test", user_module=["my_models"])
    assert len(report["provenance"]["warnings"]) == 1, "its first epoch was trained with the other text"
