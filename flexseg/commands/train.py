"""Train a model on a built dataset, or resume an interrupted run.

    flexseg train --gin_file=default.gin --dataset=my_set --data_dir=data --workdir=runs/my_run

The same command resumes from the last checkpoint. --dry_run prints the experiment and calls the step twice.
"""

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from flexseg.commands.config_flags import CommaSeparated, Natural, flags_of, values

if TYPE_CHECKING:
    from flexseg.config.configure import Configuration
    from flexseg.data.dataset import BuiltDataset
    from flexseg.runs.directory import RunDirectory
    from flexseg.training.experiment import Experiment

DEFAULT_CONFIG = "default.gin"
# Bindings that users of other trainers expect as flags.
BINDINGS = {
    **{name: f"train.{name}" for name in ("epochs", "steps_per_epoch", "global_batch_size", "precision", "xla", "seed", "monitor", "patience")},
    **{"batch_size": "train.global_batch_size", "image_size": "input.image_size", "loss": "objective.loss", "metrics": "train.metrics"},
    **{"learning_rate": "optimizer.learning_rate", "lr": "optimizer.learning_rate", "optimizer": "optimizer.name"},
}


def run(
    *,
    dataset: str,
    workdir: str | None = None,
    data_dir: str = "data",
    replicas: Natural = 0,
    logical_cpus: Natural = 0,
    distribution: Literal["auto", "one_device", "mirrored", "multi_worker"] = "auto",
    workers: CommaSeparated = (),
    worker: Natural | None = None,
    all_reduce: Literal["auto", "nccl", "ring", "hierarchical_copy"] = "auto",
    all_reduce_pack_mib: Natural = 0,
    data_service: CommaSeparated = (),
    dry_run: bool = False,
    init_from: str | None = None,
    gin_file: Sequence[str] = (),
    gin_param: Sequence[str] = (),
    user_module: Sequence[str] = (),
) -> str | None:
    """Trains and returns the run directory.

    Args:
      dataset: Name of a built dataset.
      workdir: The run directory: checkpoints, TensorBoard logs, curves, images.
      replicas: GPUs to use; 0: as many as divide the global batch, or the CPU.
      logical_cpus: Use this many logical CPU devices instead, to try distribution without GPUs.
      distribution: auto finds other workers and uses all GPUs.
      workers: host:port of every worker, the same list on each; default from TF_CONFIG or Slurm.
      worker: Index in --workers of this process, from 0; worker 0 writes the run directory.
      all_reduce: Implementation of the gradient all-reduce; auto: TensorFlow's choice.
      all_reduce_pack_mib: Reduce gradients in packs of this many MiB; 0: all together.
      data_service: grpc://host:port of hosts that read and augment (python -m flexseg.launch.data_service); the batches are the same.
      dry_run: Print the experiment, call the step twice, report time and memory; write nothing.
      init_from: Initialize from the best weights of a run (its directory), or from a FlexUNet's best_model.h5; the head may differ.
    """
    from flexseg.commands.quiet import load_tensorflow
    from flexseg.errors import UserError
    from flexseg.runs.directory import recorded_onednn

    for flag, value in (("--dataset", dataset), ("--workdir", workdir or dry_run)):
        if not value:
            raise UserError(flag, expected="a value", found="none", cure="flexseg train --dataset=NAME --data_dir=DIR --workdir=RUN")
    load_tensorflow(onednn=recorded_onednn(workdir))
    from flexseg.training.experiment import read_experiment
    from flexseg.user_modules import digests, typed

    experiment, configuration, notes = read_experiment(list(gin_file) or [DEFAULT_CONFIG], gin_param, user_modules=typed(user_module))

    from flexseg.commands.dispatcher import write_tracebacks_to
    from flexseg.console import be_silent
    from flexseg.data.data_service import refuse_unreachable
    from flexseg.distribution.cluster import find_cluster
    from flexseg.distribution.communication import Communication
    from flexseg.runs.claim import claimed
    from flexseg.runs.directory import open_run_directory
    from flexseg.training.session import Session, open_devices

    built = _open_training_dataset(dataset, data_dir)
    cluster = find_cluster(distribution=distribution, workers=workers, worker=worker, environment=os.environ)
    communication = Communication(all_reduce=all_reduce, pack_mib=all_reduce_pack_mib)
    replicas = replicas or int(distribution == "one_device")
    devices = open_devices(experiment.train, replicas=replicas, logical_cpus=logical_cpus, cluster=cluster, communication=communication)
    if not devices.is_chief:
        be_silent()

    def session_in(directory: "RunDirectory | None") -> Session:
        modules, hosts = configuration.user_modules, tuple(data_service)
        session = Session(experiment, built, directory, devices, config=configuration.text, user_modules=modules, data_service=hosts)
        if devices.is_chief:
            print("\n".join([configuration.summary(), *notes]), "\n")
        return session

    if dry_run or not workdir:
        refuse_unreachable(data_service)
        session_in(None).dry_run(init_from=init_from)
        return None
    agreed = {"configuration": configuration.text, "communication": f"{communication}", "user modules": digests(configuration.user_modules)}
    with (
        devices.naming_lost_workers(),
        open_run_directory(workdir) as directory,
        claimed(
            directory,
            devices,
            built,
            facts=agreed,
            check_config=lambda: _refuse_other_config(directory, configuration, experiment),
            check_machine=lambda: refuse_unreachable(data_service),
            tracebacks_to=write_tracebacks_to,
        ) as claim,
    ):
        session_in(directory).train(claim, init_from=init_from, operative_config=configuration.operative)
    if devices.is_chief:
        _print_end(directory)
    return directory.name_of(directory.path) if devices.is_chief else None


FLAGS = flags_of(run)


def _open_training_dataset(dataset: str, data_dir: str) -> "BuiltDataset":
    from flexseg.data.dataset import open_dataset
    from flexseg.errors import UserError

    built = open_dataset(dataset, data_dir)
    if not built.has("train"):
        raise UserError(
            f"--dataset={dataset}", expected="a training split", found="none", cure="build it with split.proportions or split.train_groups"
        )
    return built


def _print_end(directory: "RunDirectory") -> None:
    """Prints where the run is, and the command that shows it."""
    print(f"\nrun directory: {directory.name_of(directory.path)}")
    events = directory.name_of(directory.tensorboard)
    if events.startswith("s3:"):  # TensorFlow cannot read s3://
        print(shlex.join(["aws", "s3", "sync", events, directory.path.name]))
        events = directory.path.name
    print(shlex.join(["tensorboard", f"--logdir={events}", "--samples_per_plugin=images=1000"]))


def _refuse_other_config(directory: "RunDirectory", configuration: "Configuration", experiment: "Experiment") -> None:
    """Refuses to resume with another configuration; reporting, machine settings and more epochs are allowed."""
    from flexseg.errors import UserError
    from flexseg.objectives.metrics import metric_named, metric_names
    from flexseg.training.session import MAY_DIFFER

    # If a monitored value depends on its batch, eval.batch_size changes the best epoch and the plateau.
    monitored = experiment.train.monitor.removeprefix("val_")
    by_batch = experiment.objective.reduction == "batch" or (
        monitored in metric_names() and metric_named(monitored, num_classes=2, background=0).batch_dependent
    )
    # The last epoch is always validated; a longer run may not have validated it.
    finished = directory.read_finished()
    odd = finished is not None and finished["epochs"] % experiment.train.validate_every
    ignore = set(MAY_DIFFER) - ({"eval"} if by_batch else set())
    if not experiment.schedule.depends_on_epochs and not odd:
        ignore.add("train.epochs")
    different = configuration.difference(directory.config.read_text(), ignore)
    if different:
        raise UserError(
            f"--workdir={directory.path}",
            expected="the configuration that the run was begun with",
            found="; ".join(different),
            cure="train into another --workdir",
        )


def main(args: Sequence[str]) -> int:
    """The command."""
    run(**values(FLAGS))
    return 0
