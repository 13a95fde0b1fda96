"""`flexseg import_config`: a configuration of the reference system becomes gin files. No TensorFlow."""
