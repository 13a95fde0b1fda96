"""Opening an experiment on this machine: what train, evaluate and predict have in common.

Usage:
    experiment, configuration = read_experiment(["default.gin"], [], user_modules=[])
    with open_run("runs/my_run", gin_param=[], checkpoint="best", replicas=0, logical_cpus=0) as opened:
        opened.assembly.predictor, opened.facts
"""

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexseg.commands.effects import idle_bindings, refuse_supplied
from flexseg.commands.quiet import load_tensorflow
from flexseg.configure import Configuration, configure
from flexseg.errors import UserError
from flexseg.machine import onednn_by_default
from flexseg.user_modules import Record, changes, is_missing

if TYPE_CHECKING:
    from flexseg.data.dataset import BuiltDataset
    from flexseg.training.assembly import Assembly, Experiment
    from flexseg.training.run_directory import RunDirectory

_MOST_BYTES = 2**20  # of an environment.json: a run writes a few thousand
BUILD_ONLY = ("label_map", "split", "synthetic_nuclei", "volumes", "breastdm", "malignant_breastdm")


def read_experiment(gin_file: Sequence[str], gin_param: Sequence[str], *, user_modules: Sequence[str]) -> tuple["Experiment", Configuration]:
    """Parses the configuration and makes all settings of an experiment; TensorFlow is loaded by then (see quiet.py).

    Raises:
      UserError: for anything wrong in it, bindings of `flexseg build` included.
    """
    configuration = configure(gin_file, gin_param, modules=("flexseg.training.assembly",), user_modules=user_modules)
    for key in configuration.bindings:
        if key.split(".")[0] in BUILD_ONLY:
            raise UserError(key, expected="bindings of training", found="one of `flexseg build`", cure="give it to `flexseg build`, not here")
    refuse_supplied(configuration)
    idle_bindings(configuration)
    from flexseg.training.assembly import Experiment

    return Experiment.from_gin(), configuration


def recorded_onednn(workdir: str | None) -> bool | None:
    """Whether a run was trained with oneDNN, read before TensorFlow is imported; None where there is no run that can be read.

    Whatever is wrong with the directory is said later, by what opens it.
    """
    from flexseg.files.bucket import Bucket, is_bucket

    if not workdir:
        return None
    try:
        name, text = "environment.json", b""
        if is_bucket(workdir):
            text = Bucket(workdir, flag="--workdir").read(name)
        elif (path := Path(workdir, name)).is_file() and path.stat().st_size <= _MOST_BYTES:
            text = path.read_bytes()
        environment = json.loads(text or "null")
    except (UserError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(environment, dict):
        return None
    recorded = environment.get("onednn", onednn_by_default())  # runs of 0.1.0 recorded nothing, and TensorFlow decided
    return recorded if isinstance(recorded, bool) else None


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A trained run, ready for inference.

    Attributes:
      run: its directory.
      experiment: its settings.
      facts: the dataset as the run remembers it: manifest and LabelMap, no records.
      assembly: model with the chosen weights.
      environment: `environment.json`.
      weights: facts of the weights: epoch, step.
      warnings: what is not as it was when it was trained.
    """

    run: "RunDirectory"
    experiment: "Experiment"
    facts: "BuiltDataset"
    assembly: "Assembly"
    environment: dict
    weights: dict
    warnings: list[str]


@contextlib.contextmanager
def open_run(workdir: str, *, gin_param: Sequence[str], checkpoint: str, replicas: int, logical_cpus: int) -> Iterator[OpenedRun]:
    """Opens a run for evaluation or prediction, with the precision it was trained with; what is written into it goes to its bucket at the end.

    Args:
      workdir: the run directory.
      gin_param: bindings over those of the run, e.g. `eval.batch_size=8`.
      checkpoint: `best` or `last`.
      replicas, logical_cpus: see `open_replicas`.

    Raises:
      UserError: when there is no such run or no such weights.
    """
    load_tensorflow(onednn=recorded_onednn(workdir))
    from flexseg.training.remote_run import run_directory

    with run_directory(workdir) as run:
        if run.remote:
            unread = (run.tensorboard, run.pictures, run.checkpoints if checkpoint == "best" else run.best)
            run.remote.fetch(leave=[path.name for path in unread])
        yield from _opened(run, gin_param, checkpoint=checkpoint, replicas=replicas, logical_cpus=logical_cpus)
        if run.remote:
            run.remote.push()


def _opened(run: "RunDirectory", gin_param: Sequence[str], *, checkpoint: str, replicas: int, logical_cpus: int) -> Iterator[OpenedRun]:
    from flexseg.console import say

    environment = run.read_environment()
    modules = environment["user_modules"]
    with _saying_where(modules):
        experiment, configuration = read_experiment([str(run.config)], gin_param, user_modules=list(modules))
    warnings = changes(modules)
    for sentence in warnings:
        say("warning: %s", sentence)

    from flexseg.data.dataset import BuiltDataset
    from flexseg.distribution.strategies import open_replicas
    from flexseg.inference.weights import assign, model_variables
    from flexseg.training.assembly import Assembly
    from flexseg.training.precision import precision_scope, resolve_precision

    devices = open_replicas(global_batch_size=None, replicas=replicas or 1, logical_cpus=logical_cpus)
    overridden = any(param.replace(" ", "").startswith("train.precision=") for param in gin_param)
    policy = resolve_precision(experiment.train.precision, on_gpu=devices.on_gpu) if overridden else environment["precision"]
    with precision_scope(policy):
        facts = BuiltDataset(run.path)
        assembly = Assembly(experiment, facts, devices, precision=policy, xla="auto" if experiment.train.xla == "on" else experiment.train.xla)
        folder, arrays, weights = _chosen_weights(run, checkpoint)
        assign(devices, model_variables(assembly.model), arrays["model"], where=folder)
        if "averages" in arrays:  # of a checkpoint; the best weights are averages already
            for weight, (_, average) in zip(assembly.model.trainable_variables, sorted(arrays["averages"].items()), strict=True):
                devices.write(weight, average)
        yield OpenedRun(run, experiment, facts, assembly, environment, weights, warnings)


@contextlib.contextmanager
def _saying_where(modules: Record) -> Iterator[None]:
    """If a run's user module cannot be found here, tells where it was. It is not taken from there: a run is data, and names no code to execute."""
    try:
        yield
    except UserError as error:
        module = error.where.removeprefix("--user_module=")
        if not modules.get(module) or not is_missing(error.__cause__, module):
            raise
        file = modules[module][-1]["file"]
        expected, found = f"the user module of this run, {file} then", "none of that name in the current directory or in PYTHONPATH"
        cure = f"PYTHONPATH={shlex.quote(_import_folder(module, file))} flexseg …, or type the command in that folder"
        raise UserError(f"module {module}", expected=expected, found=found, cure=cure) from error


def _import_folder(module: str, file: str) -> str:
    """The folder from which `module` is found as `file`."""
    path = Path(file)
    return str(path.parents[module.count(".") + (path.name == "__init__.py")])


def _chosen_weights(run: "RunDirectory", checkpoint: str) -> tuple[Path, dict, dict]:
    """(where they lie, arrays, facts); the run may be training at this moment."""
    from flexseg.console import say
    from flexseg.inference.weights import damage, read_folder, read_whole, whole_folder

    if checkpoint == "best":
        try:
            return read_whole(run.best)
        except UserError:
            if whole_folder(run.best).is_dir():
                raise
        cure = "--checkpoint=last takes the last checkpoint"
        raise UserError(run.best, expected="the best weights", found="none yet: no epoch has ended", cure=cure)
    for folder in sorted(run.checkpoints.glob("step_*"), reverse=True):
        if not (wrong := damage(folder)):
            return folder, *read_folder(folder)
        say("%s is damaged (%s): the checkpoint before it is taken", folder, wrong)
    raise UserError(f"--workdir={run.path}", expected="a whole checkpoint", found="none")


def dataset_of(opened: OpenedRun, data_dir: str | None) -> "BuiltDataset":
    """The dataset that a run was trained on, where it was then or below `data_dir`.

    Raises:
      UserError: when it is not there, or was built again since.
    """
    from flexseg.data.dataset import BuiltDataset, open_dataset

    if data_dir is not None:
        dataset = open_dataset(opened.environment["dataset"], data_dir)
    else:
        directory = Path(opened.environment["dataset_directory"])
        if not (directory / "manifest.json").is_file():
            raise UserError(
                directory, expected="the dataset that the run was trained on", found="nothing there", cure="say where it is: --data_dir=DIR"
            )
        dataset = BuiltDataset(directory)
    if json.loads(opened.run.manifest.read_text()) != json.loads((dataset.directory / "manifest.json").read_text()):
        raise UserError(dataset.directory, expected="the dataset that the run was trained on", found="one that was built again since")
    return dataset
