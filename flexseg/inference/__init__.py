"""Inference: predicts masks with a trained model."""
