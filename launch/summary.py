"""Print the final table of the quickstart: loss, Dice and IoU of every class, images per second.

    python -m flexseg.launch.summary runs/quickstart

Reads evaluation/test/report.json, environment.json and the epoch lines of log.txt. Images per second are the median over all epochs, of training
steps without validation and images.
"""

import json
import re
import statistics
import sys

from flexseg.runs.layout import RunLayout


def summary(run: RunLayout) -> str:
    """The table of a run that was evaluated on its test split."""
    report = json.loads((run.evaluation / "test" / "report.json").read_text())
    environment = json.loads(run.environment.read_text())
    speeds = [float(found) for found in re.findall(r" epoch \d+ .*? ([\d.]+) images/s", run.log.read_text())]
    width = max(17, *(len(name) for name in report["per_class"]))
    lines = [f"{report['cases']} test images of {report['groups']} groups that were not trained on", f"{'':{width}}  {'Dice':>6}  {'IoU':>6}"]
    lines += [f"{name:{width}}  {_score(scores['dice'])}  {_score(scores['iou'])}" for name, scores in report["per_class"].items()]
    lines.append(f"{'loss':{width}}  {_score(report['loss'])}")
    speed = f"{statistics.median(speeds):6.1f}" if speeds else f"{'none':>6}"
    lines.append(f"{'images per second':{width}}  {speed}  in training, {environment['devices']}, {environment['precision']}")
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return f"{'none':>6}" if value is None else f"{value:6.4f}"


if __name__ == "__main__":
    print(summary(RunLayout(sys.argv[1])))
