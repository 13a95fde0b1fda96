"""`flexseg import_config`: converts a configuration of the reference system to gin files. Needs no TensorFlow."""
