"""Trainer: the outer training loop: steps, validation, early stopping, checkpoints.

    trainer = Trainer(assembly, experiment, dataset, run)
    trainer.restore()
    with Interruption(run.stop_file) as interruption:
        trainer.train(interruption)

An epoch: steps → validation → predictions of a few cases → logs → early stopping, best weights, plateau → checkpoint.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import psutil
import tensorflow as tf

from flexseg.console import progress, say
from flexseg.data.dataset import BuiltDataset
from flexseg.errors import UserError
from flexseg.evaluation.evaluate import evaluate_split, refuse_larger_cases
from flexseg.files.atomic import replace_file
from flexseg.objectives.epoch_metrics import EpochMetrics
from flexseg.runs.best_checkpoint import BestCheckpoint
from flexseg.runs.checkpoint_interval import CheckpointInterval
from flexseg.runs.checkpoint_manager import CheckpointManager
from flexseg.runs.directory import RunDirectory
from flexseg.runs.interruption import Interruption, StopRequested
from flexseg.runs.watchdog import Watchdog
from flexseg.training.assembly import Assembly
from flexseg.training.early_stopping import EarlyStopping, monitor_mode
from flexseg.training.epoch_pictures import EpochPictures
from flexseg.training.experiment import Experiment
from flexseg.training.plateau import ReduceLROnPlateau
from flexseg.training.reporter import Reporter, SilentReporter
from flexseg.training.steps import TRAIN, Steps

VALID = "valid"


class Trainer:
    """Trains a model in a run directory.

    Args:
      assembly: model and step metrics.
      experiment: the settings.
      dataset: a built dataset.
      run: an existing run directory.
      data_service: addresses of tf.data service hosts; default: the input pipeline runs on this host.

    Raises:
      UserError: settings that do not fit the dataset.
    """

    def __init__(self, assembly: Assembly, experiment: Experiment, dataset: BuiltDataset, run: RunDirectory, *, data_service: Sequence[str] = ()):
        self._assembly, self._experiment, self._dataset, self._run = assembly, experiment, dataset, run
        self._settings = settings = experiment.train
        self._check_padding()
        self._pictures = EpochPictures(experiment.pictures, dataset, run, assembly.predictor)
        self._validates = dataset.has(VALID)
        mode = monitor_mode(
            settings.mode,
            settings.monitor,
            higher_is_better={metric.name: metric.higher_is_better for metric in assembly.step_metrics.metrics},
            class_names=dataset.label_map.class_names,
            validates=self._validates,
        )
        self._early_stopping = EarlyStopping(mode=mode, patience=settings.patience)
        self._plateau = ReduceLROnPlateau(experiment.plateau, mode=mode)
        self._epoch_metrics = EpochMetrics(assembly.step_metrics)
        self.steps = steps = Steps(assembly, experiment, dataset, plateau=self._plateau, epoch_metrics=self._epoch_metrics, data_service=data_service)
        self._best_checkpoint = BestCheckpoint(run.best, assembly.replicas, assembly.model)
        self._checkpoints = CheckpointManager(
            run.checkpoints,
            assembly.replicas,
            model=assembly.model,
            optimizer=steps.optimizer,
            loss_scale=steps.loss_scale,
            ema=steps.ema,
            keep=settings.keep,
        )
        self._interval = CheckpointInterval(every_steps=settings.checkpoint_steps, every_minutes=settings.checkpoint_minutes)
        self._epochs_done = 0
        self._checks: tuple[Callable[[], None], ...] = ()
        self._interruption: Interruption | None = None
        self._moved: Callable[[], None] = lambda: None

    def restore(self) -> bool:
        """Restores the latest intact checkpoint of the run directory; false where there is none.

        Raises:
          UserError: all checkpoints are damaged, or they belong to another model.
        """
        host = self._checkpoints.restore()
        if host is not None:
            try:
                self._epochs_done = host["epochs_done"]
                self.steps.restore(global_step=host["step"], skipped=host["skipped"])
                self._epoch_metrics.restore(host["epoch_metrics"])
                self._early_stopping.restore(host["early_stopping"])
                self._plateau.restore(host["plateau"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                found = f"facts of something else ({type(error).__name__}: {error})"
                raise UserError(
                    self._run.checkpoints, expected="the state of a training", found=found, cure="train into another --workdir"
                ) from error
        self._best_checkpoint.restored(step=self.steps.global_step)
        return host is not None

    def train(self, interruption: Interruption, *, check: Callable[[], None] = lambda: None) -> str:
        """Trains from the current global step to the end and returns the reason of the end.

        Args:
          interruption: source of stop requests.
          check: called after every call of the step and every batch of validation and drawing; an exception from it ends the run at once.

        Raises:
          Interrupted: after a signal, once the checkpoint is written.
        """
        settings = self._settings
        metrics = [metric.name for metric in self._assembly.step_metrics.metrics]
        replicas = self._assembly.replicas
        again = self.steps.global_step > 0 or self._run.losses_csv.is_file()  # true also for a run that was killed before its first checkpoint
        reporter = Reporter(self._run, metrics=metrics, leaked=self._dataset.manifest.leaked) if replicas.is_chief else SilentReporter()
        reporter.start(epoch=self._epochs_done)
        if again:
            say("resumed after epoch %d, step %d", self._epochs_done, self.steps.global_step)
        elif replicas.is_chief:
            reporter.texts(config=self._run.config.read_text(), model=self._assembly.summary())
        batches = self.steps.batches()
        self._interruption = interruption
        self.steps.listen_to(interruption)
        log = self._run.log if replicas.is_chief else None
        then = self._run.remote.push_log if self._run.remote and replicas.is_chief else None
        watchdog = Watchdog(multiple=settings.watchdog_multiple, minutes=settings.watchdog_minutes, report_to=log, then=then)
        self._checks, self._moved = (check, interruption.check, watchdog.beat), watchdog.alive
        with watchdog, interruption.deferred(agreed=replicas.workers > 1):
            try:
                while self._epochs_done < settings.epochs and not self._early_stopping.exhausted:
                    epoch = self._epochs_done + 1
                    self._run_steps(batches, epoch)
                    self._end_epoch(reporter, epoch)
            except StopRequested as request:
                self._save()
                reporter.close()
                return interruption.end(request.signal, step=self.steps.global_step)
            return self._finish(reporter)

    def _finish(self, reporter: Reporter | SilentReporter) -> str:
        reason, last = ("early stopping" if self._early_stopping.exhausted else "epochs"), self._epochs_done
        if self._pictures.due(last, last=True) and not self._pictures.due(last, last=last == self._settings.epochs):
            reporter.images(last, self._pictures.draw(last))
        self._save()
        reporter.curves()
        reporter.close()
        if not self._assembly.replicas.is_chief:
            return reason
        self._run.stop_file.unlink(missing_ok=True)  # created after the last check
        sheet = self._pictures.sheet(epochs=last)
        if sheet:
            say("pictures of the epochs: %s", sheet)
        replace_file(self._run.finished, json.dumps({"reason": reason, "epochs": self._epochs_done, "step": self.steps.global_step}).encode())
        return reason

    def _run_steps(self, batches: Iterator[dict], epoch: int) -> None:
        steps, per_epoch = self.steps, self.steps.steps_per_epoch
        last = epoch * per_epoch
        with progress(f"epoch {epoch}/{self._settings.epochs}", total=per_epoch, done=steps.global_step - (last - per_epoch)) as bar:
            while steps.global_step < last:
                before = steps.global_step
                steps.advance(batches, last=int(min(last, self._interval.next_by_steps(steps.global_step))))
                bar.update(self._epoch_metrics.results, count=steps.global_step - before)
                self._check()  # before the save, because a stop writes a checkpoint itself
                if self._interval.due(steps.global_step):
                    self._save()
            steps.wait_for_pending()
        steps.throughput.pause()

    def _end_epoch(self, reporter: Reporter | SilentReporter, epoch: int) -> None:
        settings, steps = self._settings, self.steps
        train = self._epoch_metrics.results()
        due = self._validates and (epoch % settings.validate_every == 0 or epoch == settings.epochs)
        pictured = self._pictures.due(epoch, last=epoch == settings.epochs)
        with self._ema_in_place():
            valid = self.validate() if due else None
            panels = self._pictures.draw(epoch, between_batches=self._check_between_batches) if pictured else {}
        facts = {**steps.rates(steps.global_step - 1), "loss_scale": float(steps.loss_scale.scale.numpy())}
        facts |= {**steps.throughput.facts(), **self._memory(), "seconds_in_checkpoints": self._interval.take_seconds()}
        reporter.epoch(epoch, step=steps.global_step, train=train, valid=valid, facts=facts)
        if panels:
            reporter.images(epoch, panels)
        if epoch % settings.curves_every == 0:
            reporter.curves()
        watched = {**train, **{f"val_{name}": value for name, value in (valid or {}).items()}}
        if settings.monitor in watched:
            self._watch(watched[settings.monitor], epoch)
        self._epochs_done = epoch
        self._epoch_metrics.reset()
        steps.throughput.reset()
        if self._interval.due(steps.global_step, epoch_end=True):
            if self._run.remote:
                reporter.new_files()
            self._save()

    def _watch(self, value: float, epoch: int) -> None:
        if self._early_stopping.update(value, epoch=epoch):
            with self._ema_in_place():
                self._best_checkpoint.write({"epoch": epoch, "step": self.steps.global_step, "monitor": self._settings.monitor, "value": value})
        if self._plateau.update(value, learning_rate=self.steps.base_rate):
            say("learning rate reduced to %.3g: %s did not improve", self.steps.learning_rate(self.steps.global_step), self._settings.monitor)

    def validate(self) -> dict[str, float]:
        """Evaluates the validation split: `loss`, the metrics, `mean_foreground_dice` and `dice/<class>`."""
        report = evaluate_split(
            self._assembly.predictor,
            self._dataset,
            VALID,
            settings=self._experiment.evaluation,
            step_metrics=self._assembly.step_metrics,
            between_batches=self._check_between_batches,
        )
        result = report.result()
        scores = {**result["metrics"], "loss": result["loss"], "mean_foreground_dice": result["mean_foreground_dice"]}
        for name, values in result["per_class"].items():
            scores[f"dice/{name}"] = values["dice"]
        return {name: float("nan") if value is None else value for name, value in scores.items()}

    def _check(self) -> None:
        for check in self._checks:
            check()

    def _check_between_batches(self) -> None:
        """`_check` outside of steps: several workers first sum their stop requests."""
        replicas = self._assembly.replicas
        if replicas.workers > 1 and self._interruption:
            self._interruption.agree(replicas.sum_over_workers(np.array(self._interruption.stop_requests(), np.int32)))
        self._check()

    def _ema_in_place(self) -> contextlib.AbstractContextManager:
        """Swaps in the EMA weights, if the run has an EMA."""
        return self.steps.ema.in_place() if self.steps.ema else contextlib.nullcontext()

    def _check_padding(self) -> None:
        inputs = self._experiment.inputs
        if inputs.fit == "pad":
            self._dataset.refuse_larger(TRAIN, inputs.image_size, binding="input.image_size", otherwise="input.fit='random_crop'")
        if self._dataset.has(VALID):
            refuse_larger_cases(self._assembly.predictor, self._dataset, VALID)

    def _memory(self) -> dict[str, float]:
        facts = {"host_memory_gib": psutil.Process().memory_info().rss / 2**30}
        if self._assembly.replicas.on_gpu:
            facts["device_peak_memory_gib"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
        return facts

    def _save(self) -> None:
        self.steps.wait_for_pending()
        host = {
            "epochs_done": self._epochs_done, "epoch_metrics": self._epoch_metrics.state(), "early_stopping": self._early_stopping.state(),
            "plateau": self._plateau.state(), "skipped": self.steps.skipped,
        }  # fmt: skip
        self.steps.throughput.pause()
        with self._interval.saving():
            self._checkpoints.save(step=self.steps.global_step, host=host)
            self._best_checkpoint.checkpointed()
            if self._run.remote and self._assembly.replicas.is_chief:
                self._run.remote.push(patient=True, moved=self._moved)
