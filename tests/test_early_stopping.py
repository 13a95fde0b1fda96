"""Best, early stopping and plateau: Keras's callbacks, driven by hand with the same values, decide the same."""

import json
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from flexseg.errors import UserError
from flexseg.training.early_stopping import EarlyStopping
from flexseg.training.plateau import PlateauSettings, ReduceLROnPlateau

RATE = 0.01


def sequences():
    """Values that fall, rise, stand still and repeat; steps of 0.03 so that float32, in which Keras compares, orders them alike."""
    random = np.random.default_rng(5)
    return [(random.integers(0, 40, 60) * 0.03 + np.linspace(slope, 0, 60).round(2)).round(2).tolist() for slope in (2.0, 0.5, 0.0, -0.5)]


def fake_model():
    return SimpleNamespace(optimizer=keras.optimizers.SGD(RATE), stop_training=False)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [1, 2, 5])
def test_early_stopping_ends_where_keras_ends_and_keeps_the_same_best(mode, patience):
    for values in sequences():
        callback = keras.callbacks.EarlyStopping("value", patience=patience, mode=mode)
        callback.set_model(fake_model())
        callback.on_train_begin()
        best = EarlyStopping(mode=mode, patience=patience)
        for epoch, value in enumerate(values, start=1):
            improved = best.update(value, epoch=epoch)
            callback.on_epoch_end(epoch - 1, {"value": value})
            assert improved == (callback.best_epoch == epoch - 1)
            assert best.exhausted == callback.model.stop_training
            if best.exhausted:
                break
        assert (best.value, best.epoch) == (callback.best, callback.best_epoch + 1)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "settings",
    [
        {"reducer_patience": 1},
        {"reducer_patience": 3, "reducer_factor": 0.5},
        {"reducer_patience": 2, "min_delta": 0.1},
        {"reducer_patience": 1, "min_learning_rate": 1e-4},
    ],
)
def test_the_plateau_lowers_the_rate_when_keras_does_and_as_far(mode, settings):
    settings = PlateauSettings(learning_rate_reducer=True, **settings)
    for values in sequences():
        callback = keras.callbacks.ReduceLROnPlateau(
            "value", factor=settings.reducer_factor, patience=settings.reducer_patience, mode=mode, min_delta=settings.min_delta,
            min_lr=settings.min_learning_rate,
        )  # fmt: skip
        callback.set_model(fake_model())
        callback.on_train_begin()
        plateau = ReduceLROnPlateau(settings, mode=mode)
        rates = [float(callback.model.optimizer.learning_rate)]
        for epoch, value in enumerate(values):
            fell = plateau.update(value, learning_rate=RATE)
            callback.on_epoch_end(epoch, {"value": value})
            rates.append(float(callback.model.optimizer.learning_rate))
            assert fell == (rates[-1] < rates[-2])
            assert RATE * plateau.factor == pytest.approx(rates[-1], rel=1e-5)
        assert rates[-1] < RATE, "a plateau that never comes proves nothing"
        assert rates[-1] >= settings.min_learning_rate * (1 - 1e-6)


def test_a_plateau_that_is_switched_off_never_acts():
    plateau = ReduceLROnPlateau(PlateauSettings(reducer_patience=1), mode="min")
    assert not any(plateau.update(1.0, learning_rate=RATE) for _ in range(20))
    assert plateau.factor == 1.0


def test_patience_zero_never_ends_a_run():
    best = EarlyStopping(mode="min", patience=0)
    for epoch in range(1, 50):
        best.update(1.0, epoch=epoch)
    assert not best.exhausted


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_the_best_and_spoils_nothing(bad):
    for mode in ("min", "max"):
        best = EarlyStopping(mode=mode, patience=3)
        assert not best.update(bad, epoch=1)  # Keras would keep a first NaN as the best for ever
        assert best.update(0.5, epoch=2)
        assert not best.update(bad, epoch=3)
        assert (best.value, best.epoch, best.waited) == (0.5, 2, 1)


def test_an_undefined_value_counts_as_no_improvement_for_the_plateau():
    plateau = ReduceLROnPlateau(PlateauSettings(learning_rate_reducer=True, reducer_patience=2), mode="max")
    plateau.update(0.5, learning_rate=RATE)
    assert [plateau.update(math.nan, learning_rate=RATE) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_both_continue_from_their_state_through_json(cut):
    values = sequences()[2]
    settings = PlateauSettings(learning_rate_reducer=True, reducer_patience=2)

    def run(best, plateau, part):
        return [(best.update(v, epoch=i), plateau.update(v, learning_rate=RATE), best.exhausted, plateau.factor) for i, v in part]

    whole = run(EarlyStopping(mode="min", patience=9), ReduceLROnPlateau(settings, mode="min"), list(enumerate(values)))
    best, plateau = EarlyStopping(mode="min", patience=9), ReduceLROnPlateau(settings, mode="min")
    first = run(best, plateau, list(enumerate(values))[:cut])
    best_again, plateau_again = EarlyStopping(mode="min", patience=9), ReduceLROnPlateau(settings, mode="min")
    best_again.restore(json.loads(json.dumps(best.state(), allow_nan=False)))
    plateau_again.restore(json.loads(json.dumps(plateau.state(), allow_nan=False)))
    assert first + run(best_again, plateau_again, list(enumerate(values))[cut:]) == whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reducer_factor": 1.0}, "plateau.reducer_factor.*between 0 and 1.*found 1.0"),
        ({"reducer_factor": 0.0}, "plateau.reducer_factor"),
        ({"reducer_patience": 0}, "reducer_patience of at least 1"),
        ({"min_learning_rate": -1e-6}, "min_learning_rate"),
        ({"min_delta": -1.0}, "min_delta"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PlateauSettings(learning_rate_reducer=True, **settings)
