"""CsvLog: rows that survive a crash, and a file that a resumed run continues as if nothing had happened."""

import numpy as np
import pytest

from flexseg.errors import UserError
from flexseg.files.csv_log import CsvLog, read_rows

COLUMNS = ("epoch", "loss", "val_loss")


def row(epoch):
    return {"epoch": epoch, "loss": np.float32(1 / 3 / epoch), "val_loss": 1e-7 * epoch}


def test_a_new_log_has_its_header_and_makes_its_folder(tmp_path):
    CsvLog(tmp_path / "run" / "train_losses.csv", COLUMNS)
    assert (tmp_path / "run" / "train_losses.csv").read_text() == "epoch,loss,val_loss\n"


def test_rows_are_on_the_disk_when_append_returns(tmp_path):
    log = CsvLog(tmp_path / "a.csv", COLUMNS)
    log.append({"epoch": 1, "loss": 0.5, "val_loss": None})
    log.append({"epoch": 2, "loss": float("nan")})
    log.append({"epoch": np.int64(3), "loss": 123456.789, "val_loss": 0.25})
    assert (tmp_path / "a.csv").read_text() == "epoch,loss,val_loss\n1,0.5,\n2,nan,\n3,123456.789,0.25\n"


def test_a_float32_survives_to_the_bit(tmp_path):
    values = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    log = CsvLog(tmp_path / "a.csv", ("epoch", "loss"))
    for epoch, value in enumerate(values, start=1):
        log.append({"epoch": epoch, "loss": value})
    _, rows = read_rows(tmp_path / "a.csv")
    np.testing.assert_array_equal(np.array([float(cells[1]) for cells in rows], np.float32), values)


def test_an_interrupted_log_ends_as_an_uninterrupted_one(tmp_path):
    whole, broken = CsvLog(tmp_path / "whole.csv", COLUMNS), CsvLog(tmp_path / "broken.csv", COLUMNS)
    for epoch in range(1, 8):
        whole.append(row(epoch))
    for epoch in range(1, 6):
        broken.append(row(epoch))
    resumed = CsvLog(tmp_path / "broken.csv", COLUMNS)
    assert resumed.last_epoch == 5
    assert resumed.truncate_after(3) == 2
    for epoch in range(4, 8):
        resumed.append(row(epoch))
    assert (tmp_path / "broken.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_truncating_after_zero_leaves_the_header_and_after_the_last_epoch_everything(tmp_path):
    log = CsvLog(tmp_path / "a.csv", COLUMNS)
    log.append(row(1))
    assert log.truncate_after(1) == 0
    assert log.truncate_after(0) == 1
    assert (tmp_path / "a.csv").read_text() == "epoch,loss,val_loss\n"
    log.append(row(1))


@pytest.mark.parametrize("torn", ["3", "3,0.1", "3,0.1,0.2"])
def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path, torn):
    log = CsvLog(tmp_path / "a.csv", COLUMNS)
    for epoch in (1, 2):
        log.append(row(epoch))
    before = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "a.csv").write_bytes(before + torn.encode())
    CsvLog(tmp_path / "a.csv", COLUMNS)
    assert (tmp_path / "a.csv").read_bytes() == before


def test_another_header_is_refused_and_the_file_left_alone(tmp_path):
    (tmp_path / "a.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match="expected the header epoch,loss,val_loss, found epoch,loss"):
        CsvLog(tmp_path / "a.csv", COLUMNS)
    assert (tmp_path / "a.csv").read_text() == "epoch,loss\n1,0.5\n"


def test_an_unknown_column_and_an_epoch_out_of_order_are_refused(tmp_path):
    log = CsvLog(tmp_path / "a.csv", COLUMNS)
    log.append(row(2))
    with pytest.raises(ValueError, match="no column dice"):
        log.append({"epoch": 3, "dice": 0.5})
    with pytest.raises(ValueError, match="epoch 2 does not follow"):
        log.append(row(2))


def test_a_full_disk_leaves_the_old_rows(tmp_path, monkeypatch):
    log = CsvLog(tmp_path / "a.csv", COLUMNS)
    for epoch in (1, 2):
        log.append(row(epoch))
    before = (tmp_path / "a.csv").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        log.truncate_after(1)
    assert (tmp_path / "a.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_reference_systems_files_are_read(tmp_path):
    (tmp_path / "losses.csv").write_text("epoch, loss, val_loss\n0, 0.1234, 0.2345\n")
    (tmp_path / "metrics.csv").write_text("epoch,dice_coef,val_dice_coef,\n0,0.1,0.2,\n")
    assert read_rows(tmp_path / "losses.csv") == (COLUMNS, [["0", "0.1234", "0.2345"]])
    assert read_rows(tmp_path / "metrics.csv") == (("epoch", "dice_coef", "val_dice_coef"), [["0", "0.1", "0.2"]])
