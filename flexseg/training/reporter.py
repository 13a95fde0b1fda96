"""Reporter: logs every epoch to TensorBoard, two CSV files, their curves and the console.

    reporter = Reporter(run, metrics=["dice_coef", "mean_foreground_dice"], leaked=False)
    reporter.start(epoch=3)                                # removes rows of later epochs, after a resume
    reporter.epoch(4, step=1600, train={...}, valid={...}, facts={"learning_rate": 1e-3, ...})

Only the chief has a Reporter. It does not decide when to validate or plot.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from flexseg.console import say
from flexseg.files.csv_log import CsvLog
from flexseg.pictures.curves import plot_curves
from flexseg.runs.directory import RunDirectory

_SECONDS_A_FILE = 2.0  # TensorBoard orders event files by name, which holds the second


class Reporter:
    """Writes the logs of a run.

    Args:
      run: the run directory.
      metrics: names of the metrics; each has two CSV columns (train, val) and a TensorBoard chart.
      leaked: whether the dataset was built with `split.allow_leak`; stamps the curves.
    """

    def __init__(self, run: RunDirectory, *, metrics: Sequence[str], leaked: bool):
        self._run, self._metrics, self._stamp = run, tuple(metrics), "LEAKED" if leaked else None
        self._losses = CsvLog(run.losses_csv, ("epoch", "loss", "val_loss"))
        self._scores = CsvLog(run.metrics_csv, ("epoch", *(column for name in metrics for column in (name, f"val_{name}"))))
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._files_since = time.time()

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(str(self._run.tensorboard / split))
        return self._writers[split]

    def start(self, *, epoch: int) -> None:
        """Starts logging after `epoch`: removes rows of later epochs and writes a TensorBoard SessionLog.START, which purges later events.

        A fresh run needs it too: TensorBoard takes the first START for the beginning of the run, and only later ones for a restart.
        """
        self._losses.truncate_after(epoch)
        self._scores.truncate_after(epoch)
        for split in ("train", "valid"):
            mark = event_pb2.Event(wall_time=time.time(), step=epoch + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
            # In the file of the scalars: TensorBoard cannot order two files of the same second.
            tf.raw_ops.ImportEvent(writer=self._writer(split)._resource, event=mark.SerializeToString())

    def texts(self, **texts: str) -> None:
        """Writes preformatted text summaries (config, model summary)."""
        if self._stamp:
            texts["LEAKED"] = "groups of this dataset stand in two splits: no score of this run is a score on unseen cases"
        with self._writer("train").as_default(step=0):
            for name, text in texts.items():
                tf.summary.text(name, "\n".join("    " + line for line in text.splitlines()))

    def epoch(self, epoch: int, *, step: int, train: Mapping[str, float], valid: Mapping[str, float] | None, facts: Mapping[str, float]) -> None:
        """Logs an epoch.

        Args:
          epoch: from 1; the x axis of all charts.
          step: global step at the end of the epoch.
          train, valid: {"loss": …, metric name: …}; further names of `valid` go to TensorBoard only. `valid` is None without validation.
          facts: learning rate, throughput and so on, for TensorBoard.
        """
        valid = valid or {}
        self._losses.append({"epoch": epoch, "loss": train["loss"], "val_loss": valid.get("loss")})
        self._scores.append(
            {"epoch": epoch} | {name: train[name] for name in self._metrics} | {f"val_{name}": valid.get(name) for name in self._metrics}
        )
        for split, values in (("train", {**train, **facts}), ("valid", valid)):
            with self._writer(split).as_default(step=epoch):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
            self._writer(split).flush()
        shown = [f"{name} {value:.4f}" for name, value in train.items()] + [f"val_{name} {valid[name]:.4f}" for name in train if name in valid]
        shown.append(f"lr {facts['learning_rate']:.3g}")
        if "encoder_learning_rate" in facts:
            shown.append(f"lr of the encoder {facts['encoder_learning_rate']:.3g}")
        if "images_per_second" in facts:
            shown.append(f"{facts['images_per_second']:.1f} images/s")
        if "input_wait_fraction" in facts:  # absent with steps_per_execution > 1
            shown.append(f"input wait {100 * facts['input_wait_fraction']:.1f} %")
        say("epoch %d  step %d  %s", epoch, step, "  ".join(shown))

    def images(self, epoch: int, panels: Mapping[str, np.ndarray]) -> None:
        """Writes image summaries; `panels` is {case: uint8 [h, w, 3]}."""
        with self._writer("valid").as_default(step=epoch):
            for case, panel in panels.items():
                tf.summary.image(f"epoch_change_infer/{case}", panel[None])
        self._writer("valid").flush()

    def curves(self) -> None:
        """Plots the learning curves of both CSV files."""
        for path in (self._run.losses_csv, self._run.metrics_csv):
            plot_curves(path, path.with_suffix(".png"), stamp=self._stamp)

    def new_files(self) -> None:
        """Starts new event files: a bucket cannot append to a file, so every file should be uploaded once."""
        now = time.time()
        if now - self._files_since > _SECONDS_A_FILE:
            self.close()
            self._writers, self._files_since = {}, now

    def close(self) -> None:
        """Flushes and closes the event files."""
        for writer in self._writers.values():
            writer.close()


class SilentReporter:
    """A Reporter that writes nothing, for workers other than the chief."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        getattr(Reporter, name)
        return lambda *_, **__: None
