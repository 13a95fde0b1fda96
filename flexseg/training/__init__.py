"""Training: how a run learns, from settings to checkpoints: Trainer, Steps, optimizers, schedules, reports."""
