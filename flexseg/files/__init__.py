"""Reads and checks source files: images, masks, volumes, label maps, cases, splits. Needs no TensorFlow."""
