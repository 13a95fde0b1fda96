"""Session: one start of a run: resolves `auto`, restores or initializes, prints the facts, trains.

    replicas = open_devices(experiment.train, replicas=0, logical_cpus=0, cluster=None)
    session = Session(experiment, dataset, run, replicas, config=text, user_modules=[])
    session.train(claim, init_from=None, operative_config=configuration.operative)
    session.dry_run()

The run directory must exist and be claimed before `train`.
"""

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TypeVar

import keras
import psutil
import tensorflow as tf

from flexseg import machine
from flexseg.console import say
from flexseg.data.dataset import BuiltDataset
from flexseg.distribution.cluster import Cluster
from flexseg.distribution.communication import Communication
from flexseg.distribution.replicas import Replicas
from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.files.atomic import replace_file
from flexseg.objectives.supervision import main_output
from flexseg.runs.claim import Claim
from flexseg.runs.directory import RunDirectory
from flexseg.training.assembly import Assembly
from flexseg.training.experiment import Experiment, global_batch_size
from flexseg.training.precision import precision_scope, resolve_precision
from flexseg.training.settings import TrainSettings
from flexseg.training.starting_weights import load_starting_weights
from flexseg.training.trainer import TRAIN, Trainer
from flexseg.user_modules import changes, recorded

# Bindings that may change at a resume: reports and settings of the machine, which do not define the experiment.
MAY_DIFFER = (
    "epoch_change_infer", "eval", "train.curves_every", "train.checkpoint_steps", "train.checkpoint_minutes", "train.keep", "train.max_skipped_steps",
    "train.xla", "train.steps_per_execution", "train.watchdog_multiple", "train.watchdog_minutes", "input.cache",
)  # fmt: skip

Told = TypeVar("Told")  # JSON values


def open_devices(
    settings: TrainSettings, *, replicas: int, logical_cpus: int, cluster: Cluster | None, communication: Communication | None = None
) -> Replicas:
    """Enables determinism, which must precede the first use of a device, and opens the devices; see `open_replicas`."""
    if settings.deterministic:
        keras.utils.set_random_seed(settings.seed)
        tf.config.experimental.enable_op_determinism()
    batch = None if settings.batch_size_per_replica else global_batch_size(settings, 1)
    return open_replicas(global_batch_size=batch, replicas=replicas, logical_cpus=logical_cpus, cluster=cluster, communication=communication)


class Session:
    """One start of a run.

    Args:
      experiment: the settings.
      dataset: a built dataset.
      run: an existing run directory; None for a dry run.
      replicas: the devices.
      config: text for `config.gin`.
      user_modules: names of the user's modules, which `environment.json` records.
      data_service: addresses of tf.data service hosts; default: the input pipeline runs on this host.

    Raises:
      UserError: settings that do not fit the dataset or the machine.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: BuiltDataset,
        run: RunDirectory | None,
        replicas: Replicas,
        *,
        config: str,
        user_modules: Sequence[str],
        data_service: Sequence[str] = (),
    ):
        self._experiment, self._dataset, self._run, self._config, self._user_modules = experiment, dataset, run, config, user_modules
        self._data_service = data_service
        self._replicas, settings = replicas, experiment.train
        stored = self._from_chief(lambda: run.read_environment() if run is not None and run.started else None)
        auto = settings.precision == "auto"
        self._precision = stored["precision"] if auto and stored is not None else resolve_precision(settings.precision, on_gpu=self._replicas.on_gpu)
        size = global_batch_size(settings, self._replicas.count)
        if stored is not None and stored["global_batch_size"] != size:
            raise UserError(
                "train.batch_size_per_replica",
                expected=f"the run's global batch of {stored['global_batch_size']}",
                found=f"{size} with {self._replicas.count} replicas",
                cure=f'--gin_param="train.batch_size_per_replica=None" --gin_param="train.global_batch_size={stored["global_batch_size"]}"',
            )

    def train(self, claim: Claim, *, init_from: str | None, operative_config: Callable[[], str]) -> None:
        """Trains a fresh or resumed run to its end.

        Args:
          claim: the claim on the run directory.
          init_from: pretrained weights of a fresh run, see `load_starting_weights`.
          operative_config: returns gin's operative config; called after all parts are made.
        """
        run = self._run
        assert run is not None  # a dry run calls `dry_run` only
        finished = self._from_chief(run.read_finished)
        if finished and not (finished["reason"] == "epochs" and finished["epochs"] < self._experiment.train.epochs):
            say("this run is finished (%s, %d epochs): nothing to do", finished["reason"], finished["epochs"])
            return
        with precision_scope(self._precision):
            assembly, trainer = self._make()
            resumed = trainer.restore()
            stored = self._from_chief(run.read_environment) if resumed else {}
            earlier = stored.get("user_modules", {})
            for sentence in changes(earlier, self._user_modules):
                say("warning: %s", sentence)
            before = stored.get("onednn", machine.onednn_by_default())
            if resumed and isinstance(before, bool) and before != machine.onednn_in_use():
                was, now = ("on", "off") if before else ("off", "on")
                say("warning: oneDNN was %s in this run and is %s here; %s=%d keeps its bits", was, now, machine.VARIABLE, before)
            if init_from and resumed:
                say("this run goes on from its own checkpoint; --init_from=%s served its beginning", init_from)
            elif not resumed:
                self._begin(assembly, trainer, init_from)
            if self._replicas.is_chief:
                run.copy_dataset_facts(self._dataset.directory, self._dataset.manifest.label_map)
                run.write_environment(self._environment(assembly, trainer) | {"user_modules": recorded(self._user_modules, earlier=earlier)})
                replace_file(run.summary, assembly.summary().encode())
                replace_file(run.operative_config, operative_config().encode())
                replace_file(run.config, self._config.encode())  # last: a directory with config.gin has all other files
            self._print_facts(assembly, trainer)
            reason = trainer.train(claim.interruption, check=claim.check)
        say("ended: %s", reason)

    def _from_chief(self, read: Callable[[], Told]) -> Told:
        """Calls `read` on the chief and broadcasts its result."""
        return json.loads(self._replicas.from_chief(json.dumps(read()).encode() if self._replicas.is_chief else b""))

    def dry_run(self, *, init_from: str | None) -> None:
        """Runs the first two calls of the step and prints their time and memory; writes nothing."""
        with precision_scope(self._precision):
            assembly, trainer = self._make()
            self._begin(assembly, trainer, init_from)
            self._print_facts(assembly, trainer)
            steps, calls = trainer.steps, self._experiment.train.steps_per_execution
            batches, times = steps.batches(), []
            for _ in range(2):
                began = time.perf_counter()
                steps.advance(batches, last=steps.global_step + calls)
                steps.wait_for_pending()
                times.append((time.perf_counter() - began) / calls)
        memory = f"{psutil.Process().memory_info().rss / 2**30:.2f} GiB of host memory"
        if self._replicas.on_gpu:
            memory += f", {tf.config.experimental.get_memory_info('GPU:0')['peak'] / 2**30:.2f} GiB at most on GPU 0"
        epoch = times[1] * steps.steps_per_epoch
        say(
            "first step %.2f s (with tracing and compilation), second step %.2f s; %s; about %.0f s an epoch without validation",
            *times,
            memory,
            epoch,
        )

    def _make(self) -> tuple[Assembly, Trainer]:
        assembly = Assembly(self._experiment, self._dataset, self._replicas, precision=self._precision, xla=self._experiment.train.xla)
        run = self._run or RunDirectory(os.devnull)  # a dry run writes nothing
        return assembly, Trainer(assembly, self._experiment, self._dataset, run, data_service=self._data_service)

    def _begin(self, assembly: Assembly, trainer: Trainer, init_from: str | None) -> None:
        load_starting_weights(assembly.model, self._replicas, init_from=init_from)
        if trainer.steps.ema:
            trainer.steps.ema.restart()

    def _environment(self, assembly: Assembly, trainer: Trainer) -> dict:
        packages = ("flexseg", "tensorflow", "keras", "tensorflow-datasets", "numpy", "gin-config")
        return {
            "command": sys.argv,
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in packages},
            "devices": self._replicas.description,
            "threads": os.cpu_count(),
            "onednn": machine.onednn_in_use(),
            "dataset": self._dataset.name,
            "dataset_directory": str(self._dataset.directory.absolute()),
            "precision": self._precision,
            "xla": assembly.xla,
            "global_batch_size": trainer.steps.batch_size,
            "steps_per_epoch": trainer.steps.steps_per_epoch,
            "parameters": assembly.parameters,
        }

    def _print_facts(self, assembly: Assembly, trainer: Trainer) -> None:
        dataset, manifest = self._dataset, self._dataset.manifest
        pixels = manifest.class_pixels[TRAIN]
        total_pixels = max(1, sum(pixels.values()))
        head = main_output(assembly.model.output).shape[-1]
        steps, optimizer, micro_batches = trainer.steps, self._experiment.optimizer, self._experiment.train.accumulation_steps
        examples = steps.batch_size // self._replicas.count
        accumulation = f" × {micro_batches} micro-batches" if micro_batches > 1 else ""
        onednn = machine.onednn_in_use()
        scaling = f": {optimizer.learning_rate:.4g} of a batch of {optimizer.base_batch_size}, scaling {optimizer.scaling}"
        scaling = scaling if optimizer.base_batch_size else ""
        encoder = ""
        if optimizer.singles_out_encoder:
            start = f" from step {optimizer.encoder_frozen_steps + 1} on" if optimizer.encoder_frozen_steps else ""
            encoder = f"; of the encoder {steps.base_rate * optimizer.encoder_rate_factor:.4g}{start}"
        facts = {
            "dataset": f"{dataset.name}, {dataset.directory}",
            "cases": ", ".join(f"{name} {len(table)}" for name, table in manifest.splits.items()),
            "classes": ", ".join(f"{name} {count / total_pixels:.2%}" for name, count in pixels.items()),
            "devices": self._replicas.description,
            "onednn": f"{'on' if onednn else 'off'} for CPU kernels; {machine.VARIABLE}={int(not onednn)} turns it {'off' if onednn else 'on'}",
            "precision": f"{self._precision}, XLA {'on' if assembly.xla else 'off'}",
            "batch": f"{steps.batch_size} = {self._replicas.count} × {examples // micro_batches}{accumulation}, "
            f"{steps.steps_per_epoch} step{'' if steps.steps_per_epoch == 1 else 's'} an epoch",
            "rate": f"{steps.base_rate:.4g}{scaling}{encoder}",
            "model": f"{assembly.model.name}, {assembly.parameters:,} parameters, {head} {'sigmoid logit' if head == 1 else 'softmax logits'}",
            "input": f"{assembly.model.input.shape[1]} × {assembly.model.input.shape[2]} × {assembly.model.input.shape[3]}, "
            f"predicted at {assembly.evaluation_size[0]} × {assembly.evaluation_size[1]}, scored at each case's own size",
            "first step": f"is traced{' and compiled' if assembly.xla else ''} before it runs: seconds, or minutes for a large network",
        }
        for name, value in facts.items():
            say("%-10s %s", name, value)
        for metric in assembly.step_metrics.metrics:
            if metric.note:
                say("%-10s %s", "note", metric.note)
        if manifest.leaked:
            say("%-10s LEAKED: groups of this dataset stand in two splits; its scores are no scores on unseen cases", "warning")
