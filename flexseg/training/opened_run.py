"""Loads a trained run for inference: model, weights, predictor and dataset, for evaluate, predict and export.

    with open_run("runs/my_run", gin_param=[], checkpoint="best", replicas=0, logical_cpus=0) as opened:
        opened.assembly.predictor, opened.facts
        dataset_of(opened, data_dir=None)

It does not restore the optimizer: training resumes from a checkpoint in `Trainer`.
"""

import contextlib
import dataclasses
import json
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
from flexseg.user_modules import changes, refuse_untyped, typed


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A trained run, ready for inference.

    Attributes:
      run: the run directory.
      experiment: the settings.
      facts: the dataset's manifest and LabelMap, as copied into the run directory; no records.
      assembly: model, with its weights loaded, and predictor.
      environment: content of `environment.json`.
      weights: epoch and step of the weights.
      warnings: user modules that changed since training.
    """

    run: RunDirectory
    experiment: Experiment
    facts: BuiltDataset
    assembly: Assembly
    environment: dict
    weights: dict
    warnings: list[str]


@contextlib.contextmanager
def open_run(
    workdir: str, *, gin_param: Sequence[str], checkpoint: str, replicas: int, logical_cpus: int, user_module: Sequence[str] = ()
) -> Iterator[OpenedRun]:
    """Opens a run for inference, with the precision of its training.

    Import TensorFlow with the kernels of the run before: `load_tensorflow(onednn=recorded_onednn(workdir))`. Files written to a run in a bucket are
    uploaded when the context closes.

    Args:
      workdir: the run directory.
      gin_param: bindings that override those of the run, e.g. `eval.batch_size=8`.
      checkpoint: `best` or `last`.
      replicas, logical_cpus: see `open_replicas`.
      user_module: modules that may be imported. Those that the run names must be among them, or in FLEXSEG_USER_MODULES.

    Raises:
      UserError: there is no such run, it has no such weights, or it needs a module that was not typed.
    """
    with open_run_directory(workdir) as run:
        if run.remote:
            unread = (run.tensorboard, run.pictures, run.checkpoints if checkpoint == "best" else run.best)
            run.remote.fetch(leave=[path.name for path in unread])
        run.refuse_links()
        yield from _opened(run, gin_param, checkpoint=checkpoint, replicas=replicas, logical_cpus=logical_cpus, user_module=user_module)
        if run.remote:
            run.remote.push()


def _opened(
    run: RunDirectory, gin_param: Sequence[str], *, checkpoint: str, replicas: int, logical_cpus: int, user_module: Sequence[str]
) -> Iterator[OpenedRun]:
    environment = run.read_environment()
    modules = environment["user_modules"]
    given = typed(user_module)
    refuse_untyped(modules, given, run=run.path)
    warnings = changes(modules, given)
    for sentence in warnings:
        say("warning: %s", sentence)
    experiment, _, _ = read_experiment([str(run.config)], gin_param, user_modules=given, recorded=True)

    devices = open_replicas(global_batch_size=None, replicas=replicas or 1, logical_cpus=logical_cpus)
    overridden = any(param.replace(" ", "").startswith("train.precision=") for param in gin_param)
    policy = resolve_precision(experiment.train.precision, on_gpu=devices.on_gpu) if overridden else environment["precision"]
    with precision_scope(policy):
        facts = BuiltDataset(run.path)
        assembly = Assembly(experiment, facts, devices, precision=policy, xla="auto" if experiment.train.xla == "on" else experiment.train.xla)
        weights = load_weights(run, checkpoint, devices, assembly.model)
        yield OpenedRun(run, experiment, facts, assembly, environment, weights, warnings)


def dataset_of(opened: OpenedRun, data_dir: str | None) -> BuiltDataset:
    """Opens the training dataset of a run, at its recorded path or below `data_dir`.

    Raises:
      UserError: the dataset is missing or was rebuilt.
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
