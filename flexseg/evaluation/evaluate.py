"""Evaluates a split: scores every case once, at its own size.

    report = evaluate_split(predictor, dataset, "valid", settings=EvaluationSettings(), step_metrics=step_metrics)
    report.result()["mean_foreground_dice"]

Validation during training and `flexseg evaluate` use the same function.
"""

import dataclasses
from collections.abc import Callable

import gin
import numpy as np

from flexseg.console import progress
from flexseg.data.dataset import BuiltDataset
from flexseg.data.evaluation_batches import evaluation_batches
from flexseg.errors import UserError
from flexseg.evaluation.report import Report
from flexseg.evaluation.scores import CaseCounts, count_case
from flexseg.inference.predictor import Predictor
from flexseg.objectives.epoch_metrics import EpochMetrics
from flexseg.objectives.step_metrics import StepMetrics


@gin.configurable("eval")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of evaluation: the bindings `eval.*`.

    Attributes:
      batch_size: examples per step over all replicas; the reference's batch-dependent metrics depend on it.
    """

    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError("eval.batch_size", expected="at least 1", found=str(self.batch_size))


def refuse_larger_cases(predictor: Predictor, dataset: BuiltDataset, split: str) -> None:
    """Raises a UserError that names the case if one of `split` is larger than the predictor takes."""
    splitter = predictor.splitter
    if splitter.largest is not None:
        dataset.refuse_larger(split, splitter.largest, binding="input.eval_image_size", otherwise=splitter.instead)


def evaluate_split(
    predictor: Predictor,
    dataset: BuiltDataset,
    split: str,
    *,
    settings: EvaluationSettings,
    step_metrics: StepMetrics,
    loss_name: str = "loss",
    between_batches: Callable[[], None] = lambda: None,
) -> Report:
    """Evaluates a split. All workers must call it.

    Args:
      predictor: a predictor made with `step_metrics`.
      dataset: a built dataset.
      split: a split that is not empty.
      settings: the batch size.
      step_metrics: loss and metrics.
      loss_name: name of the loss in `evaluation.csv`.
      between_batches: called after each batch; an exception from it ends the evaluation.

    Returns:
      The report, with loss and metrics.

    Raises:
      UserError: no such split, an image larger than the padded input, a damaged record, or out of memory.
    """
    refuse_larger_cases(predictor, dataset, split)
    table, records = dataset.table(split), dataset.records(split)
    sizes = list(zip(table.height, table.width, strict=True))
    replicas = predictor.replicas
    batches = evaluation_batches(
        records,
        sizes=sizes,
        preprocessing=predictor.preprocessing,
        splitter=predictor.splitter,
        batch_size=settings.batch_size,
        replicas=replicas.local_count,
        workers=replicas.workers,
        worker=replicas.worker,
    )
    numbers = np.zeros([len(table), CaseCounts.length(dataset.label_map.num_classes)], np.int64)  # each worker fills the rows of its cases
    report, epoch_metrics = Report(dataset.label_map, leaked=dataset.manifest.leaked), EpochMetrics(step_metrics)
    with progress(f"evaluating {split}", total=len(table), unit="case") as bar, dataset.naming_damage(split):
        for values, cases in predictor.predict_batches(replicas.distribute(batches), sizes):
            epoch_metrics.add(values)
            for index, prediction in cases:
                numbers[index] = count_case(records.truth(index), prediction, dataset.label_map.num_classes).numbers()
            bar.update(count=len(cases))
            between_batches()
    for case_id, group_id, row in zip(table.case_id, table.group_id, replicas.sum_over_workers(numbers), strict=True):
        report.add_counts(case_id, group_id, CaseCounts.from_numbers(row))
    results = epoch_metrics.results()
    notes = [metric.note for metric in step_metrics.metrics if metric.note]
    report.fill(loss=results.pop("loss"), metrics=results, loss_name=loss_name, notes=notes)
    return report
