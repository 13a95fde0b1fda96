"""Examples made by Apache Beam are those made in process: the same records, byte for byte, and the same manifest."""

import importlib
import json

import pytest
import tensorflow as tf
import toys

from flexseg.commands import build
from flexseg.errors import UserError

apache_beam = pytest.importorskip("apache_beam", reason="needs the extra [beam]")


def records(dataset):
    return {
        split: [record for name in sorted(table.files) for record in tf.data.TFRecordDataset(str(dataset.directory / name)).as_numpy_iterator()]
        for split, table in dataset.manifest.splits.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["image_mask_folder", "synthetic_nuclei"])
def test_the_same_records_and_the_same_manifest(tmp_path, dataset):
    if dataset == "image_mask_folder":
        names = [f"{split}/{split}{number:02d}" for split, count in (("train", 23), ("valid", 5), ("test", 4)) for number in range(count)]
        arguments = {"source": toys.write_folder(tmp_path / "source", names), "num_shards": 3}
    else:
        params = ["synthetic_nuclei.slides=(3,1,1)", "synthetic_nuclei.images_per_slide=4", "synthetic_nuclei.image_size=(32,32)"]
        arguments = {"source": None, "gin_param": params, "num_shards": 3}
    here = toys.build(tmp_path / "here", dataset=dataset, name="one", **arguments)
    there = toys.build(
        tmp_path / "there", dataset=dataset, name="one", beam_runner="DirectRunner", beam_option=["--direct_num_workers=2"], **arguments
    )
    assert records(there) == records(here) and sum(map(len, records(here).values())) > 15
    of_here, of_there = (json.loads((built.directory / "manifest.json").read_text()) for built in (here, there))
    for content in (of_here, of_there):  # where the records lie may differ
        for table in content["splits"].values():
            for column in ("files", "shard", "offset"):
                del table[column]
    assert of_there == of_here
    for split in there.manifest.splits:
        for number in range(len(there.manifest.splits[split])):
            there.records(split).example(number)


def test_an_option_without_a_runner_is_refused(tmp_path):
    with pytest.raises(UserError, match="--beam_runner beside it"):
        build.run(dataset="synthetic_nuclei", data_dir=str(tmp_path), beam_option=["--direct_num_workers=2"])


@pytest.mark.slow
def test_a_file_that_changes_before_a_worker_reads_it_ends_the_build_in_one_line(tmp_path, monkeypatch):
    module = importlib.import_module("flexseg.datasets.image_mask_folder.image_mask_folder_dataset_builder")
    source = toys.write_folder(tmp_path / "source", {f"train/c{i}": (16, 16) for i in range(4)})
    take = module.take_inventory

    def exchanging(*arguments, **keywords):
        inventory = take(*arguments, **keywords)
        toys.repaint(source / "train/masks/c2.png", 128)
        return inventory

    monkeypatch.setattr(module, "take_inventory", exchanging)
    with pytest.raises(
        UserError, match=r"c2.png: expected the file that was checked, found another one: it changed while it was built. To fix it: build again"
    ):
        build.run(name="one", source=str(source), data_dir=str(tmp_path / "data"), beam_runner="DirectRunner")
    assert not list((tmp_path / "data").rglob("manifest.json"))
