"""Reporter: what an epoch leaves behind: TensorBoard scalars, two CSV files, their curves, one line on the console.

Usage:
    reporter = Reporter(run, metrics=["dice_coef", "mean_foreground_dice"], leaked=False)
    reporter.start(epoch=3)                                # after a resume: later rows and events are cut
    reporter.epoch(4, step=1600, train={...}, valid={...}, facts={"learning_rate": 1e-3, ...})
"""

import time
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from flexseg.console import say
from flexseg.files.csv_log import CsvLog
from flexseg.pictures.curves import plot_curves
from flexseg.runs.directory import RunDirectory

_SECONDS_A_FILE = 2.0  # TensorBoard reads files in the order of their names, which hold the second


class Reporter:
    """Writes the history of a run.

    Args:
      run: the run directory.
      metrics: names followed on both splits: one pair of columns and one TensorBoard chart each.
      leaked: stamps the curves, because the dataset was built with `split.allow_leak`.
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
        """Before the first epoch after `epoch`: later rows are cut, and TensorBoard is told that events from then on count anew.

        Also where nothing is resumed: TensorBoard takes the first such mark for the beginning of the run, only later ones for a restart.
        """
        self._losses.truncate_after(epoch)
        self._scores.truncate_after(epoch)
        for split in ("train", "valid"):
            mark = event_pb2.Event(wall_time=time.time(), step=epoch + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
            # Into the file of the events themselves: of two files of one second TensorBoard would not know the order.
            tf.raw_ops.ImportEvent(writer=self._writer(split)._resource, event=mark.SerializeToString())

    def texts(self, **texts: str) -> None:
        """Shows texts (config, model summary) in TensorBoard, as they are."""
        if self._stamp:
            texts["LEAKED"] = "groups of this dataset stand in two splits: no score of this run is a score on unseen cases"
        with self._writer("train").as_default(step=0):
            for name, text in texts.items():
                tf.summary.text(name, "\n".join("    " + line for line in text.splitlines()))

    def epoch(self, epoch: int, *, step: int, train: Mapping[str, float], valid: Mapping[str, float] | None, facts: Mapping[str, float]) -> None:
        """Reports an epoch.

        Args:
          epoch: from 1; the x axis everywhere.
          step: steps done.
          train, valid: `loss` and every metric by name; more names of `valid` go to TensorBoard only. `valid` is None in an
            epoch without validation.
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
        if "input_wait_fraction" in facts:  # of steps that the host draws the batches for
            shown.append(f"input wait {100 * facts['input_wait_fraction']:.1f} %")
        say("epoch %d  step %d  %s", epoch, step, "  ".join(shown))

    def images(self, epoch: int, panels: Mapping[str, object]) -> None:
        """Shows pictures uint8 [h, w, 3] by case in TensorBoard."""
        with self._writer("valid").as_default(step=epoch):
            for case, panel in panels.items():
                tf.summary.image(f"epoch_change_infer/{case}", panel[None])
        self._writer("valid").flush()

    def curves(self) -> None:
        """Draws the curves of both CSV files."""
        for path in (self._run.losses_csv, self._run.metrics_csv):
            plot_curves(path, path.with_suffix(".png"), stamp=self._stamp)

    def new_files(self) -> None:
        """Later events go to other files: nothing can be appended to a file in a bucket, so that each should travel once."""
        now = time.time()
        if now - self._files_since > _SECONDS_A_FILE:
            self.close()
            self._writers, self._files_since = {}, now

    def close(self) -> None:
        """Flushes and closes the TensorBoard files."""
        for writer in self._writers.values():
            writer.close()


class SilentReporter:
    """The reporter of a worker that is not the chief: it takes what a Reporter takes, and leaves it."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        getattr(Reporter, name)
        return lambda *_, **__: None
