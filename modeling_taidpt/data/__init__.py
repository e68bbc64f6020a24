"""Labelled images and caption corpora from files, folders and data sets."""
