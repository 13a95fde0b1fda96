"""The operations of augmentation: one class each, with its probability, its ranges and its place in the order."""
