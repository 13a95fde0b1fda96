"""What draws: panels of masks, legends, curves. NumPy, Pillow, matplotlib; no TensorFlow."""
