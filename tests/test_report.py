"""Scores, intervals and the Report, against an example worked by hand.

Usage:
    case a, group p            case b, group p            case c, group q
    truth     prediction       truth     prediction       truth     prediction
    0 0 1 1   0 1 1 1          1 1 0 0   1 1 0 0          2 2 0 0   2 0 0 0
    0 0 1 x   0 0 2 1          0 0 0 0   0 0 0 0          2 2 0 0   2 0 0 0        x = 255, ignored

    a  background tp 3 fp 0 fn 1, Dice 6/7;  nucleus tp 2 fp 1 fn 1, Dice 4/6, IoU 2/4;  stroma tp 0 fp 1 fn 0, Dice 0
    b  background Dice 1;                    nucleus tp 2, Dice 1, IoU 1;                stroma in neither: out
    c  background tp 4 fp 2 fn 0, Dice 8/10; nucleus in neither: out;                    stroma tp 2 fp 0 fn 2, Dice 4/6, IoU 2/4

    group p  nucleus (2/3 + 1)/2 = 5/6, stroma 0 (a alone)  ->  5/12        group q  stroma 2/3 alone  ->  2/3
    mean_foreground_dice = (5/12 + 8/12)/2 = 13/24              mean_foreground_iou = ((3/4 + 0)/2 + 1/2)/2 = 7/16
"""

import csv
import json
import random
import sys
from subprocess import run

import numpy as np
import pytest

from flexseg.evaluation.intervals import bootstrap_groups
from flexseg.evaluation.report import DEFINITIONS, Report
from flexseg.evaluation.scores import count_case
from flexseg.files.label_map import LabelMap
from flexseg.objectives import metric_named

COLORS = {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2}
NAMES = ("background", "nucleus", "stroma")
CASES = {
    "a": ("p", [[0, 0, 1, 1], [0, 0, 1, 255]], [[0, 1, 1, 1], [0, 0, 2, 1]]),
    "b": ("p", [[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]]),
    "c": ("q", [[2, 2, 0, 0], [2, 2, 0, 0]], [[2, 0, 0, 0], [2, 0, 0, 0]]),
}


def label_map(**settings):
    return LabelMap(**{"rgb_map": COLORS, "class_names": NAMES, "background": 0} | settings)


def mask(rows):
    return np.array(rows, np.uint8)


def worked_report(order="abc", **settings):
    report = Report(label_map(), **settings)
    for case_id in order:
        group_id, truth, prediction = CASES[case_id]
        report.add(case_id, group_id, mask(truth), mask(prediction))
    return report


def test_counts_and_scores_of_a_case_are_those_worked_by_hand():
    counts = count_case(mask(CASES["a"][1]), mask(CASES["a"][2]), 3)
    assert (counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()) == ([3, 2, 0], [0, 1, 1], [1, 1, 0])
    assert (counts.height, counts.width, counts.ignored) == (2, 4, 1)
    np.testing.assert_allclose(counts.dice, [6 / 7, 4 / 6, 0])
    np.testing.assert_allclose(counts.iou, [3 / 4, 2 / 4, 0])
    np.testing.assert_allclose(counts.precision, [1, 2 / 3, 0])
    np.testing.assert_allclose(counts.recall, [3 / 4, 2 / 3, np.nan])


def test_counts_agree_with_a_plain_count_on_random_masks():
    random_numbers = np.random.default_rng(0)
    truth = random_numbers.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (33, 47))
    prediction = random_numbers.integers(0, 5, (33, 47)).astype(np.uint8)
    counts = count_case(truth, prediction, 5)
    for k in range(5):
        valid = truth != 255
        assert counts.tp[k] == np.sum(valid & (truth == k) & (prediction == k))
        assert counts.fp[k] == np.sum(valid & (truth != k) & (prediction == k))
        assert counts.fn[k] == np.sum(valid & (truth == k) & (prediction != k))


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        # (dice, iou, precision, recall) of class 1 in a case of two pixels; None is out of the mean
        ([0, 0], [0, 0], (None, None, None, None)),
        ([0, 0], [0, 1], (0, 0, 0, None)),
        ([0, 1], [0, 0], (0, 0, None, 0)),
        ([0, 1], [1, 0], (0, 0, 0, 0)),
        ([1, 1], [0, 1], (2 / 3, 1 / 2, 1, 1 / 2)),
        ([0, 255], [0, 1], (None, None, None, None)),
        ([255, 255], [1, 1], (None, None, None, None)),
    ],
)
def test_empty_truth_and_empty_prediction_score_as_defined(truth, prediction, expected):
    counts = count_case(mask([truth]), mask([prediction]), 2)
    scores = (counts.dice[1], counts.iou[1], counts.precision[1], counts.recall[1])
    np.testing.assert_allclose(scores, [np.nan if value is None else value for value in expected])
    assert counts.true_empty[1] == (expected[0] is None)


def test_what_is_predicted_under_ignored_pixels_changes_nothing():
    truth, prediction = mask(CASES["a"][1]), mask(CASES["a"][2])
    before = count_case(truth, prediction, 3)
    for value in (0, 2, 200, 255):
        prediction[truth == 255] = value
        after = count_case(truth, prediction, 3)
        assert all((getattr(before, name) == getattr(after, name)).all() for name in ("tp", "fp", "fn"))


def test_255_classes_can_be_counted():
    every = np.arange(255, dtype=np.uint8)[None]
    assert count_case(every, every, 255).tp.tolist() == [1] * 255


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (mask([[0, 3]]), mask([[0, 1]]), "truth holds class 3"),
        (mask([[0, 1]]), mask([[0, 7]]), "prediction holds class 7"),
        (mask([[0, 1]]), mask([[0, 255]]), "prediction holds class 255"),
        (mask([[0, 1]]), mask([[0], [1]]), "own size"),
        (mask([[0, 1]]), np.zeros((1, 2), np.int64), "uint8"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused_with_the_case(truth, prediction, message):
    with pytest.raises(ValueError, match=f"case slide_7.*{message}"):
        Report(label_map()).add("slide_7", None, truth, prediction)


def test_the_report_of_the_worked_example():
    report = worked_report()
    report.fill(loss_name="bce", loss=0.25, metrics={"accuracy": np.float32(0.5)})
    result = report.result()
    assert result["mean_foreground_dice"] == pytest.approx(13 / 24)
    assert result["mean_foreground_iou"] == pytest.approx(7 / 16)
    assert (result["loss"], result["metrics"]) == (0.25, {"accuracy": 0.5})
    assert (result["cases"], result["groups"], result["ignored_pixels"]) == (3, 2, 1)
    background, nucleus, stroma = (result["per_class"][name] for name in NAMES)
    assert background["dice"] == pytest.approx((6 / 7 + 1 + 8 / 10) / 3)
    assert nucleus["dice"] == pytest.approx(5 / 6)
    assert nucleus["pooled_dice"] == pytest.approx(8 / 10)  # tp 4, fp 1, fn 1
    assert (nucleus["cases"], nucleus["true_empty"], nucleus["pixels"]) == (2, 1, 5)
    assert stroma["dice"] == pytest.approx(1 / 3)
    assert stroma["iou"] == pytest.approx(1 / 4)
    assert stroma["precision"] == pytest.approx(1 / 2)  # a: 0 of 1, c: 2 of 2
    assert stroma["recall"] == pytest.approx(1 / 2)  # c alone: in a there is nothing to be recalled
    assert stroma["pooled_dice"] == pytest.approx(4 / 7)  # tp 2, fp 1, fn 2
    p, q = result["per_group"]["p"], result["per_group"]["q"]
    assert (p["cases"], q["cases"]) == (2, 1)
    assert p["mean_foreground_dice"] == pytest.approx(5 / 12)
    assert p["dice"] == pytest.approx({"background": 13 / 14, "nucleus": 5 / 6, "stroma": 0})
    assert q["mean_foreground_dice"] == pytest.approx(2 / 3)
    assert q["dice"]["nucleus"] is None


def test_without_a_background_class_all_classes_are_foreground():
    report = Report(label_map(background=None, class_names=("soil", "nucleus", "stroma")))
    for case_id, (group_id, truth, prediction) in CASES.items():
        report.add(case_id, group_id, mask(truth), mask(prediction))
    result = report.result()
    p, q = (13 / 14 + 5 / 6 + 0) / 3, (8 / 10 + 2 / 3) / 2
    assert result["mean_foreground_dice"] == pytest.approx((p + q) / 2)
    assert result["background"] is None
    assert any("every class is foreground" in sentence for sentence in result["definitions"])


def test_the_order_of_cases_changes_no_bit():
    random_numbers = np.random.default_rng(1)
    cases = [(f"case_{i}", f"group_{i % 4}", *random_numbers.integers(0, 3, (2, 9, 7)).astype(np.uint8)) for i in range(20)]
    results = []
    for seed in range(3):
        random.Random(seed).shuffle(cases)
        report = Report(label_map())
        for case in cases:
            report.add(*case)
        results.append(json.dumps(report.result()))
    assert results[0] == results[1] == results[2]


def test_two_reports_added_are_the_report_of_all_cases():
    joined = worked_report("b") + worked_report("ca")
    assert joined.result() == worked_report("abc").result()
    assert len(joined) == 3
    assert (worked_report("b", leaked=True) + worked_report("c")).leaked


def test_a_case_counted_twice_is_refused():
    with pytest.raises(ValueError, match="case b is counted twice"):
        worked_report("ab") + worked_report("bc")


def test_reports_of_other_classes_are_not_added():
    with pytest.raises(ValueError, match="differ"):
        worked_report() + Report(label_map(class_names=("background", "nucleus", "other")))


def test_a_class_that_no_case_holds_is_null_and_enters_no_mean():
    report = worked_report("b")
    result = report.result()
    assert result["per_class"]["stroma"]["dice"] is None
    assert result["per_class"]["stroma"]["pooled_dice"] is None
    assert result["per_class"]["stroma"]["true_empty"] == 1
    assert result["mean_foreground_dice"] == 1


def test_an_empty_report_is_all_null():
    result = Report(label_map()).result()
    assert result["mean_foreground_dice"] is None
    assert result["cases"] == 0
    assert "class" in Report(label_map()).table()


def test_an_interval_needs_three_groups_and_says_so():
    result = worked_report().result()
    assert result["mean_foreground_dice_interval"] is None
    assert result["interval_missing_because"] == "2 groups: an interval needs 3 at least"


def test_the_interval_is_that_of_a_plain_bootstrap_over_groups():
    random_numbers = np.random.default_rng(2)
    report = Report(label_map())
    for i in range(40):
        truth = random_numbers.integers(0, 3, (16, 16)).astype(np.uint8)
        wrong = random_numbers.random((16, 16)) < (i % 8) / 10
        report.add(f"case_{i}", f"group_{i % 8}", truth, np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8))
    result = report.result()
    groups = np.array([row["mean_foreground_dice"] for row in result["per_group"].values()])
    plain = [random_numbers.choice(groups, len(groups)).mean() for _ in range(20000)]
    low, high = result["mean_foreground_dice_interval"]
    assert low < result["mean_foreground_dice"] < high
    np.testing.assert_allclose([low, high], np.percentile(plain, [2.5, 97.5]), atol=0.02)
    nucleus = result["per_class"]["nucleus"]
    assert nucleus["dice_interval"][0] < nucleus["dice"] < nucleus["dice_interval"][1]
    assert report.result() == result


def test_groups_that_say_nothing_leave_the_interval_to_the_others():
    numerators, denominators = np.array([[0.5], [0.7], [0.9], [0.0]]), np.array([[1.0], [1.0], [1.0], [0.0]])
    low, high = bootstrap_groups(numerators, denominators)[0]
    assert 0.5 <= low < 0.7 < high <= 0.9


def test_a_class_of_two_groups_has_no_interval_among_many():
    report = Report(label_map())
    for i in range(6):
        truth = mask([[0, 1, 2 if i < 2 else 0]])
        report.add(f"case_{i}", f"group_{i}", truth, truth)
    per_class = report.result()["per_class"]
    assert per_class["stroma"]["dice_interval"] is None
    assert per_class["nucleus"]["dice_interval"] == [1, 1]


def test_cases_without_a_group_are_groups_of_their_own_and_the_report_says_it():
    report = Report(label_map())
    for case_id, (_, truth, prediction) in CASES.items():
        report.add(case_id, None, mask(truth), mask(prediction))
    result = report.result()
    assert list(result["per_group"]) == ["a", "b", "c"]
    assert result["mean_foreground_dice"] == pytest.approx((1 / 3 + 1 + 2 / 3) / 3)
    assert any("every case is its own group" in sentence for sentence in result["definitions"])


def test_the_written_files_hold_the_same_numbers(tmp_path):
    report = worked_report()
    report.fill(loss_name="bce_dice_loss", loss=0.123456, metrics={"dice_coef": 0.98765})
    result = report.write(tmp_path / "evaluation" / "test")
    folder = tmp_path / "evaluation" / "test"
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.csv", "per_case.csv", "report.json"]
    assert json.loads((folder / "report.json").read_text()) == result
    assert (folder / "evaluation.csv").read_text() == "bce_dice_loss,0.1235\ndice_coef,0.9877\n"
    rows = list(csv.DictReader((folder / "per_case.csv").open(newline="")))
    assert [(row["case_id"], row["group_id"], row["height"], row["width"]) for row in rows] == [
        ("a", "p", "2", "4"),
        ("b", "p", "2", "4"),
        ("c", "q", "2", "4"),
    ]
    assert (rows[0]["nucleus.dice"], rows[0]["stroma.recall"], rows[0]["mean_foreground_dice"]) == ("0.666667", "", "0.333333")
    assert rows[2]["stroma.iou"] == "0.500000"
    assert "LEAKED" not in "".join(path.read_text() for path in folder.iterdir())


def test_a_loss_that_is_not_finite_is_null_in_json(tmp_path):
    report = worked_report()
    report.fill(loss=float("nan"), metrics={"accuracy": float("inf")})
    report.write(tmp_path)
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert (written["loss"], written["metrics"]) == (None, {"accuracy": None})


def test_everything_written_on_a_leaked_dataset_is_stamped(tmp_path):
    report = worked_report(leaked=True)
    report.fill(loss=0.5, metrics={})
    result = report.write(tmp_path)
    assert result["leaked"] is True
    assert result["definitions"][0].startswith("LEAKED: ")
    assert report.table().startswith("LEAKED: ")
    assert (tmp_path / "evaluation.csv").read_text() == "loss,0.5000\nLEAKED,1\n"
    assert all(row["LEAKED"] == "1" for row in csv.DictReader((tmp_path / "per_case.csv").open(newline="")))


def test_a_metric_that_is_no_dice_comes_with_a_sentence():
    report = worked_report()
    note = metric_named("dice_coef_multiclass", num_classes=2, background=0).note
    report.fill(loss=0.5, metrics={"dice_coef_multiclass": 0.9, "accuracy": 0.8}, notes=[note])
    assert "dice_coef_multiclass is no Dice" in report.table()
    assert any(sentence.startswith("dice_coef_multiclass is no Dice") for sentence in report.result()["definitions"])


def test_one_name_has_one_number_everywhere(tmp_path):
    report = worked_report()
    report.fill(loss=0.5, metrics={"mean_foreground_dice": 0.123, "dice_coef": 0.9})
    result = report.write(tmp_path)
    assert result["metrics"] == {"mean_foreground_dice": pytest.approx(13 / 24), "dice_coef": 0.9}
    assert (tmp_path / "evaluation.csv").read_text() == "loss,0.5000\nmean_foreground_dice,0.5417\ndice_coef,0.9000\n"
    assert "0.1230" not in report.table()


def test_the_definitions_are_carried_word_for_word():
    definitions = worked_report().result()["definitions"]
    assert definitions[: len(DEFINITIONS)] == list(DEFINITIONS)
    assert "mean_foreground_dice is the mean of that over the groups" in definitions[5]
    assert definitions[6].startswith("Intervals: 95% bootstrap percentiles over groups (2000 resamples, seed 0). None is given where fewer than 3")
    assert definitions[7] == "The background class 'background' is listed per class and enters no foreground mean."


def test_the_table_has_a_row_for_every_class_in_aligned_columns():
    lines = worked_report().table().splitlines()
    assert lines[0].split() == ["class", "Dice", "IoU", "precision", "recall", "pooled", "Dice", "cases", "true", "empty"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[2].startswith("background *")
    assert lines[3].split() == ["nucleus", "0.8333", "0.7500", "0.8333", "0.8333", "0.8000", "2", "1"]
    assert lines[5].startswith("mean foreground Dice  0.5417")


def test_reports_need_no_tensorflow():
    code = "import sys; from flexseg.evaluation import report; sys.exit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0
