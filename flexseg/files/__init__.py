"""Files as users bring them: pixels, label maps, cases, splits, checks; NumPy, Pillow, OpenCV and SciPy, never TensorFlow."""
