"""Draws masks, legends and curves with NumPy, Pillow and matplotlib. Needs no TensorFlow."""
