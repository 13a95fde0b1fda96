"""`flexseg derive`: offline variants of training cases, written as files. No TensorFlow."""
