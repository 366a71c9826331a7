"""Utilities for all subpackages: files, devices, compilation, random streams, messages, lazy imports."""
