"""Shared by all tests: four logical CPU devices, so that in-process tests may run on up to four replicas; gin's state put back."""

import gin
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)


@pytest.fixture(autouse=True)
def _fresh_gin():
    yield
    gin.clear_config()
