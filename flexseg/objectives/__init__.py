"""Losses and metrics: pure TensorFlow functions of logits and masks, without variables or a strategy."""

from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss, combined
from flexseg.objectives.losses import loss_named, loss_names, register_loss
from flexseg.objectives.metric import Metric
from flexseg.objectives.metrics import metric_named, metric_names, register_metric
from flexseg.objectives.objective import Objective
from flexseg.objectives.pixels import Pixels

__all__ = [
    "Head",
    "Loss",
    "Metric",
    "Objective",
    "Pixels",
    "combined",
    "loss_named",
    "loss_names",
    "metric_named",
    "metric_names",
    "register_loss",
    "register_metric",
]
