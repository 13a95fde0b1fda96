"""Turns off tf.data autotuning, because an autotuned iterator may take a minute to close.

    dataset = untuned(parallel(dataset, function).batch(8).prefetch(2))
    with untuned_devices():
        batches = iter(strategy.distribute_datasets_from_function(lambda _: dataset))

An autotuned iterator has a thread that sleeps up to 60 s. Closing the iterator cancels the sleep and joins the thread, but the wake-up can be lost:
CancellationManager::StartCancel wakes the thread before IsCancelled() is true, so it may sleep again (Model::OptimizeLoop in
tensorflow/core/framework/model.cc, TensorFlow 2.21).
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops


def parallel(dataset: tf.data.Dataset, function: Callable, *, elsewhere: bool = False) -> tf.data.Dataset:
    """Maps `function` in parallel, in order, with one call per core of this process; `elsewhere` (tf.data service) uses AUTOTUNE."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE if elsewhere else len(os.sched_getaffinity(0)), deterministic=True)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset with autotuning off."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextlib.contextmanager
def untuned_devices() -> Iterator[None]:
    """Turns autotuning off in the device datasets of distributed iterators made inside; `tf.data.Options` does not reach them."""
    made = multi_device_iterator_ops._create_device_dataset
    multi_device_iterator_ops._create_device_dataset = lambda *arguments: untuned(made(*arguments))
    try:
        yield
    finally:
        multi_device_iterator_ops._create_device_dataset = made
