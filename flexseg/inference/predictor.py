"""Predictor: from cases to class ids at their own sizes, for evaluation, epoch pictures and `flexseg predict`.

    predictor = Predictor(replicas, model, network, preprocessing=preprocessing, splitter=splitter, xla=False)
    ids = predictor.predict([image])[0]                                   # uint8 [h, w, C] -> uint8 [h, w]
    for values, cases in predictor.predict_batches(batches, sizes): ...   # batches of `evaluation_batches`

Every command uses it, so a case has the same mask everywhere.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from flexseg.data.evaluation_batches import deal
from flexseg.data.preprocessing import Preprocessing
from flexseg.distribution.replicas import Replicas
from flexseg.distribution.step import EvaluationStep, sum_over_replicas
from flexseg.errors import UserError
from flexseg.inference.splitter import Merger, Splitter
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.objectives.supervision import main_output


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Logits [..., K] -> probabilities float32 [..., K]: softmax, or sigmoid for K = 1."""
    logits = tf.cast(logits, tf.float32)
    return tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def class_ids(scores: tf.Tensor) -> np.ndarray:
    """Probabilities [h, w, K] -> class ids uint8 [h, w]: argmax, or a threshold of 0.5 for K = 1."""
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0.5).numpy().astype(np.uint8)
    return tf.argmax(scores, axis=-1).numpy().astype(np.uint8)


class Predictor:
    """Inference with one model over all replicas.

    Args:
      replicas: the devices.
      model: gives the weights.
      network: the same architecture with the evaluation input size, often `model` itself; only its graph is used.
      preprocessing: gamma, sharpening and channel order.
      splitter: the inputs that a case gives; its size is that of `network`.
      xla: compile the forward pass with XLA.
      step_metrics: loss and metrics to compute in `step`; None without ground truth.
    """

    def __init__(
        self,
        replicas: Replicas,
        model: keras.Model,
        network: keras.Model,
        *,
        preprocessing: Preprocessing,
        splitter: Splitter,
        xla: bool,
        step_metrics: StepMetrics | None = None,
    ):
        self.replicas, self.preprocessing, self.splitter = replicas, preprocessing, splitter
        self.channels = network.inputs[0].shape[-1]
        self._network, self._step_metrics = network, step_metrics
        self._step = EvaluationStep(replicas, model, self._forward, xla=xla)

    def _forward(self, weights: list[tf.Tensor], state: list[tf.Tensor], batch: dict) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        batch = self.preprocessing.on_device(batch, dtype=self._network.inputs[0].dtype)
        outputs, _ = self._network.stateless_call(weights, state, batch["image"], training=False)
        output = {name: batch[name] for name in ("index", "weight")} | {"probabilities": probabilities(main_output(outputs))}
        if self._step_metrics is None:
            return tf.zeros([1]), output
        summed = sum_over_replicas if self.replicas.count > 1 else tf.identity
        _, values = self._step_metrics(
            outputs, batch["mask"], batch["weight"], total_weight=None, replicas=self.replicas.count, sum_over_replicas=summed
        )
        return values, output

    def step(self, batch: dict) -> tuple[tf.Tensor, list[tuple[int, tf.Tensor]]]:
        """Runs the forward pass on a distributed batch.

        Returns:
          (values float [n] of `StepMetrics` over the global batch, [(index of the case, probabilities float32 [H, W, K])] of this worker's inputs,
          without padding).

        Raises:
          UserError: out of memory.
        """
        try:
            values, outputs = self._step(batch)
        except tf.errors.ResourceExhaustedError as error:
            examples = len(self.replicas.local(batch["weight"])[0])
            smaller = '--gin_param="eval.batch_size=1", or ' if examples > 1 else ""
            raise UserError(
                "eval.batch_size" if examples > 1 else "input.eval_image_size",
                expected="a batch that fits into the device's memory",
                found=f"out of memory with {examples} of {self.splitter.size[0]} × {self.splitter.size[1]} pixels on a device",
                cure=f"{smaller}a smaller input.eval_image_size",
            ) from error
        inputs = []
        for output in outputs:
            index, weight = output["index"].numpy(), output["weight"].numpy()
            inputs += [(int(index[i]), output["probabilities"][i]) for i in np.flatnonzero(weight)]
        return values, inputs

    def predict_batches(self, batches: Iterable[dict], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[tf.Tensor, list[tuple[int, np.ndarray]]]]:
        """Predicts the cases of a pass.

        Args:
          batches: distributed batches, in which the inputs of a case come in order (`evaluation_batches`).
          sizes: own (height, width) of each case, by index.

        Yields:
          For each batch (values of `step`, [(index, class ids uint8 [h, w])] of this worker's cases whose last input was in it).
        """
        begun: dict[int, tuple[Merger, int]] = {}  # of cases whose last input has not come: (merger, inputs to come)
        for batch in batches:
            values, outputs = self.step(batch)
            cases = []
            for index, scores in outputs:
                fresh = index not in begun
                merger, left = (self.splitter.merger(sizes[index]), self.splitter.count(sizes[index])) if fresh else begun.pop(index)
                with tf.device("CPU:0"):
                    merger.aggregate(scores)
                    if left == 1:
                        cases.append((index, class_ids(merger.finalize())))
                if left > 1:
                    begun[index] = merger, left - 1
            yield values, cases

    def predict(self, images: Sequence[np.ndarray], *, between_batches: Callable[[], None] = lambda: None) -> list[np.ndarray]:
        """Predicts images uint8 [h, w, C] of any sizes, an input per replica at a time; returns class ids uint8 [h, w].

        Padded inputs limit the size of an image (`check_size`). `between_batches` is called before each batch and may raise.
        """
        sizes, replicas = [image.shape[:2] for image in images], self.replicas
        found = [np.zeros(size, np.int32) for size in sizes]
        counts = [self.splitter.count(size) for size in sizes]
        dealt = deal(counts, lanes=replicas.workers)  # a worker has all inputs of a case, and spreads them over its replicas
        steps = max(-(-sum(counts[case] for case in cases) // replicas.local_count) for cases in dealt)
        inputs = (item for case in dealt[replicas.worker] for item in self._inputs(case, images[case]))

        def batches() -> Iterator[dict]:
            first = replicas.worker * replicas.local_count
            for _ in range(steps):
                between_batches()
                batch = {"image": np.zeros([replicas.count, *self.splitter.size, self.channels], np.uint8)}
                batch |= {"weight": np.zeros(replicas.count, np.float32), "index": np.zeros(replicas.count, np.int64)}
                for row, (case, image) in enumerate(itertools.islice(inputs, replicas.local_count), first):
                    batch["image"][row], batch["weight"][row], batch["index"][row] = image, 1.0, case
                if self._step_metrics is not None:
                    batch["mask"] = np.zeros([replicas.count, *self.splitter.size, 1], np.uint8)
                yield replicas.shard(batch)

        for _, cases in self.predict_batches(batches(), sizes):
            for index, ids in cases:
                found[index] += ids
        return [replicas.sum_over_workers(ids).astype(np.uint8) for ids in found]  # each worker has predicted some

    def check_size(self, size: tuple[int, int], *, where: object) -> None:
        """Raises a UserError, naming `where`, if an image of `size` = (height, width) is larger than the splitter takes."""
        largest = self.splitter.largest
        if largest is not None and (size[0] > largest[0] or size[1] > largest[1]):
            raise UserError(
                where,
                expected=f"at most {largest[0]} × {largest[1]} pixels, the evaluation input of a run that pads",
                found=f"{size[0]} × {size[1]}",
                cure=f'--gin_param="{self.splitter.instead}", or a larger input.eval_image_size',
            )

    def _inputs(self, case: int, image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(case, uint8 [H, W, C]) of every input of an image."""
        with tf.device("CPU:0"):
            adjusted, no_mask = self.preprocessing.adjust(tf.constant(image)), tf.zeros([*image.shape[:2], 1], tf.uint8)
        for part in range(self.splitter.count(image.shape[:2])):
            with tf.device("CPU:0"):
                pixels, _ = self.splitter.split(adjusted, no_mask, tf.constant(part, tf.int64))
            yield case, pixels.numpy()
