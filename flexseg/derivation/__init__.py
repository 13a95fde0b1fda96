"""`flexseg derive`: offline augmentation of training cases, written as files. Needs no TensorFlow."""
