"""Frozen features of captions and images: encoded once, cached in Arrow files, memory-mapped."""
