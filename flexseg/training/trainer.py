"""Trainer: the loop. Steps, validation, what is watched, checkpoints.

    trainer = Trainer(assembly, experiment, dataset, run)
    trainer.restore()
    with Interruption(run.stop_file) as interruption:
        trainer.train(interruption)

The story of a run: restore, then epoch by epoch steps → validation → report → pictures → plateau and early stopping → best weights →
checkpoint, and at the end the sheet of pictures. The host waits for step k only after step k + 1 was dispatched.
"""

import json
import time
from collections.abc import Callable

import psutil
import tensorflow as tf

from flexseg.console import progress, say
from flexseg.data.dataset import BuiltDataset
from flexseg.data.ram_cache import RamCache
from flexseg.data.stream import Stream
from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.step import TrainStep
from flexseg.errors import UserError
from flexseg.evaluation.evaluate import evaluate_split
from flexseg.files.atomic import replace_file
from flexseg.objectives.measures import Meter
from flexseg.training.assembly import Assembly, Experiment, global_batch_size
from flexseg.training.best_weights import BestWeights
from flexseg.training.checkpoint_clock import CheckpointClock
from flexseg.training.epoch_pictures import EpochPictures
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.interruption import Interruption, StopRequested
from flexseg.training.reporter import Reporter, SilentReporter
from flexseg.training.run_directory import RunDirectory
from flexseg.training.throughput import Throughput
from flexseg.training.train_state import TrainState
from flexseg.training.watch import Best, Plateau, monitor_mode

TRAIN, VALID = "train", "valid"


class Trainer:
    """One run.

    Args:
      assembly: model and measures.
      experiment: the settings.
      dataset: built.
      run: its directory, made.

    Raises:
      UserError: for settings that do not fit the dataset.
    """

    def __init__(self, assembly: Assembly, experiment: Experiment, dataset: BuiltDataset, run: RunDirectory):
        self._assembly, self._experiment, self._dataset, self._run = assembly, experiment, dataset, run
        self._settings = settings = experiment.train
        replicas, inputs = assembly.replicas, experiment.inputs
        self.batch_size = global_batch_size(settings, replicas.count)
        records = dataset.records(TRAIN)
        self.steps_per_epoch = settings.steps_per_epoch or -(-records.count // self.batch_size)
        self._check_padding()
        self._pictures = EpochPictures(experiment.pictures, dataset, run, assembly.predictor)
        if inputs.cache == "ram":
            with dataset.naming_damage(TRAIN):
                records = RamCache(records, sizes=dataset.sizes(TRAIN))
        self.stream = Stream(
            records,
            inputs=inputs,
            augment=experiment.augment,
            background=dataset.label_map.background,
            seed=settings.seed,
            global_batch_size=self.batch_size,
        )
        with replicas.scope():
            self.optimizer = experiment.optimizer.build()
            self.optimizer.build(assembly.model.trainable_variables)
            self.loss_scale = LossScale(
                dynamic=assembly.precision == "mixed_float16",
                growth_steps=settings.loss_scale_growth_steps,
                dtype="float64" if assembly.precision == "float64" else "float32",
            )
        self.step_function = TrainStep(
            replicas,
            assembly.model,
            self.optimizer,
            self.loss_scale,
            make_forward_backward(assembly.model, assembly.measures, replicas=replicas.count),
            clip=experiment.optimizer.clip(),
            weight_decay=experiment.optimizer.decay,
            seed=settings.seed,
            xla=assembly.xla,
        )
        self._validates = dataset.has(VALID)
        mode = monitor_mode(
            settings.mode,
            settings.monitor,
            higher_is_better={metric.name: metric.higher_is_better for metric in assembly.measures.metrics},
            class_names=dataset.label_map.class_names,
            validates=self._validates,
        )
        self._best = Best(mode=mode, patience=settings.patience)
        self._plateau = Plateau(experiment.plateau, mode=mode)
        self._meter = Meter(assembly.measures)
        self._best_weights = BestWeights(run.best, replicas, assembly.model)
        self._state = TrainState(
            run.checkpoints, replicas, model=assembly.model, optimizer=self.optimizer, loss_scale=self.loss_scale, keep=settings.keep
        )
        self._clock = CheckpointClock(every_steps=settings.checkpoint_steps, every_minutes=settings.checkpoint_minutes)
        self.step, self._epochs_done, self._skipped = 0, 0, 0
        self._pending = None
        self._interruption: Interruption | None = None
        self._checks: tuple[Callable[[], None], ...] = ()
        self._throughput = Throughput()

    def restore(self) -> bool:
        """Goes back to the newest whole checkpoint of the run directory; false where there is none.

        Raises:
          UserError: when every checkpoint is damaged, or another model wrote it.
        """
        host = self._state.restore()
        if host is not None:
            self.step, self._epochs_done, self._skipped = host["step"], host["epochs_done"], host["skipped"]
            self._meter.restore(host["meter"])
            self._best.restore(host["best"])
            self._plateau.restore(host["plateau"])
        self._best_weights.restored(step=self.step)
        return host is not None

    def train(self, interruption: Interruption, *, check: Callable[[], None] = lambda: None) -> str:
        """Trains from the step that the state stands at to the end, and returns why it ended, in words.

        Args:
          interruption: what may ask the run to stop.
          check: called after every step and every batch of validation and pictures; what it raises ends the run where it stands.

        Raises:
          Interrupted: after a signal, once its checkpoint is written.
        """
        settings = self._settings
        metrics = [metric.name for metric in self._assembly.measures.metrics]
        replicas = self._assembly.replicas
        again = self.step > 0 or self._run.losses_csv.is_file()  # a run killed before its first checkpoint begins anew
        reporter = Reporter(self._run, metrics=metrics, leaked=self._dataset.manifest.leaked) if replicas.is_chief else SilentReporter()
        reporter.start(epoch=self._epochs_done)
        if again:
            say("resumed after epoch %d, step %d", self._epochs_done, self.step)
        elif replicas.is_chief:
            reporter.texts(config=self._run.config.read_text(), model=self._assembly.summary())
        batches = replicas.distribute(self.stream.batches(self.step, replicas=replicas.here, workers=replicas.workers, worker=replicas.worker))
        self._interruption, self._checks = interruption, (check, interruption.check)
        with interruption.deferred(agreed=replicas.workers > 1):
            try:
                while self._epochs_done < settings.epochs and not self._best.exhausted:
                    epoch = self._epochs_done + 1
                    self._run_steps(batches, epoch)
                    self._end_epoch(reporter, epoch)
            except StopRequested as request:
                self._save()
                reporter.close()
                return interruption.end(request.signal, step=self.step)
            return self._finish(reporter)

    def _finish(self, reporter: Reporter | SilentReporter) -> str:
        reason, last = ("early stopping" if self._best.exhausted else "epochs"), self._epochs_done
        if self._pictures.due(last, last=True) and not self._pictures.due(last, last=last == self._settings.epochs):
            reporter.images(last, self._pictures.draw(last))
        self._save()
        reporter.curves()
        reporter.close()
        if not self._assembly.replicas.is_chief:
            return reason
        self._run.stop_file.unlink(missing_ok=True)  # laid after the last look
        sheet = self._pictures.sheet(epochs=last)
        if sheet:
            say("pictures of the epochs: %s", sheet)
        replace_file(self._run.finished, json.dumps({"reason": reason, "epochs": self._epochs_done, "step": self.step}).encode())
        return reason

    def _run_steps(self, batches, epoch: int) -> None:
        last = epoch * self.steps_per_epoch
        with progress(f"epoch {epoch}/{self._settings.epochs}", total=self.steps_per_epoch, done=self.step - (last - self.steps_per_epoch)) as bar:
            while self.step < last:
                self.one_step(batches)
                bar.update(self._meter.results)
                self._check()  # first: a stop writes its checkpoint itself
                if self._clock.due(self.step):
                    self._save()
            self.settle()
        self._throughput.pause()

    def one_step(self, batches) -> None:
        """Draws the next batch, dispatches its step, and takes in the outcome of the step before."""
        began = time.perf_counter()
        with self._dataset.naming_damage(TRAIN, lambda: self.stream.indices(self.step)):
            batch = next(batches)
        waited = time.perf_counter() - began
        outcome = self._dispatch(batch)
        self.settle()
        self._pending = (self.step, batch["index"], outcome)
        self.step += 1
        self._throughput.add(examples=self.batch_size, waited=waited)

    def _dispatch(self, batch):
        votes = self._interruption.votes() if self._interruption else [0.0]
        rate = self.learning_rate(self.step)
        try:
            return self.step_function(batch, number=self.step, learning_rate=rate, total_weight=float(self.batch_size), votes=votes)
        except tf.errors.ResourceExhaustedError as error:
            count = self._assembly.replicas.count
            each = max(1, self.batch_size // count // 2)
            name, size = ("batch_size_per_replica", each) if self._settings.batch_size_per_replica else ("global_batch_size", each * count)
            smaller = f'--gin_param="train.{name}={size}", or ' if self.batch_size > count else ""
            raise UserError(
                f"train.{name}",
                expected="a batch that fits into the device's memory",
                found=f"out of memory at {self.batch_size}",
                cure=f"{smaller}a smaller input.image_size or network",
            ) from error

    def settle(self) -> None:
        """Takes in the outcome of the last dispatched step: waits for it, counts it, stops after too many skipped ones."""
        if self._pending is None:
            return
        number, index, outcome = self._pending
        self._pending = None
        if self._interruption and self._assembly.replicas.workers > 1:
            self._interruption.count(outcome.votes.numpy())
        if bool(outcome.applied):
            self._meter.add(outcome.values.numpy())
            self._skipped = 0
            return
        self._skipped += 1
        table = self._dataset.table(TRAIN)
        cases = [table.case_id[i] for part in self._assembly.replicas.local(index) for i in part.numpy()]
        say("step %d skipped: loss or gradient not finite (%d in a row)", number, self._skipped)
        if self._skipped >= self._settings.max_skipped_steps:
            raise UserError(
                f"step {number}",
                expected=f"a finite loss within {self._settings.max_skipped_steps} steps",
                found=f"none; the cases of the last batch are {', '.join(cases)}",
                cure="look at these images and masks, or lower optimizer.learning_rate",
            )

    def _end_epoch(self, reporter: Reporter | SilentReporter, epoch: int) -> None:
        settings, rate = self._settings, self.learning_rate(self.step - 1)
        train = self._meter.results()
        due = self._validates and (epoch % settings.validate_every == 0 or epoch == settings.epochs)
        valid = self.validate() if due else None
        pictured = self._pictures.due(epoch, last=epoch == settings.epochs)
        panels = self._pictures.draw(epoch, between_batches=self._check) if pictured else {}
        facts = {"learning_rate": rate, "loss_scale": float(self.loss_scale.scale.numpy()), **self._throughput.facts(), **self._memory()}
        facts["seconds_in_checkpoints"] = self._clock.take_seconds()
        reporter.epoch(epoch, step=self.step, train=train, valid=valid, facts=facts)
        if panels:
            reporter.images(epoch, panels)
        if epoch % settings.curves_every == 0:
            reporter.curves()
        watched = {**train, **{f"val_{name}": value for name, value in (valid or {}).items()}}
        if settings.monitor in watched:
            self._watch(watched[settings.monitor], epoch)
        self._epochs_done = epoch
        self._meter.reset()
        self._throughput.reset()
        if self._clock.due(self.step, epoch_end=True):
            self._save()

    def _watch(self, value: float, epoch: int) -> None:
        if self._best.update(value, epoch=epoch):
            self._best_weights.write({"epoch": epoch, "step": self.step, "monitor": self._settings.monitor, "value": value})
        if self._plateau.update(value, learning_rate=self._experiment.optimizer.learning_rate):
            say("learning rate reduced to %.3g: %s did not improve", self.learning_rate(self.step), self._settings.monitor)

    def validate(self) -> dict[str, float]:
        """`loss`, every metric, and the report's scores of the validation split with the present weights."""
        report = evaluate_split(
            self._assembly.predictor,
            self._dataset,
            VALID,
            settings=self._experiment.evaluation,
            measures=self._assembly.measures,
            between_batches=self._check,
        )
        result = report.result()
        scores = {**result["metrics"], "loss": result["loss"], "mean_foreground_dice": result["mean_foreground_dice"]}
        for name, values in result["per_class"].items():
            scores[f"dice/{name}"] = values["dice"]
        return {name: float("nan") if value is None else value for name, value in scores.items()}

    def _check(self) -> None:
        for check in self._checks:
            check()

    def learning_rate(self, step: int) -> float:
        """The rate at `step`: schedule times plateau reduction."""
        factor = self._experiment.schedule.factor(step, epochs=self._settings.epochs, steps_per_epoch=self.steps_per_epoch)
        return self._experiment.optimizer.learning_rate * factor * self._plateau.factor

    def _check_padding(self) -> None:
        inputs, assembly = self._experiment.inputs, self._assembly
        if inputs.fit == "pad":
            self._dataset.refuse_larger(TRAIN, tuple(inputs.image_size), binding="input.image_size", otherwise="input.fit='random_crop'")
        if self._dataset.has(VALID) and inputs.evaluation_fit == "pad":
            self._dataset.refuse_larger(VALID, assembly.evaluation_size, binding="input.eval_image_size", otherwise="input.eval_fit='resize'")

    def _memory(self) -> dict[str, float]:
        facts = {"host_memory_gib": psutil.Process().memory_info().rss / 2**30}
        if self._assembly.replicas.on_gpu:
            facts["device_peak_memory_gib"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
        return facts

    def _save(self) -> None:
        self.settle()
        host = {
            "epochs_done": self._epochs_done, "meter": self._meter.state(), "best": self._best.state(),
            "plateau": self._plateau.state(), "skipped": self._skipped,
        }  # fmt: skip
        self._throughput.pause()
        with self._clock.saving():
            self._state.save(step=self.step, host=host)
        self._best_weights.checkpointed()
