"""The learning rate of every step, against formulas worked by hand and Keras's own schedules."""

import keras
import numpy as np
import pytest

from flexseg.errors import UserError
from flexseg.training.schedules import Schedule

EPOCHS, STEPS = 5, 20


def factors(schedule, count=EPOCHS * STEPS, *, epochs=EPOCHS):
    return np.array([schedule.factor(step, epochs=epochs, steps_per_epoch=STEPS) for step in range(count)])


def test_a_constant_schedule_is_one():
    np.testing.assert_array_equal(factors(Schedule()), 1.0)


def test_a_warm_up_rises_linearly_from_the_first_step_and_ends_at_one():
    rising = factors(Schedule(warmup_steps=4), 6)
    np.testing.assert_allclose(rising, [0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_that_of_keras(final):
    keras_schedule = keras.optimizers.schedules.CosineDecay(1.0, EPOCHS * STEPS, alpha=final)
    expected = [float(keras_schedule(step)) for step in range(EPOCHS * STEPS + 5)]
    np.testing.assert_allclose(factors(Schedule(name="cosine", final_factor=final), EPOCHS * STEPS + 5), expected, atol=1e-6)


@pytest.mark.parametrize(("power", "final"), [(0.9, 0.0), (2.0, 0.05)])
def test_polynomial_is_that_of_keras(power, final):
    keras_schedule = keras.optimizers.schedules.PolynomialDecay(1.0, EPOCHS * STEPS, end_learning_rate=final, power=power)
    expected = [float(keras_schedule(step)) for step in range(EPOCHS * STEPS + 5)]
    found = factors(Schedule(name="polynomial", power=power, final_factor=final), EPOCHS * STEPS + 5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_the_fall_begins_at_one_after_the_warm_up_and_ends_with_the_run(name):
    found = factors(Schedule(name=name, warmup_steps=10), EPOCHS * STEPS + 1)
    assert found[9] == found[10] == 1.0
    assert (np.diff(found[10:]) < 0).all()
    assert found[-1] == 0.0 < found[-2]


def test_a_warm_up_longer_than_the_run_divides_by_nothing():
    found = factors(Schedule(name="cosine", warmup_steps=EPOCHS * STEPS + 7), EPOCHS * STEPS + 12)
    assert ((found >= 0) & (found <= 1)).all()


def test_with_schedule_epochs_a_longer_run_has_the_same_rates():
    schedule = Schedule(name="cosine", schedule_epochs=EPOCHS)
    np.testing.assert_array_equal(factors(schedule), factors(schedule, epochs=2 * EPOCHS))
    assert not schedule.depends_on_epochs and not Schedule().depends_on_epochs
    assert Schedule(name="cosine").depends_on_epochs
    assert factors(Schedule(name="cosine"))[50] != factors(Schedule(name="cosine"), epochs=2 * EPOCHS)[50]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": -1}, "schedule.warmup_steps.*found -1"),
        ({"name": "cosine", "schedule_epochs": 0}, "schedule.schedule_epochs.*at least 1"),
        ({"name": "cosine", "final_factor": 1.5}, "final_factor.*from 0 to 1.*found 1.5"),
        ({"name": "polynomial", "power": 0.0}, "power above 0"),
        ({"schedule_epochs": 3}, "'cosine' or 'polynomial' beside schedule_epochs"),
        ({"final_factor": 0.1}, "found 'constant'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Schedule(**settings)
