"""Tagging of any number of images, the web page, and pictures of what a model found."""
