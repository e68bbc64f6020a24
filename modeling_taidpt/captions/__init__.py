"""Captions: tables of classes, which classes a caption names, templates, and captions from files."""
