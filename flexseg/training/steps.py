"""Steps: the inner loop: makes optimizer, input pipeline and compiled step, and runs the training steps.

    steps = Steps(assembly, experiment, dataset, plateau=plateau, epoch_metrics=epoch_metrics)
    batches = steps.batches()
    while steps.global_step < last:
        steps.advance(batches, last=last)
    steps.wait_for_pending()

The host dispatches the next call before it waits for the outcome of the last.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from flexseg.console import say
from flexseg.data.dataset import BuiltDataset
from flexseg.data.ram_cache import RamCache
from flexseg.data.records import Records
from flexseg.data.stream import Stream
from flexseg.distribution.ema import ExponentialMovingAverage
from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.step import Outcome, TrainStep
from flexseg.errors import UserError
from flexseg.models.pretrained import encoder_of
from flexseg.objectives.epoch_metrics import EpochMetrics
from flexseg.runs.interruption import Interruption
from flexseg.training.assembly import Assembly
from flexseg.training.experiment import Experiment, global_batch_size
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.plateau import ReduceLROnPlateau
from flexseg.training.throughput import Throughput

TRAIN = "train"


class Steps:
    """Optimizer, loss scale, EMA, training stream and compiled step of a run.

    Args:
      assembly: model and step metrics.
      experiment: the settings.
      dataset: a built dataset.
      plateau: gives the learning rate factor of plateaus.
      epoch_metrics: accumulates the values of applied steps.
      data_service: addresses of tf.data service hosts; default: the input pipeline runs on this host.

    Attributes:
      global_step: number of steps done; index of the next step.
      skipped: consecutive skipped steps.
      base_rate: learning rate before schedule and plateau factor.

    Raises:
      UserError: settings that the batch size does not allow.
    """

    def __init__(
        self,
        assembly: Assembly,
        experiment: Experiment,
        dataset: BuiltDataset,
        *,
        plateau: ReduceLROnPlateau,
        epoch_metrics: EpochMetrics,
        data_service: Sequence[str] = (),
    ):
        self._assembly, self._experiment, self._dataset, self._plateau, self._epoch_metrics = assembly, experiment, dataset, plateau, epoch_metrics
        self._settings, self._replicas, optimizer = experiment.train, assembly.replicas, experiment.optimizer
        self.batch_size = global_batch_size(self._settings, self._replicas.count)
        self._data_service = data_service
        self._check_accumulation()
        self._check_statistics()
        if data_service and experiment.inputs.cache == "ram":
            raise UserError("--data_service", expected="input.cache = 'off' beside it, since the memory of other hosts is not filled", found="'ram'")
        stored = dataset.records(TRAIN)
        records: Records | RamCache = stored
        self.steps_per_epoch = self._settings.steps_per_epoch or -(-stored.count // self.batch_size)
        if experiment.inputs.cache == "ram":
            with dataset.naming_damage(TRAIN):
                records = RamCache(stored, sizes=dataset.sizes(TRAIN))
        self.stream = Stream(
            records,
            inputs=experiment.inputs,
            augment=experiment.augment,
            background=dataset.label_map.background,
            seed=self._settings.seed,
            global_batch_size=self.batch_size,
        )
        self.base_rate = optimizer.scaled_rate(self.batch_size)
        with self._replicas.scope():
            self.optimizer = optimizer.build()
            self.optimizer.build(assembly.model.trainable_variables)
            self.loss_scale = LossScale(
                dynamic=assembly.precision == "mixed_float16",
                growth_steps=self._settings.loss_scale_growth_steps,
                dtype="float64" if assembly.precision == "float64" else "float32",
            )
            momentum = optimizer.ema_momentum
            self.ema = ExponentialMovingAverage(self._replicas, assembly.model, momentum=momentum) if momentum is not None else None
        if self.ema:
            self.ema.restart()
        self.train_step = TrainStep(
            self._replicas,
            assembly.model,
            self.optimizer,
            self.loss_scale,
            make_forward_backward(
                assembly.model,
                assembly.step_metrics,
                preprocessing=self.stream.preprocessing,
                replicas=self._replicas.count,
                accumulation_steps=self._settings.accumulation_steps,
            ),
            clip=optimizer.clip(),
            weight_decay=optimizer.decay,
            ema=self.ema,
            encoder_variables=self._encoder_variables(),
            encoder_learning_rate=optimizer.encoder_learning_rate,
            seed=self._settings.seed,
            xla=assembly.xla,
        )
        self.global_step, self.skipped = 0, 0
        self.throughput = Throughput()
        self._pending: tuple[int, int, Outcome] | None = None
        self._interruption: Interruption | None = None

    def _encoder_variables(self) -> list[int]:
        """Indices of the encoder variables in `model.trainable_variables`; empty unless `optimizer.encoder_…` is bound."""
        if not self._experiment.optimizer.singles_out_encoder:
            return []
        model, encoder = self._assembly.model, encoder_of(self._assembly.model)
        own = {id(v) for v in encoder.trainable_variables} if encoder else set()
        if encoder is None or not own:
            raise UserError(
                "optimizer.encoder_rate_factor, .encoder_frozen_steps",
                expected="a model with an encoder to train (encoder_unet, fpn, deeplabv3_plus, efficient_unet), or neither of them",
                found=f"{model.name}, whose encoder is frozen or has no weights" if encoder else model.name,
                cure="leave them out, or train some of its layers: encoder_trainable_layers=None trains all" if encoder else "leave them out",
            )
        steps = self._settings.epochs * self.steps_per_epoch
        if (frozen := self._experiment.optimizer.encoder_frozen_steps) >= steps:
            raise UserError(
                "optimizer.encoder_frozen_steps",
                expected=f"fewer than the {steps} steps of the run",
                found=str(frozen),
                cure=f"wait for fewer; in place of it {encoder.source.owner}.encoder_trainable_layers = 0 freezes learnt weights for good",
            )
        return [index for index, variable in enumerate(model.trainable_variables) if id(variable) in own]

    def batches(self) -> Iterator[dict]:
        """The batches of this worker from `global_step` on."""
        replicas = self._replicas
        part = {"replicas": replicas.local_count, "workers": replicas.workers, "worker": replicas.worker}
        return replicas.distribute(self.stream.batches(self.global_step, **part, hosts=self._data_service))

    def restore(self, *, global_step: int, skipped: int) -> None:
        """Restores the counters of a checkpoint; the checkpoint manager restores the variables."""
        self.global_step, self.skipped = global_step, skipped

    def listen_to(self, interruption: Interruption) -> None:
        """Adds the stop requests of this worker to the all-reduce of every step."""
        self._interruption = interruption

    def learning_rate(self, step: int) -> float:
        """The learning rate at `step`: `base_rate`, which is scaled to the global batch, times schedule and plateau factor."""
        factor = self._experiment.schedule.factor(step, epochs=self._settings.epochs, steps_per_epoch=self.steps_per_epoch)
        return self.base_rate * factor * self._plateau.factor

    def rates(self, step: int) -> dict[str, float]:
        """{"learning_rate": …} at `step`, with "encoder_learning_rate" where the encoder has its own."""
        rate, optimizer = self.learning_rate(step), self._experiment.optimizer
        if not optimizer.singles_out_encoder:
            return {"learning_rate": rate}
        return {"learning_rate": rate, "encoder_learning_rate": float(optimizer.encoder_learning_rate(tf.constant(rate, tf.float64), step))}

    def advance(self, batches: Iterator[dict], *, last: int) -> None:
        """Dispatches the next `train.steps_per_execution` steps, at most up to step `last`, and waits for the previous call."""
        count = min(self._settings.steps_per_execution, last - self.global_step)
        began = time.perf_counter()
        with self._explaining(count):
            weight, stops = float(self.batch_size), self._interruption.stop_requests() if self._interruption else [0.0]
            if self._settings.steps_per_execution == 1:
                batch = next(batches)
                waited = time.perf_counter() - began
                rate = self.learning_rate(self.global_step)
                outcome = self.train_step(batch, global_step=self.global_step, learning_rate=rate, total_weight=weight, stop_requests=stops)
            else:  # always steps_per_execution rates: fewer in the last call of an epoch would retrace the function
                waited = None
                rates = [self.learning_rate(self.global_step + ahead) for ahead in range(self._settings.steps_per_execution)]
                outcome = self.train_step.run_steps(
                    batches, first=self.global_step, count=count, learning_rates=rates, total_weight=weight, stop_requests=stops
                )
        self.wait_for_pending()
        self._pending = (self.global_step, count, outcome)
        self.global_step += count
        self.throughput.add(examples=count * self.batch_size, waited=waited)

    def wait_for_pending(self) -> None:
        """Waits for the outcome of the last call, accumulates its values, and raises after too many skipped steps."""
        if self._pending is None:
            return
        first, count, outcome = self._pending
        self._pending = None
        values, applied, stop_requests = (part.numpy().reshape(count, -1) for part in outcome)
        if self._interruption and self._replicas.workers > 1:
            self._interruption.agree(stop_requests[0])
        for index in range(count):
            if applied[index]:
                self._epoch_metrics.add(values[index])
                self.skipped = 0
            else:
                self._skip(first + index)

    def _skip(self, step: int) -> None:
        self.skipped += 1
        say("step %d skipped: loss or gradient not finite (%d in a row)", step, self.skipped)
        if self.skipped >= self._settings.max_skipped_steps:
            cases = [self._dataset.table(TRAIN).case_id[index] for index in self.stream.indices(step)]
            raise UserError(
                f"step {step}",
                expected=f"a finite loss within {self._settings.max_skipped_steps} steps",
                found=f"none; the cases of the last batch are {', '.join(cases)}",
                cure="look at these images and masks, or lower optimizer.learning_rate",
            )

    @contextlib.contextmanager
    def _explaining(self, count: int) -> Iterator[None]:
        """Turns errors of the next `count` steps into UserErrors: damaged records, out of memory."""
        try:
            with self._dataset.naming_damage(TRAIN, self._read_ahead(count)):
                yield
        except tf.errors.ResourceExhaustedError as error:
            settings, replicas = self._settings, self._replicas.count
            each = max(1, self.batch_size // replicas // 2)
            name, size = ("batch_size_per_replica", each) if settings.batch_size_per_replica else ("global_batch_size", each * replicas)
            smaller = f'--gin_param="train.{name}={size}", or ' if self.batch_size > replicas else ""
            raise UserError(
                f"train.{name}",
                expected="a batch that fits into the device's memory",
                found=f"out of memory at {self.batch_size}",
                cure=f"{smaller}a smaller input.image_size or network",
            ) from error

    def _read_ahead(self, count: int) -> Callable[[], list[int]] | None:
        """The record indices of the next `count` steps; None (any record) with the tf.data service, whose errors overtake batches read earlier."""
        if self._data_service:
            return None
        return lambda: [index for ahead in range(count) for index in self.stream.indices(self.global_step + ahead)]

    def _check_statistics(self) -> None:
        """Refuses batch normalization over one value per channel: its training output is beta alone, and its moving variance is useless."""
        if self.batch_size // self._replicas.count // self._settings.accumulation_steps > 1:
            return
        for layer in self._assembly.layers():
            own = isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized
            if own and len(layer.input.shape) == 4 and layer.input.shape[1] * layer.input.shape[2] == 1:
                owner = self._assembly.model.name
                raise UserError(
                    "train.global_batch_size",
                    expected=f"two images a replica and micro-batch or more, since {layer.name} normalizes maps of one pixel over the batch",
                    found=f"{self.batch_size} on {self._replicas.count} replicas",
                    cure=f"--gin_param=\"{owner}.normalization='group'\", or 'sync_batch' on several replicas",
                )

    def _check_accumulation(self) -> None:
        count, per_replica = self._settings.accumulation_steps, self.batch_size // self._replicas.count
        if count == 1:
            return
        binding, one = "train.accumulation_steps", '--gin_param="train.accumulation_steps=1"'
        if per_replica % count:
            divisors = ", ".join(str(n) for n in range(1, per_replica + 1) if per_replica % n == 0)
            raise UserError(binding, expected=f"a divisor of the {per_replica} examples of a replica: {divisors}", found=str(count))
        if self._assembly.step_metrics.reduction == "batch":
            found = f"{count} with objective.reduction = 'batch', whose loss needs the whole batch at once"
            raise UserError(binding, expected="1, or objective.reduction = 'example'", found=found, cure=one)
        if self._assembly.synchronized:
            found = f"{count} with sync_batch normalization, whose statistics are those of the whole batch at once"
            raise UserError(binding, expected="1, or another normalization", found=found, cure=one)
