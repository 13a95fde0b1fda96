"""A run on disk and how it survives: layout, checkpoints, best weights, lock, bucket, signals, watchdog. Knows no loss and no model."""
