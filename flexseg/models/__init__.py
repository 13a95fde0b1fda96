"""Architectures: one builder function a file, raw pixels in, logits out; `build_model` holds each to that contract."""
