"""Captions: tables of classes, which classes a caption names, templates, and captions from files."""

from .class_tables import load_class_table, suggest_synonyms
from .corpus import read_captions
from .label_files import read_labels
from .labeler import CaptionLabeler
from .labels import default_labeler, label_captions, match_labels
from .synthetic import describe_labels, make_captions

__all__ = [
    "CaptionLabeler",
    "default_labeler",
    "describe_labels",
    "label_captions",
    "load_class_table",
    "make_captions",
    "match_labels",
    "read_captions",
    "read_labels",
    "suggest_synonyms",
]
