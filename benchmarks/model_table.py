"""Every network in its small settings: what it costs, how fast it trains, and what 300 steps make of it.

    python benchmarks/model_table.py --work=table --tnbc=TNBC_FOLDER                       # all rows that are not there yet
    python benchmarks/model_table.py --work=table --tnbc=TNBC_FOLDER --rows=u2net,fpn      # some of them
    python benchmarks/model_table.py --work=table                                          # only prints what is there

256 × 256 pixels, two classes, four images a step. Costs, speed in float32 and bfloat16, and peak memory: `flexseg models`. Dice: the same 300 steps
(default.gin with the network's small file; Adam at 1e-3, augmentation on, precision 'auto', no choice by validation) on synthetic_nuclei, scored on
its two test slides, and on patients 1 to 4 of TNBC, scored on patient 5: mean foreground Dice of `flexseg evaluate --checkpoint=last`. A row is
kept in WORK/rows once it is whole; a training run that was cut off goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

from flexseg.files.atomic import replace_file

STEPS, PRECISIONS = 300, ("float32", "mixed_bfloat16")
SETTINGS = (
    "input.image_size=(256,256)", "input.fit='resize'", "train.global_batch_size=4", "train.steps_per_epoch=100", f"train.epochs={STEPS // 100}",
    "train.validate_every=1000", "train.monitor='loss'", "plateau.learning_rate_reducer=False",
    "epoch_change_infer.num_infer_images=0",
)  # fmt: skip


def flexseg(*words: str) -> str:
    """Runs a command; what it printed."""
    done = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"flexseg {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def build(work: Path, name: str, *words: str) -> None:
    """A dataset, unless it is there."""
    if not (work / "data" / name).exists():
        flexseg("build", f"--data_dir={work}/data", *words)


def dice(work: Path, row: str, dataset: str) -> float:
    """Trains for STEPS steps and scores the last weights on the test split."""
    run = work / "runs" / f"{row}_{dataset}"
    params = [f"--gin_param={setting}" for setting in SETTINGS]
    files = ["--gin_file=default.gin", f"--gin_file=models/{row}_small.gin"]
    flexseg("train", *files, f"--dataset={dataset}", f"--data_dir={work}/data", f"--workdir={run}", *params)
    flexseg("evaluate", f"--workdir={run}", "--split=test", "--checkpoint=last")
    return json.loads((run / "evaluation" / "test" / "report.json").read_text())["mean_foreground_dice"]


def measured(work: Path, row: str) -> dict:
    """One row."""
    words = [f"--gin_file=models/{row}_small.gin", "--image_size=256", "--batch_size=4", "--json"]
    found = {precision: json.loads(flexseg("models", *words, f"--precision={precision}")) for precision in PRECISIONS}
    return {"costs": found, "dice": {dataset: dice(work, row, dataset) for dataset in ("synthetic_nuclei", "tnbc")}}


def table(rows: dict[str, dict]) -> str:
    """Markdown; the last column is the time a GMAC takes in float32, as a multiple of FlexUNet's."""
    lines = [
        "| network | parameters | GMAC | peak memory | images/s float32 | bfloat16 | Dice synthetic | Dice TNBC 5 | time per GMAC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def per_gmac(row: dict) -> float:
        return 1 / (row["images_per_second"] * row["macs"])

    base = rows["flex_unet"]["costs"]["float32"] if "flex_unet" in rows else None
    for name, row in rows.items():
        full, half = (row["costs"][precision] for precision in PRECISIONS)
        ratio = f"{per_gmac(full) / per_gmac(base):.2f}" if base else ""
        cells = [name, f"{full['parameters']:,}", f"{full['macs'] / 1e9:.2f}", f"{full['memory_bytes'] / 2**30:.2f} GiB"]
        cells += [f"{speed['images_per_second']:.1f}" for speed in (full, half)]
        cells += [f"{row['dice']['synthetic_nuclei']:.3f}", f"{row['dice']['tnbc']:.3f}", ratio]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tnbc", type=Path, help="the folder of Slide_01, GT_01 and so on")
    parser.add_argument("--rows", default="", help="names of models/*_small.gin, by commas")
    given = parser.parse_args()
    small = sorted(path.name.removesuffix("_small.gin") for path in (Path(str(resources.files("flexseg.configs"))) / "models").glob("*_small.gin"))
    (given.work / "rows").mkdir(parents=True, exist_ok=True)
    if given.tnbc:
        build(given.work, "synthetic_nuclei", "--dataset=synthetic_nuclei", "--gin_param=synthetic_nuclei.image_size=(256,256)")
        patients = ["--gin_param=split.train_groups=(1,2,3,4)", "--gin_param=split.test_groups=(5,)"]
        build(given.work, "tnbc", "--dataset=tnbc", f"--source={given.tnbc}", *patients)
        for row in given.rows.split(",") if given.rows else small:
            path = given.work / "rows" / f"{row}.json"
            if not path.exists():
                replace_file(path, json.dumps(measured(given.work, row), indent=1).encode())
                print(row, flush=True)
    rows = {row: given.work / "rows" / f"{row}.json" for row in small}
    print(table({row: json.loads(path.read_text()) for row, path in rows.items() if path.exists()}))


if __name__ == "__main__":
    main()
