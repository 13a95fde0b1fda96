"""Gin: parse, refuse what is unsafe, check types, translate old names, find bindings without effect."""
