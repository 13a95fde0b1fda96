"""Day one of a user of the reference system: every command copied from README or from what the one before printed, in one folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_import_config import TNBC

from flexseg.datasets.synthetic_nuclei.nuclei import synthesize

# Six source images, and what a generator derived from them: each at another place than its source.
NAMES = {
    "train": ("1001", "hflipped_1001", "1008", "rotated_90_1010", "1016", "barrdistorted_1001_0.3_0.3_1023", "vflipped_1024", "1033"),
    "valid": ("1024", "hflipped_1016"), "test": ("1010", "1040"),
}  # fmt: skip


def lay_out(place: Path) -> None:
    for split, stems in {**{f"dataset/TNBC/{split}": stems for split, stems in NAMES.items()}, "mini_test": ("1001", "1024")}.items():
        for stem in stems:
            sample = synthesize(seed=0, slide=int(stem[-2:]), index=int(stem[-2:]), image_size=(64, 64))
            mask = cv2.GaussianBlur(np.where(sample.mask == 1, 255, 0).astype(np.uint8), (3, 3), 0)  # greys, as interpolation leaves them
            for kind, pixels in (("images", sample.image[..., ::-1]), ("masks", cv2.merge([mask] * 3))):
                path = place / split / kind / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)


@pytest.mark.slow
def test_from_the_reference_s_config_to_predicted_masks(tmp_path):
    lay_out(tmp_path)
    small = {"image_width = 512": "image_width = 64", "image_height = 512": "image_height = 64", "base_kernels = (9,9)": "base_kernels = (3,3)",
             "num_layers = 8": "num_layers = 3", "base_filters = 16": "base_filters = 4", "epochs = 100": "epochs = 2"}  # fmt: skip
    text = TNBC.replace("reducer_patience", "reduer_patience")
    for old, new in small.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "train_eval_infer.config").write_text(text)

    def run(line: str, code: int = 0) -> str:
        words = shlex.split(line)
        assert words[0] == "flexseg"
        done = subprocess.run(
            [sys.executable, "-m", "flexseg.commands.dispatcher", *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code and "Traceback" not in done.stderr, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "InitializeLog" not in done.stderr, "TensorFlow's own lines tell nobody anything"
        return done.stdout + done.stderr

    said = run("flexseg import_config train_eval_infer.config --output=tnbc")
    assert "plateau.reducer_patience = 4; corrected" in said
    build, train, evaluate, predict = re.findall(r"^  (flexseg .*)$", said, re.MULTILINE)
    said = run("flexseg check --source=dataset/TNBC --gin_file=tnbc_build.gin --group_pattern='(\\d+)$'", code=1)
    assert "in two splits or more, a leak" in said and "split.resplit=True" in said
    assert (tmp_path / "check_TNBC" / "check.html").is_file()
    said = run(build)  # by name: every image counts as a group of its own, and that is said, with the flag to try
    (pattern,) = set(re.findall(r"--group_pattern='[^']*'", said))
    said = run(f"{build} {pattern} --overwrite", code=1)
    (cure,) = re.findall(r'--gin_param="split.resplit=True"', said)
    assert "next: flexseg train" in run(f"{build} {pattern} {cure} --overwrite")
    said = run(train)
    assert "epoch 2  step" in said and "pictures of the epochs" in said
    assert "mean foreground Dice" in run(evaluate)
    assert "2 masks written" in run(predict)
    run_directory = tmp_path / "runs" / "tnbc"
    assert len(list(run_directory.glob("epoch_change_infer/epoch_0002/*.png"))) == 2 and len(list((tmp_path / "masks").glob("*.png"))) == 2
