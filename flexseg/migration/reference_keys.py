"""Maps each key of the reference system's configuration to gin bindings of a command, or to the reason why it is dropped.

Usage:
    rule = KEYS["train.patience"]            # a function that binds it, or a text: the reason why it is dropped
    rule(reader, "train.patience", 10)       # reader.bindings["train"]["train.patience"] == 10
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flexseg.migration.reference_augmentor import AUGMENTOR
from flexseg.migration.reference_models import OTHER_SETTINGS, bind_model, bind_setting, reference_model
from flexseg.migration.reference_reader import Reader, Rule

_BATCH_LOSSES = ("dice_loss", "iou_loss", "jacard_loss", "bce_dice_loss", "bce_iou_loss", "basnet_hybrid_loss", "dice_loss_multiclass")


def _to(command: str, name: str, change: Callable[[Any], Any] = lambda value: value) -> Rule:
    return lambda reader, key, value: reader.bind(key, command, name, change(value))


def _size(reader: Reader, key: str, value: Any) -> None:
    height, width = reader.get("model.image_height", value), reader.get("model.image_width", value)
    reader.bind(key, "train", "input.image_size", (height, width))


def _loss(reader: Reader, key: str, value: Any) -> None:
    reader.bind(key, "train", "objective.loss", value)
    if value in _BATCH_LOSSES:  # the reference computes them over the flattened batch
        reader.bind(key, "train", "objective.reduction", "batch")


def _metrics(reader: Reader, key: str, value: Any) -> None:
    names = (value,) if isinstance(value, str) else tuple(value)
    renamed = {"accuracy": "categorical_accuracy" if reader.get("model.num_classes", 1) > 1 else "binary_accuracy"}
    reader.bind(key, "train", "train.metrics", tuple(renamed.get(name, name) for name in names))


def _generator(reader: Reader, key: str, value: Any) -> None:
    reader.bind(key, "train", "augment.enabled", bool(value) and bool(reader.get("generator.augmentation", True)))


def _steps(reader: Reader, key: str, value: Any) -> None:
    if reader.get("model.generator"):
        reader.bind(key, "train", "train.steps_per_epoch", value)
    else:
        reader.drop(key, "the reference reads it with its generator only; an epoch is one pass")


def _pictures(reader: Reader, key: str, value: Any) -> None:
    if not value:
        reader.bind(key, "train", "epoch_change_infer.num_infer_images", 0)
    else:
        reader.drop(key, "pictures of every epoch are made anyway")


def _number_of_pictures(reader: Reader, key: str, value: Any) -> None:
    if reader.get("train.epoch_change_infer", True):
        reader.bind(key, "train", "epoch_change_infer.num_infer_images", value)
    else:
        reader.drop(key, "no pictures were asked for")


def _picture_folder(reader: Reader, key: str, value: Any) -> None:
    if reader.get("train.epoch_change_infer", True):
        reader.bind(key, "train", "epoch_change_infer.images", value.rstrip("/"))
        masks = re.sub(r"images$", "masks", value.rstrip("/"))
        if masks != value.rstrip("/") and Path(masks).is_dir():
            reader.bind(key, "train", "epoch_change_infer.masks", masks)
    else:
        reader.drop(key, "name it to flexseg predict --images")


def _color_order(reader: Reader, key: str, value: Any) -> None:
    if "encoder_weights" in reference_model("model.model", reader.get("model.model")).fixed:
        reader.drop(key, "learnt encoders take RGB; theirs took what they were given")
    else:
        reader.bind(key, "train", "input.color_order", str(value).upper())


def _splitter(reader: Reader, key: str, value: Any) -> None:
    if value:
        reader.bind(key, "build", "split.proportions", (0.8, 0.2, 0))
    else:
        reader.drop(key, "flexseg build divides what has no splits of its own")


def _threshold(reader: Reader, key: str, value: Any) -> None:
    if reader.get("dataset.class_name") == "ImageMaskDataset":
        reader.bind(key, "build", "label_map.threshold", value)
    else:
        reader.drop(key, "the reference ignores it with this dataset class; grey masks are divided at 128")


_FROM_DATASET = "the dataset says it"
_ONE_DIRECTORY = "a run has one directory, --workdir"
_NEVER_DELETES = "flexseg never deletes an earlier run"
_LATER = "not there yet"
_COLORS = "predictions have the LabelMap's colours"

KEYS: dict[str, str | Rule] = {
    "model.model": bind_model,
    "model.generator": _generator,
    "model.image_width": _size,
    "model.image_height": _size,
    "model.image_channels": _FROM_DATASET,
    **{f"model.{name}": bind_setting for name in (
        "base_filters", "base_kernels", "num_layers", "dropout_rate", "dilation", "activation", "normalization", "input_normalize", *OTHER_SETTINGS)},
    "model.max_filter": "the bridge is twice as wide as the last of model.filters",
    "model.shift_window": "every other block shifts its windows",
    "model.pool": "levels are halved by max-pooling",
    **{f"model.{name}": "encoder_unet, fpn and deeplabv3_plus have learnt encoders, transunet its own" for name in (
        "backbone", "weights", "freeze_backbone", "freeze_batch_norm")},
    "model.num_classes": _to("train", "build_model.num_classes"),
    "model.final_activation": "it follows from build_model.num_classes",
    "model.dropout_seed_fixing": "dropout is a function of train.seed and the step",
    "model.evaluation": "flexseg evaluate does it",
    "model.optimizer": _to("train", "optimizer.name"),
    "model.learning_rate": _to("train", "optimizer.learning_rate", float),
    "model.clipvalue": _to("train", "optimizer.clipvalue", float),
    "model.loss": _loss,
    "model.metrics": _metrics,
    "model.show_summary": "summary.txt is written always",
    "dataset.class_name": "flexseg build reads all of them",
    "dataset.color_order": _color_order,
    "dataset.resize_interpolation": "images are resized antialiased, masks to the nearest pixel",
    "dataset.image_normalize": "the network divides by 255 where its input_normalize says so",
    "dataset.rgb_mask": "masks are class ids",
    "dataset.debug": "nothing to debug",
    "train.image_datapath": "its folder is --source of flexseg build",
    "train.mask_datapath": "its folder is --source of flexseg build",
    "train.epochs": _to("train", "train.epochs"),
    "train.batch_size": _to("train", "train.global_batch_size"),
    "train.steps_per_epoch": _steps,
    "train.validation_steps": "the whole validation split is validated",
    "train.patience": _to("train", "train.patience"),
    "train.metrics": "every metric is followed on both splits",
    "train.model_dir": _ONE_DIRECTORY,
    "train.eval_dir": _ONE_DIRECTORY,
    "train.save_weights_only": "checkpoints hold all that a resume needs, best/ the weights",
    "train.best_model_file": "best/ holds the best weights",
    "train.create_backup": _NEVER_DELETES,
    "train.learning_rate_reducer": _to("train", "plateau.learning_rate_reducer", bool),
    "train.reducer_factor": _to("train", "plateau.reducer_factor", float),
    "train.reducer_patience": _to("train", "plateau.reducer_patience"),
    "train.epoch_change_infer": _pictures,
    "train.epoch_change_infer_dir": _ONE_DIRECTORY,
    "train.epoch_change_tiledinfer": _LATER,
    "train.epoch_change_tiledinfer_dir": _LATER,
    "train.num_infer_images": _number_of_pictures,
    "train.seedreset_callback": "every random number is a function of train.seed and the step",
    "train.dataset_splitter": _splitter,
    "train.show_history": "TensorBoard shows it",
    "eval.image_datapath": "its folder is --source of flexseg build",
    "eval.mask_datapath": "its folder is --source of flexseg build",
    "eval.batch_size": _to("train", "eval.batch_size"),
    "test.image_datapath": "its folder is --source of flexseg build",
    "test.mask_datapath": "its folder is --source of flexseg build",
    "infer.images_dir": _picture_folder,
    "infer.output_dir": "name it to flexseg predict --output",
    **{f"infer.{name}": _LATER for name in ("merged_dir", "binarize", "blur", "ksize", "algorithm", "threshold")},
    **{f"infer.{name}": _COLORS for name in ("mask_colorize", "colorized_dir", "colorized_output_format", "color_order")},
    **{f"tiledinfer.{name}": _LATER for name in (
        "overlapping", "split_size", "images_dir", "output_dir", "merged_dir", "bitwise_blending", "binarize", "threshold", "background", "blur")},
    **{f"infer3d.{name}": _LATER for name in (
        "images_dir", "output_dir", "slice_normalize", "slice_resize", "slice_rotation", "slice_shape_order", "mask_overlay", "overlay_alpha",
        "overlay_beta", "overlay_gamma")},
    **{f"segmentation.{name}": _COLORS for name in ("colorize", "black", "white", "blursize")},
    "image.color_order": _color_order,
    "image.color_converter": "images stay in the colours of their files",
    "image.gamma": _to("train", "input.gamma", float),
    "image.sharpening": _to("train", "input.sharpening", float),
    "mask.mask_file_format": "flexseg build reads them all",
    "mask.rgb_map": _to("build", "label_map.rgb_map"),
    "mask.threshold": _threshold,
    "mask.mask_datatype": "masks are class ids",
    "mask.mask_colors": "label_map.rgb_map says it",
    "mask.grayscaling": "label_map.rgb_map says it",
    "mask.normalized_threshold": "grey masks are divided at 128",
    "mask.binarize": "label_map.off_map says it",
    "mask.algorithm": "grey masks are divided at a fixed value, not at one that every mask has for itself",
    "mask.blur": "a mask's classes have sharp borders",
    "mask.blur_size": "a mask's classes have sharp borders",
    "mask.sharpening": "a mask's classes have sharp borders",
    "generator.debug": "benchmarks/augmentation_sheet.py draws what augmentation does",
    "generator.augmentation": "augment.enabled, with model.generator",
    **AUGMENTOR,
    "inspect.model_graph": "summary.txt is written always",
    "inspect.summary": "summary.txt is written always",
    "debug.verbose": "--verbosity",
}  # fmt: skip
