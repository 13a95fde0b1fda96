"""N replicas and one device are one training: gradients, weights, moving statistics, what crosses between replicas, and a NaN on any of them.

FlexUNet at 64 x 64 on the same global batch with unequal weights, dropout 0. In float64, where correct variants agree to rounding; one comparison
in float32. How the step deals with losses, clipping and the loss scale: test_step.py.
"""

import functools

import numpy as np
import pytest
from test_step import ADAM, MOMENTUM, SGD, rig
from toys import slow_unless

from flexseg.distribution.loss_scale import INITIAL
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope
from flexseg.training.schedules import Schedule

SIZE, BATCH = 64, 8
_random = np.random.default_rng(1)
IMAGES = _random.uniform(0, 255, (BATCH, SIZE, SIZE, 3))
MASKS = (IMAGES.mean(-1, keepdims=True) > 128).astype(np.uint8)
MASKS[0, :9] = 255
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25, 1.0, 1.0, 0.25, 3.0])
UNET = {"images": IMAGES, "masks": MASKS, "base_filters": 4, "num_layers": 2}
KEEP_GRADIENT = OptimizerSettings(name="SGD", learning_rate=1.0, momentum=MOMENTUM)  # after one step at rate 1 the momentum is minus the gradient


VARIANTS = [
    slow_unless(n == "sync_batch", n, xla) for n, xla in (("none", False), ("none", True), ("group", False), ("group", True), ("sync_batch", False))
]


@functools.cache
def reduced_gradients(count, policy, **options) -> dict[str, np.ndarray]:
    with precision_scope(policy):
        made = rig(count, KEEP_GRADIENT, policy=policy, **UNET, **options)
        assert bool(made.run(0, rate=1.0, weights=WEIGHTS).applied)
        return {v.path: -made.replicas.read(m) for v, m in zip(made.model.trainable_variables, made.optimizer.momentums, strict=True)}


def assert_alike(found, expected, bound):
    assert len(expected) > 10 and all(np.abs(gradient).max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        assert np.linalg.norm(found[name] - gradient) <= bound * np.linalg.norm(gradient), name


@pytest.mark.parametrize(("normalization", "xla"), VARIANTS)
def test_the_reduced_gradient_of_every_weight_is_that_of_one_device(normalization, xla):
    expected = reduced_gradients(1, "float64", normalization=normalization)
    for count in (2,) if xla else (2, 4):  # XLA compiles for each replica anew
        assert_alike(reduced_gradients(count, "float64", normalization=normalization, xla=xla), expected, 1e-10)


def test_in_float32_the_reduced_gradients_agree_to_its_rounding():
    assert_alike(reduced_gradients(2, "float32"), reduced_gradients(1, "float32"), 1e-5)


@functools.cache  # of one device, which many are compared with
def weights_after(count, settings, rates, *, xla=False, **options):
    """(trainable weights at the start, those after a step at each of `rates`)."""
    with precision_scope("float64"):
        made = rig(count, settings, xla=xla, **UNET, **options)
        start = [made.replicas.read(v) for v in made.model.trainable_variables]
        for number, rate in enumerate(rates):
            assert bool(made.run(number, rate=rate, weights=WEIGHTS).applied)
        return start, [made.replicas.read(v) for v in made.model.trainable_variables]


def assert_same_way(found, expected):
    """To 1e-10 where a weight moved by at least 1e-3: Adam turns a gradient that is nothing but rounding into a whole step."""
    start, end = expected
    moved = [np.abs(now - was) >= 1e-3 for now, was in zip(end, start, strict=True)]
    assert np.concatenate([m.ravel() for m in moved]).mean() > 0.3, "weights that do not move prove nothing"
    for mine, theirs, where in zip(found[1], end, moved, strict=True):
        assert np.abs(mine - theirs)[where].max(initial=0) <= 1e-10


@pytest.mark.parametrize("settings", [slow_unless(True, (SGD, 10)), slow_unless(False, (ADAM, 5))], ids=["SGD", "Adam"])
@pytest.mark.parametrize(
    ("normalization", "xla"),
    [slow_unless(n == "sync_batch", n, x) for n, x in (("none", False), ("none", True), ("group", False), ("group", True), ("sync_batch", False))],
)
def test_weights_after_some_steps_are_those_of_one_device(normalization, xla, settings):
    optimizer, steps = settings
    rates = (optimizer.learning_rate,) * steps
    expected = weights_after(1, optimizer, rates, normalization=normalization)
    for count in (2,) if xla or optimizer is ADAM else (2, 4):
        assert_same_way(weights_after(count, optimizer, rates, xla=xla, normalization=normalization), expected)


SCHEDULED = {
    "SGD, cosine": (OptimizerSettings(name="SGD", learning_rate=0.5, momentum=0.0), Schedule(name="cosine")),
    "Nesterov momentum, polynomial": (OptimizerSettings(name="SGD", learning_rate=0.1, nesterov=True), Schedule(name="polynomial")),
    "AdamW, warm-up": (OptimizerSettings(name="AdamW", learning_rate=0.02, weight_decay=0.05), Schedule(warmup_steps=3)),
    "Adam by value, cosine to a tenth": (OptimizerSettings(learning_rate=0.02, clipvalue=1e-3), Schedule(name="cosine", final_factor=0.1)),
    "SGD by norm, warm-up and cosine": (OptimizerSettings(name="SGD", learning_rate=0.2, clipnorm=0.05), Schedule(name="cosine", warmup_steps=2)),
    "SGD by global norm, polynomial": (OptimizerSettings(name="SGD", learning_rate=1.0, global_clipnorm=0.2), Schedule(name="polynomial", power=2.0)),
}


@pytest.mark.parametrize("combination", [slow_unless(name == "AdamW, warm-up", name) for name in SCHEDULED])
def test_every_optimizer_and_schedule_goes_where_one_device_goes(combination):
    settings, schedule = SCHEDULED[combination]
    rates = tuple(settings.learning_rate * schedule.factor(step, epochs=1, steps_per_epoch=6) for step in range(6))
    assert len(set(rates)) > 2
    alone, both = (weights_after(count, settings, rates, normalization="group") for count in (1, 2))
    assert_same_way(both, alone)


@pytest.mark.parametrize("normalization", ["none", pytest.param("group", marks=pytest.mark.slow)])
def test_a_loss_of_the_whole_global_batch_has_the_gradients_of_one_device(normalization):
    whole = {"normalization": normalization, "loss": "dice_loss", "reduction": "batch", "num_classes": 1}
    expected = reduced_gradients(1, "float64", **whole)
    for count in (2, 4):
        assert_alike(reduced_gradients(count, "float64", **whole), expected, 1e-10)


@pytest.mark.parametrize("normalization", [slow_unless(name in ("batch", "sync_batch"), name) for name in ("none", "batch", "sync_batch", "group")])
@pytest.mark.parametrize("policy", ["float32", slow_unless(False, "mixed_bfloat16"), slow_unless(False, "mixed_float16")])
def test_after_any_step_every_replica_holds_the_same(policy, normalization):
    with precision_scope(policy):
        count = 4 if policy == "float32" else 2
        made = rig(count, ADAM, policy=policy, normalization=normalization, dropout_rate=0.1, **UNET)
        for number in range(3):
            made.run(number, rate=1e-2, weights=WEIGHTS)
        first = made.everything(0)
        for replica in range(1, count):
            for one, other in zip(first, made.everything(replica), strict=True):
                np.testing.assert_array_equal(one, other)


def collectives(graph) -> list[int]:
    """The number of elements that each collective of a graph, functions that it calls included, carries for the first replica."""
    found = []
    definition = graph.as_graph_def(add_shapes=True)
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        for node in nodes:
            if node.op.startswith(("CollectiveReduce", "NcclAllReduce")):
                shape = node.attr["_output_shapes"].list.shape[0]
                found.append(int(np.prod([d.size for d in shape.dim])))
    return found


@pytest.mark.parametrize("xla", [False, True])
def test_gradients_moving_statistics_and_values_cross_once_and_nothing_else_does(xla):
    with precision_scope("float32"):
        made = rig(2, ADAM, policy="float32", normalization="batch", xla=xla, **UNET)
        made.run(0, rate=1e-2, weights=WEIGHTS)
        graph = made.step._compiled._list_all_concrete_functions()[0].graph
        state = sum(int(np.prod(v.shape)) for v in made.model.non_trainable_variables if not v.path.endswith("seed_generator_state"))
        once = sum(int(np.prod(v.shape)) for v in made.model.trainable_variables) + state + 3  # the loss, the weight, a vote
        assert sum(collectives(graph)) == 2 * once, "each of the two replicas sends each number once"


@pytest.mark.parametrize(
    ("normalization", "policy", "xla"),  # every pair of settings
    [slow_unless((n, p, x) == ("none", "float32", True), n, p, x) for n, p, x in (
        ("none", "float32", True), ("batch", "float32", False), ("none", "mixed_bfloat16", False), ("batch", "mixed_bfloat16", True),
        ("none", "mixed_float16", True), ("batch", "mixed_float16", False),
    )],
)  # fmt: skip
def test_a_nan_on_any_replica_changes_nothing_and_training_goes_on(normalization, policy, xla):
    count = 2 if xla else 4
    with precision_scope(policy):
        made = rig(count, ADAM, policy=policy, normalization=normalization, dropout_rate=0.1, xla=xla, **UNET)
        assert bool(made.run(0, rate=1e-2, weights=WEIGHTS).applied)
        before = made.everything()
        for number, replica in enumerate(range(count), start=1):
            images = IMAGES.copy()
            images[BATCH // count * replica + 1, 5, 7, 1] = np.nan
            assert not bool(made.run(number, images, rate=1e-2, weights=WEIGHTS).applied)
            assert made.replicas.read(made.scale.scale) == (INITIAL / 2**number if policy == "mixed_float16" else 1)
            for each in range(count):
                for was, now in zip(before, made.everything(each), strict=True):
                    np.testing.assert_array_equal(now, was)
        assert bool(made.run(9, rate=1e-2, weights=WEIGHTS).applied)
        for each in range(1, count):
            for one, other in zip(made.everything(0), made.everything(each), strict=True):
                np.testing.assert_array_equal(one, other)
        assert all(np.isfinite(v).all() for v in made.everything())
