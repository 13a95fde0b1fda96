"""Train a model on a built dataset, or go on with a run that was cut off.

    flexseg train --gin_file=default.gin --dataset=my_set --data_dir=data --workdir=runs/my_run

The same command again resumes where the last checkpoint was written. --dry_run prints what would be trained and tries two steps.
"""

import contextlib
import json
import shlex

from absl import flags

from flexseg.commands import config_flags

FLAGS = flags.FlagValues()
flags.DEFINE_string("dataset", None, "Name of a built dataset.", flag_values=FLAGS)
flags.DEFINE_string("data_dir", "data", "Where built datasets lie.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "The run directory: checkpoints, TensorBoard, curves, pictures.", flag_values=FLAGS)
flags.DEFINE_integer("replicas", 0, "GPUs to use; 0 takes as many as divide the global batch, or the CPU.", flag_values=FLAGS, lower_bound=0)
flags.DEFINE_integer(
    "logical_cpus", 0, "Use this many logical CPU devices instead, to try distribution without GPUs.", flag_values=FLAGS, lower_bound=0
)
flags.DEFINE_boolean("dry_run", False, "Print what would be trained, run two steps, tell their time and memory; write nothing.", flag_values=FLAGS)
flags.DEFINE_string("init_from", None, "Run directory whose best weights the model starts from; its head may have other classes.", flag_values=FLAGS)
config_flags.define(FLAGS)

DEFAULT_CONFIG = "default.gin"
# What people try as flags because other trainers have them so.
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
    replicas: int = 0,
    logical_cpus: int = 0,
    dry_run: bool = False,
    init_from: str | None = None,
    gin_file=(),
    gin_param=(),
    user_module=(),
) -> str | None:
    """Trains and returns the run directory; the arguments are the flags of `flexseg train`."""
    from flexseg.commands.effects import idle_bindings
    from flexseg.commands.runs import read_experiment
    from flexseg.errors import UserError

    for flag, value in (("--dataset", dataset), ("--workdir", workdir or dry_run)):
        if not value:
            raise UserError(flag, expected="a value", found="none", cure="flexseg train --dataset=NAME --data_dir=DIR --workdir=RUN")
    experiment, configuration = read_experiment(list(gin_file) or [DEFAULT_CONFIG], gin_param, user_modules=user_module)

    from flexseg.commands.dispatcher import write_tracebacks_to
    from flexseg.data.dataset import open_dataset
    from flexseg.files.lock import FolderLock
    from flexseg.training.interruption import Interrupted, Interruption
    from flexseg.training.run_directory import RunDirectory
    from flexseg.training.session import Session

    built = open_dataset(dataset, data_dir)
    if not built.has("train"):
        raise UserError(
            f"--dataset={dataset}", expected="a training split", found="none", cure="build it with split.proportions or split.train_groups"
        )
    facts = "\n".join([configuration.summary(), *idle_bindings(configuration)])
    machine = {"config": configuration.text, "user_modules": list(user_module), "replicas": replicas, "logical_cpus": logical_cpus}
    if dry_run:
        session = Session(experiment, built, None, **machine)
        print(facts, "\n")
        session.dry_run(init_from=init_from)
        return None
    directory = RunDirectory(workdir)
    directory.refuse_foreign_files()
    if directory.started:
        _refuse_other_config(directory, configuration, experiment)
    fresh = not directory.path.exists()
    directory.make()
    try:
        with Interruption(directory.stop_file) as interruption, FolderLock(directory.lock_file, what="flexseg train") as lock:
            write_tracebacks_to(directory.log)
            try:
                directory.remove_leftovers()
                if directory.started:  # by another process, between the look above and the lock
                    _refuse_other_config(directory, configuration, experiment)
                session = Session(experiment, built, directory, **machine)
                print(facts, "\n")
                session.train(interruption, init_from=init_from, operative_config=configuration.operative, check=lock.check)
            except (UserError, Interrupted):
                if fresh and not directory.started:  # refused or stopped, before anything of a run was written: nothing is left
                    write_tracebacks_to(None)
                    directory.remove_log()
                raise
    finally:
        if fresh:
            with contextlib.suppress(OSError):  # it holds a run, or files of somebody else
                directory.path.rmdir()
    print(f"\nrun directory: {directory.path}")
    print(shlex.join(["tensorboard", f"--logdir={directory.tensorboard}", "--samples_per_plugin=images=1000"]))
    return str(directory.path)


def _refuse_other_config(directory, configuration, experiment) -> None:
    """A resumed run must be the same experiment; reporting and machine settings may differ, and a run may be made longer."""
    from flexseg.errors import UserError
    from flexseg.objectives.metrics import metric_named, metric_names
    from flexseg.training.session import MAY_DIFFER

    # Where a value of the validation depends on its batch, so does what is best and what is a plateau.
    monitored = experiment.train.monitor.removeprefix("val_")
    by_batch = experiment.objective.reduction == "batch" or (
        monitored in metric_names() and metric_named(monitored, num_classes=2, background=0).batch_dependent
    )
    # The last epoch is validated in any case: a longer run would not have looked there.
    odd = directory.finished.is_file() and json.loads(directory.finished.read_text())["epochs"] % experiment.train.validate_every
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


def main(args) -> int:
    """The command."""
    run(**config_flags.values(FLAGS))
    return 0
