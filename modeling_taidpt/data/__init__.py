"""Labelled images and caption corpora from files, folders and data sets."""

from .captions import load_caption_file, load_coco_captions, load_localized_narratives, load_template_captions
from .coco import load_coco
from .dataset import align_classes, class_names_of, image_label_matrix, partial_label_matrix
from .few_shot import FewShotSample, sample_few_shot
from .folder import load_image_dataset, load_image_folder
from .loaders import load_captions, load_images
from .nuswide import load_nuswide
from .partial_labels import drop_labels, read_partial_labels
from .recipes import load_recipe_captions, load_recipe_images, read_recipe, recipe_names
from .voc import load_voc

__all__ = [
    "FewShotSample",
    "align_classes",
    "class_names_of",
    "drop_labels",
    "image_label_matrix",
    "load_caption_file",
    "load_captions",
    "load_coco",
    "load_coco_captions",
    "load_image_dataset",
    "load_image_folder",
    "load_images",
    "load_localized_narratives",
    "load_nuswide",
    "load_recipe_captions",
    "load_recipe_images",
    "load_template_captions",
    "load_voc",
    "partial_label_matrix",
    "read_partial_labels",
    "read_recipe",
    "recipe_names",
    "sample_few_shot",
]
