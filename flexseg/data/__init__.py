"""Batches as a pure function of seed and number: the one decode, the one resize, augmentation. TensorFlow ops only inside the graph."""
