"""Synchronous data-parallel training: strategies, replicas and the training step. The only package that uses `tf.distribute`."""
