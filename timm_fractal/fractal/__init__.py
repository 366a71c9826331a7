"""Iterated function systems and their images."""
