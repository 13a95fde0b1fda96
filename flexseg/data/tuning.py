"""tf.data without its tuning, whose end may wait for a minute.

    dataset = untuned(parallel(dataset, function).batch(8).prefetch(2))
    with untuned_devices():
        batches = iter(strategy.distribute_datasets_from_function(lambda _: dataset))

A tuned iterator has a thread that sleeps up to 60 s between two looks. Its end cancels that sleep and waits for the thread, but the call may be
lost: CancellationManager::StartCancel wakes the thread before IsCancelled() tells it why, so that it may sleep on (Model::OptimizeLoop in
tensorflow/core/framework/model.cc, TensorFlow 2.21).
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops


def parallel(dataset: tf.data.Dataset, function: Callable, *, elsewhere: bool = False) -> tf.data.Dataset:
    """`function` of every element, in order, on as many threads as this process has cores; a host elsewhere tunes that for its own."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE if elsewhere else len(os.sched_getaffinity(0)), deterministic=True)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset, whose iterators tune nothing."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextlib.contextmanager
def untuned_devices() -> Iterator[None]:
    """Distributed iterators made inside tune nothing where they hand batches to a device; no option reaches the datasets that they have for that."""
    made = multi_device_iterator_ops._create_device_dataset
    multi_device_iterator_ops._create_device_dataset = lambda *arguments: untuned(made(*arguments))
    try:
        yield
    finally:
        multi_device_iterator_ops._create_device_dataset = made
