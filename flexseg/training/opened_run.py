"""A trained run as a model with its weights, a predictor and its dataset: what evaluate, predict and export start from.

with open_run("runs/my_run", gin_param=[], checkpoint="best", replicas=0, logical_cpus=0) as opened:
    opened.assembly.predictor, opened.facts
    dataset_of(opened, data_dir=None)
"""

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexseg.console import say
from flexseg.data.dataset import BuiltDataset, open_dataset
from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.runs.chosen_weights import load_weights
from flexseg.runs.directory import RunDirectory, open_run_directory
from flexseg.training.assembly import Assembly
from flexseg.training.experiment import Experiment, read_experiment
from flexseg.training.precision import precision_scope, resolve_precision
from flexseg.user_modules import Record, changes, is_missing


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

    run: RunDirectory
    experiment: Experiment
    facts: BuiltDataset
    assembly: Assembly
    environment: dict
    weights: dict
    warnings: list[str]


@contextlib.contextmanager
def open_run(workdir: str, *, gin_param: Sequence[str], checkpoint: str, replicas: int, logical_cpus: int) -> Iterator[OpenedRun]:
    """Opens a run for evaluation or prediction, with the precision it was trained with.

    TensorFlow must have been imported with the run's kernels: `load_tensorflow(onednn=recorded_onednn(workdir))`. What is written into the run goes
    to its bucket at the end.

    Args:
      workdir: the run directory.
      gin_param: bindings over those of the run, e.g. `eval.batch_size=8`.
      checkpoint: `best` or `last`.
      replicas, logical_cpus: see `open_replicas`.

    Raises:
      UserError: when there is no such run or no such weights.
    """
    with open_run_directory(workdir) as run:
        if run.remote:
            unread = (run.tensorboard, run.pictures, run.checkpoints if checkpoint == "best" else run.best)
            run.remote.fetch(leave=[path.name for path in unread])
        yield from _opened(run, gin_param, checkpoint=checkpoint, replicas=replicas, logical_cpus=logical_cpus)
        if run.remote:
            run.remote.push()


def _opened(run: RunDirectory, gin_param: Sequence[str], *, checkpoint: str, replicas: int, logical_cpus: int) -> Iterator[OpenedRun]:
    environment = run.read_environment()
    modules = environment["user_modules"]
    with _naming_its_place(modules):
        experiment, _, _ = read_experiment([str(run.config)], gin_param, user_modules=list(modules), recorded=True)
    warnings = changes(modules)
    for sentence in warnings:
        say("warning: %s", sentence)

    devices = open_replicas(global_batch_size=None, replicas=replicas or 1, logical_cpus=logical_cpus)
    overridden = any(param.replace(" ", "").startswith("train.precision=") for param in gin_param)
    policy = resolve_precision(experiment.train.precision, on_gpu=devices.on_gpu) if overridden else environment["precision"]
    with precision_scope(policy):
        facts = BuiltDataset(run.path)
        assembly = Assembly(experiment, facts, devices, precision=policy, xla="auto" if experiment.train.xla == "on" else experiment.train.xla)
        weights = load_weights(run, checkpoint, devices, assembly.model)
        yield OpenedRun(run, experiment, facts, assembly, environment, weights, warnings)


@contextlib.contextmanager
def _naming_its_place(modules: Record) -> Iterator[None]:
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


def dataset_of(opened: OpenedRun, data_dir: str | None) -> BuiltDataset:
    """The dataset that a run was trained on, where it was then or below `data_dir`.

    Raises:
      UserError: when it is not there, or was built again since.
    """

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
