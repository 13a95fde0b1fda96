"""Parses and checks gin configurations: types, unsafe statements, renamed bindings, bindings without effect."""
