"""`flexseg import_config`: every key of the reference system's configurations, what it becomes, and that nothing in such a file is executed."""

import re
import subprocess
import sys
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from model_zoo import redundant_biases

import flexseg
from flexseg.config.configure import configure
from flexseg.derivation import deformations
from flexseg.errors import UserError
from flexseg.migration.reference_config import gin_text, import_config
from flexseg.migration.reference_keys import KEYS
from flexseg.migration.reference_reader import shown
from flexseg.models.abstract_build import abstract_build
from flexseg.models.build import build_model
from flexseg.training.experiment import read_experiment

ROOT = Path(__file__).parents[1]
TNBC = """
; the reference's published settings for TNBC
[model]
model = "TensorFlowFlexUNet"
generator = False
image_width = 512
image_height = 512
image_channels = 3
input_normalize = False
normalization = False
num_classes = 2
base_filters = 16
base_kernels = (9,9)
num_layers = 8
dropout_rate = 0.04
dilation = (1,1)
optimizer = "Adam"
learning_rate = 0.00007
clipvalue = 0.4
loss = "categorical_crossentropy"
metrics = ["dice_coef_multiclass"]
show_summary = False
[dataset]
class_name = "ImageCategorizedMaskDataset"
[train]
epochs = 100
batch_size = 2
patience = 10
metrics = ["dice_coef_multiclass","val_dice_coef_multiclass"]
model_dir = "./models/"
eval_dir = "./eval/"
image_datapath = "./dataset/TNBC/train/images/"
mask_datapath = "./dataset/TNBC/train/masks/"
create_backup = False
learning_rate_reducer = True
reducer_factor = 0.4
reducer_patience = 4
epoch_change_infer = True
epoch_change_infer_dir = "./epoch_change_infer"
num_infer_images = 6
save_weights_only = True
[eval]
image_datapath = "./dataset/TNBC/valid/images/"
mask_datapath = "./dataset/TNBC/valid/masks/"
[infer]
images_dir = "./mini_test/images/"
output_dir = "./mini_test_output/"
[image]
color_order = "RGB"
[mask]
mask_file_format = ".png"
rgb_map = {(0,0,0):0,(255,255,255):1,}
"""
MALIGNANT = """
[model]
model = "TensorflowUNet"
generator = False
image_width = 512
image_height = 512
image_channels = 3
input_normalize = False
normalization = False
num_classes = 1
base_filters = 16
base_kernels = (7,7)
num_layers = 8
dropout_rate = 0.05
dilation = (1,1)
learning_rate = 0.0001
clipvalue = 0.5
loss = "bce_dice_loss"
metrics = ["dice_coef"]
[dataset]
datasetclass = "BaseImageMaskDataset"
[train]
epochs = 100
batch_size = 2
steps_per_epoch = 320
validation_steps = 80
patience = 10
learning_rate_reducer = True
reducer_factor = 0.4
reducer_patience = 4
epoch_change_infer = True
epoch_change_tiledinfer = False
num_infer_images = 6
[tiledinfer]
overlapping = 64
[segmentation]
colorize = True
black = "black"
white = "green"
blursize = None
[image]
color_converter = None
gamma = 0
sharpening = 0
[mask]
blur = False
binarize = False
threshold = 60
[generator]
debug = False
augmentation = True
[augmentor]
vflip = True
hflip = True
rotation = True
angles = [30, 60, 90. 120, 150, 180, 210, 240, 270, 300, 330]
shrinks = [0.8]
shears = [0.1]
deformation = True
distortion = True
sharpening = False
brightening = False
barrdistortion = True
pincdistortion = True
[deformation]
alpah = 1300
sigmoids = [8.0,]
[distortion]
gaussian_filter_rsigma = 40
gaussian_filter_sigma = 0.5
distortions = [0.02,]
[barrdistortion]
radius = 0.3
amount = 0.3
centers = [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7)]
[pincdistortion]
radius = 0.3
amount = -0.3
centers = [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7)]
[sharpening]
k = 1.0
[brightening]
alpha = 1.2
beta = 10
"""
GENERATOR = MALIGNANT.replace("generator = False", "generator = True", 1).replace("brightening = False", "brightening = True")


@pytest.fixture
def read(tmp_path):
    def reading(text):
        path = tmp_path / "train_eval_infer.config"
        path.write_text(text)
        return import_config(path)

    return reading


def became(imported, key):
    return next(row.became for row in imported.rows if row.key == key)


@pytest.mark.parametrize(("text", "shipped"), [(TNBC, "tnbc_flexunet.gin"), (MALIGNANT, "malignant_breastdm_flexunet.gin")])
def test_the_published_settings_become_those_that_flexseg_ships(read, text, shipped):
    found = read(text).bindings["train"]
    lines = (ROOT / "configs" / shipped).read_text().splitlines()
    expected = dict(line.split("#")[0].split(" = ", 1) for line in lines if " = " in line and not line.startswith("#"))
    expected = {name: value.strip() for name, value in expected.items()}
    mine = {name: shown(value).replace("'", '"') for name, value in found.items()}
    differing = {name: (mine.get(name), expected.get(name)) for name in mine.keys() | expected.keys() if not same(mine.get(name), expected.get(name))}
    # defaults that the shipped files spell out; the folder of pictures; two classes, which a dataset says anyway
    defaults = {"flex_unet.activation", "optimizer.name", "eval.batch_size", "input.color_order"}
    assert differing.keys() <= defaults | {"epoch_change_infer.images", "build_model.num_classes"}, differing


def same(one, other):
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return one == other


@pytest.mark.parametrize("text", [TNBC, MALIGNANT, GENERATOR], ids=["tnbc", "malignant", "generator"])
def test_what_is_written_is_read_by_the_commands(read, tmp_path, text):
    modules = {"build": ("flexseg.files.label_map", "flexseg.files.split"), "derive": ("flexseg.derivation.variants",)}
    for command, bindings in read(text).bindings.items():
        path = tmp_path / f"{command}.gin"
        path.write_text(gin_text(bindings, comment="a comment\nof two lines"))
        if command == "train":
            experiment, _, _ = read_experiment([str(path)], [], user_modules=())
            assert experiment.train.epochs == 100 and experiment.train.patience == 10
            assert experiment.train.global_batch_size == 2 and experiment.plateau.reducer_patience == 4
        else:
            configure([str(path)], [], modules=modules[command], user_modules=())


def test_every_key_has_its_line(read):
    for text in (TNBC, MALIGNANT):
        imported = read(text)
        assert len(imported.rows) == sum(" = " in line for line in text.splitlines()) and all(row.became for row in imported.rows)


def test_slips_of_the_published_files_are_corrected_and_said(read):
    imported = read(MALIGNANT)
    assert "corrected: the list has a slip" in became(imported, "augmentor.angles")
    assert imported.bindings["derive"]["derive.rotations"] == (30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330)
    assert became(imported, "deformation.alpah") and imported.bindings["derive"]["derive.elastic_alpha"] == 100
    imported = read(TNBC.replace("reducer_patience = 4", "reduer_patience = 5"))
    assert imported.bindings["train"]["plateau.reducer_patience"] == 5 and "corrected" in became(imported, "train.reduer_patience")
    imported = read(TNBC.replace("num_infer_images = 6\n", "").replace("[model]\n", "[model]\nnum_infer_images = 3\n"))
    assert imported.bindings["train"]["epoch_change_infer.num_infer_images"] == 3 and "corrected" in became(imported, "model.num_infer_images")


def test_the_generator_becomes_augmentation_and_variants(read):
    bindings = read(GENERATOR).bindings
    train, derive = bindings["train"], bindings["derive"]
    assert train["augment.enabled"] is True and train["train.steps_per_epoch"] == 320
    for operation in (
        "horizontal_flip",
        "vertical_flip",
        "rotation",
        "scale",
        "shear",
        "elastic",
        "distortion",
        "barrel",
        "pincushion",
        "brightness",
    ):
        assert train[f"augment.{operation}_probability"] == 0.5, operation
    assert train["augment.sharpen_probability"] == 0.0 and train["augment.scale_factor"] == (0.8, 1.0)
    assert derive["derive.brightenings"] == ((1.2, 10.0),) and derive["derive.sharpenings"] == ()
    assert len(derive["derive.barrel_centers"]) == 5 and derive["derive.barrel_amount"] == 0.3
    assert train["augment.barrel_radius"] == train["augment.barrel_amount"] == (0.3, 0.3) and train["augment.barrel_center"] == (0.3, 0.7)
    assert train["augment.contrast_factor"] == (1.0, 1.2) and train["augment.brightness_levels"] == (0.0, 35.6)
    assert "augment.barrel_radius = (0.3, 0.3)" in became(read(GENERATOR), "augmentor.barrdistortion")
    assert "augment.sharpen_k" not in train, "what does not happen needs no range"
    assert became(read(GENERATOR), "pincdistortion.centers") == "read with augmentor.pincdistortion"
    assert not [name for name in read(MALIGNANT).bindings["train"] if name.startswith("augment.") and name != "augment.enabled"]


def test_barrel_and_pincushion_keep_their_own_settings(read):
    found = read(re.sub(r"(\[pincdistortion\]\nradius = )\S+\n(amount = )\S+", r"\g<1>0.4\n\g<2>-0.2", GENERATOR)).bindings
    assert [found["derive"][f"derive.{name}"] for name in ("barrel_radius", "barrel_amount", "pincushion_radius", "pincushion_amount")] == [
        0.3,
        0.3,
        0.4,
        0.2,
    ]
    assert found["train"]["augment.barrel_radius"] == (0.3, 0.4) and found["train"]["augment.barrel_amount"] == (0.2, 0.3)


@pytest.mark.parametrize("alpha", [600, 1300, 5000])
def test_the_elastic_deformation_of_the_training_is_about_as_strong_as_the_file_s(read, alpha):
    """Measured on both fields: the standard deviation, and how far away half of the correlation is gone."""
    found = read(re.sub(r"alpah = \d+", f"alpah = {alpha}", GENERATOR)).bindings
    (sigma,), strength = found["derive"]["derive.elastic_sigmas"], found["derive"]["derive.elastic_alpha"]
    rng = np.random.default_rng(0)
    noise = 2 * rng.random((2, 512, 512), dtype=np.float32) - 1
    y, x = deformations.elastic_map((512, 512), noise, alpha=strength, sigma=sigma)
    file = y - np.mgrid[:512, :512][0]
    (_, amplitude), spacing = found["train"]["augment.elastic_amplitude"], found["train"]["augment.elastic_spacing"]
    nodes = np.clip(rng.standard_normal((1, 512 // spacing + 3, 512 // spacing + 3, 1)), -2, 2) * amplitude
    training = tf.image.resize(nodes, [nodes.shape[1] * spacing, nodes.shape[2] * spacing], "bicubic").numpy()[
        0, spacing:-spacing, spacing:-spacing, 0
    ]

    def reach(field):
        field = field - field.mean()
        return next(d for d in range(1, 200) if (field[:-d] * field[d:]).mean() < field.var() / 2)

    assert 0.5 < training.std() / file.std() < 1.1, "interpolation between nodes is less than at them"
    assert spacing > round(3.3 * sigma) or 0.7 < reach(training) / reach(file) < 1.4


def test_grey_masks_of_one_class_are_divided_in_the_middle(read):
    assert read(MALIGNANT).bindings["build"] == {"label_map.rgb_map": {(0, 0, 0): 0, (255, 255, 255): 1}, "label_map.off_map": "threshold"}
    assert read(MALIGNANT.replace("BaseImageMaskDataset", "ImageMaskDataset")).bindings["build"]["label_map.threshold"] == 60


@pytest.mark.parametrize(
    "value", ["__import__('os').system('touch pwned')", "open('pwned', 'w')", "[x for x in ()]", "{}.__class__", "(1).__add__(2)"]
)
def test_nothing_is_executed(read, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="model.learning_rate"):
        read(TNBC.replace("learning_rate = 0.00007", f"learning_rate = {value}"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TNBC.replace("TensorFlowFlexUNet", "Tensorflow3DUNet"), "a model that flexseg has.*'Tensorflow3DUNet'"),
        (TNBC.replace('"TensorFlowFlexUNet"', '"TensorflowSharpUNet"\nfilters = [32, 64, 96]'), "widths that double.*32, 64, 96"),
        ("epochs = 100\n", "sections in brackets"), ("[other]\na = 1\n", r"the sections \[model\] and \[train\]"), ("", r"the sections \[model\]"),
        (TNBC.replace('model = "TensorFlowFlexUNet"\n', ""), "model.model: expected the name of a model, found none"), ("[model\n", "sections in brackets"),
    ],
)  # fmt: skip
def test_what_is_no_such_configuration_is_refused(read, text, words):
    with pytest.raises(UserError, match=words):
        read(text)


@pytest.mark.parametrize(("name", "keys", "count", "dropped"), [
    ("TensorflowFlexAttentionUNet", "", 131_499_746, ("base_kernels", "dilation", "activation")), ("TensorflowFlexMultiResUNet", "", 130_899_485, ("dropout_rate",)),
    ("TensorflowXceptionLikeUNet", "diation = (1,1)", 131_563_473, ("base_kernels",)), ("TensorflowFlexEfficientNetB7UNet", "", 56_725_112, ("num_layers",)),
    ("TensorflowFlexEfficientUNet", 'efficientnet = "B0"', 6_292_804, ("num_layers",)), ("TensorflowFlexDeepLabV3Plus", "", 11_852_610, ("num_layers",)),
    ("TensorflowFlexSharpUNet", "filters = [32,64,128,256]\nmax_filter = 512\nbase_ksize = (3,3)", None, ("num_layers",)),
    ("TensorflowFlexSwinUNet", "filter_num_begin = 64\ndepth = 4\nstack_num_down = 2\nstack_num_up = 2\npatch_size = (4,4)\nnum_heads = [4,8,8,8]\nwindow_size = [4,2,2,2]\nnum_mlp = 512",
     9_377_544, ("dropout_rate",)),
    ("TensorflowFlexTransUNet", "filter_num = [64,128,256,512]\nbatch_norm = False\nmlp_activation = 'GELU'\nembed_dim = 768\nnum_mlp = 3072\nnum_heads = 12\nnum_transformer = 12", None, ()),
    ("TensorflowFlexUNet3Plus", "", None, ("num_layers",)), ("TensorflowFlexU2Net", "", None, ("dilation",)), ("TensorflowBASNet", "", None, ("base_filters",)),
    ("TensorflowSlightlyFlexibleUNet", "", None, ()), ("TensorflowUNet", "", None, ()),
])  # fmt: skip
def test_every_model_of_the_reference_is_the_one_that_was_trained_there(read, name, keys, count, dropped):
    """Counts are those of test_models.py, with what they leave out of the reference's; a key that a model ignored there does not change it here."""
    text = TNBC.replace('"TensorFlowFlexUNet"', f'"{name}"').replace("base_kernels = (9,9)", "base_kernels = (9,9)\nactivation = 'relu'")
    text = text.replace("num_layers = 8", "num_layers = 6") if name == "TensorflowFlexU2Net" else text
    imported = read(text.replace("[dataset]", f"{keys}\n[dataset]"))
    assert all("does not look at it" in became(imported, f"model.{key}") for key in dropped)
    params = [f"{binding} = {shown(value)}" for binding, value in imported.bindings["train"].items()]
    configure([], params, modules=["flexseg.models.build", "flexseg.training.assembly"])
    settings = [params[place] for place in range(len(params)) if not params[place].startswith("build_model.num_classes")]
    one = name.endswith(("EfficientUNet", "B7UNet", "XceptionLikeUNet"))  # whose published counts are of one logit
    configure([], settings, modules=["flexseg.models.build", "flexseg.training.assembly"])
    with abstract_build():
        model = build_model(image_size=(512, 512), channels=3, classes=2, num_classes=1 if one else None)
    if count:
        left_out = {"multires_unet": 0, "deeplabv3_plus": 256, "swin_unet": 369_664}.get(model.name, redundant_biases(model))
        left_out += sum(layer.window**4 for layer in model.layers if hasattr(layer, "offset_bias")) + 7 * (model.name == "efficient_unet")
        assert model.count_params() + left_out == count
    gin.clear_config()


def test_a_learnt_encoder_takes_rgb(read):
    text = TNBC.replace('"TensorFlowFlexUNet"', '"TensorflowEfficientUNet"').replace("[train]", 'color_order = "BGR"\n[train]')
    imported = read(text)
    assert "input.color_order" not in imported.bindings["train"] and "learnt encoders take RGB" in became(imported, "dataset.color_order")


def test_an_unknown_key_is_said(read):
    assert "flexseg knows no such key" in became(read(TNBC + "speed = 3\n"), "mask.speed")


def test_the_command_writes_and_prints_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("old.config").write_text(MALIGNANT + TNBC[TNBC.index("[eval]") : TNBC.index("[image]")])
    written = flexseg.import_config("old.config", output="mine")
    assert written == ["mine.gin", "mine_build.gin", "mine_derive.gin"] and all(Path(path).is_file() for path in written)
    said = capsys.readouterr().out
    assert "flexseg build --name=mine --source=dataset/TNBC --data_dir=data --gin_file=mine_build.gin" in said
    assert "flexseg train --gin_file=mine.gin --dataset=mine" in said and "--images=./mini_test/images/" in said
    with pytest.raises(UserError, match="--overwrite"):
        flexseg.import_config("old.config", output="mine")
    flexseg.import_config("old.config", output="mine", overwrite=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["import_config"], "FILE.config: expected one configuration, found none"),
        (["import_config", "nowhere.config"], "nowhere.config: expected a train_eval_infer.config"),
        (["train", "--dataset=x", "--workdir=y", "--gin_file=old.config"], "flexseg import_config old.config"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, expected):
    done = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and expected in done.stderr and "Traceback" not in done.stderr


def test_the_documents_have_every_key_that_becomes_a_binding():
    table = (ROOT / "docs" / "reference_system.md").read_text().partition("## A configuration of the reference system")[2].partition("\n## ")[0]
    missing = [key for key, rule in KEYS.items() if callable(rule) and not re.search(rf"`[^`]*\b{re.escape(key.partition('.')[2])}\b[^`]*`", table)]
    assert not missing
