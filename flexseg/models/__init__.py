"""Networks: one function a file, raw pixels in, logits out. `build_model` checks that contract."""
