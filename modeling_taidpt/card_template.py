"""The template of model cards, in Jinja; code, so that it travels with a checkpoint."""

from __future__ import annotations

# ruff: noqa: E501
CARD_TEMPLATE = """\
---
{{ card_data }}
---

{{ mark }}

# {{ text(name) }}

Tags images with {% if labels | length == 1 %}one label{% else %}{{ config.labels | length }} labels{% endif %}: TaI-DPT prompts on a frozen CLIP{% if report.corpus %}, learned from {% if report.corpus.images is defined %}labelled images{% else %}text alone{% endif %}{% endif %}. Made with
the package `taidpt`.
{% if config.baked %}
This checkpoint is baked: it holds the class embeddings and no text tower, and scores its own labels only.
{% elif prompts_only %}
This checkpoint holds the prompts only; loading it fetches the CLIP{% if base %} `{{ code(base) }}`{% endif %}.{% if base_is_shipped %} That one comes with
the package: install it, code from the repository is not enough.{% endif %}
{% endif %}
## Use

```python
import modeling_taidpt  # the package taidpt: pip install . in a checkout of it{% if not (prompts_only and base_is_shipped) %}; without it, pass trust_remote_code=True to pipeline{% endif %}
from transformers import pipeline

tagger = pipeline("multi-label-image-classification", model="{{ code(name).replace('"', '') }}")
tagger("photo.jpg", top_k=5)
```
{% if example %}
![A photograph, the labels that this model finds in it with their scores, and where they are]({{ example }})

What this model finds in one photograph, chosen by whoever published it: it says nothing of how often the model is right.
{% endif %}
## Labels

{{ labels | join(", ") }}{% if more_labels > 0 %} and {{ more_labels }} more{% endif %}.
{% if origins %}
Not every label has prompts learned for it ({{ origins | join(", ") }}): `config.label_origin` says which. "shared" labels
use a context learned on others, "template" ones a written prompt.
{% endif %}
## Base

{% if base %}`{{ code(base) }}`{% if config.base_model_revision %}, revision `{{ code(config.base_model_revision) }}`{% endif %}, frozen.{% else %}A frozen CLIP that has no name.{% endif %} {% if config.class_embedding_source == "fixed" and not config.baked %}The class
embeddings are fixed, no prompt was learned.{% else %}{{ config.num_context_tokens }} context vectors per prompt, {% if config.class_specific_context %}of each class its own{% else %}shared by all classes{% endif %},
{% if config.prompt_pair == "positive_negative" %}one prompt for the presence of the class and one for its absence.{% else %}one prompt for the whole image and one for its parts.{% endif %}{% endif %}

## Training

{% if report.corpus or report.recipe -%}
{% if report.corpus and report.corpus.images is defined %}Learned from labelled images.{% else %}Learned from captions alone; no image was used.{% if base_is_shipped %} The base
itself, which ships with the package, learned from captions and from some thousand labelled photographs; its card says which.{% endif %}{% endif %}

{% if report.recipe %}- {{ text(report.recipe) }}
{% endif %}{% if report.seed is defined %}- Seed {{ report.seed }}.
{% endif %}{% if report.corpus and report.corpus.images is defined %}- Images: {{ report.corpus.images }}; {{ report.corpus.held_out }} more were held out {{ held_out_for }}.
{% elif report.corpus %}- Captions: {{ report.corpus.captions }} that name a class{% if report.corpus.corpus_captions %}, drawn by class of {{ report.corpus.corpus_captions }}{% endif %}{% if report.corpus.sources %}, from {{ text(report.corpus.sources | join(", ")) }}{% endif %}; {{ report.corpus.held_out }} more were
  held out {{ held_out_for }}. Labelled by {{ text(report.corpus.labeling) }}.
{% endif %}{% if report.versions %}- {% for package, version in report.versions.items() %}{{ text(package) }} {{ text(version) }}{% if not loop.last %}, {% endif %}{% endfor %}.
{% endif %}{% if report.command %}
```bash
{{ code(report.command) }}
```
{% endif %}{% if synonyms %}
Captions were searched for the labels and their synonyms: {% for label, words in synonyms.items() %}{{ label }} ({{ words | join(", ") }}){% if not loop.last %}; {% endif %}{% endfor %}.
{% endif %}{% if per_class %}
| class | {% if report.corpus.images is defined %}training images known to show it{% else %}captions that name it{% endif %} |
|---|---|
{% for label, count in per_class.items() %}| {{ label }} | {{ count }} |
{% endfor %}{% endif %}
{%- else -%}
Nothing is known of a training: this checkpoint was saved without a report.
{%- endif %}

## Scores

{% if config.score_calibration %}Probabilities were fitted on {{ text(config.score_calibration) }}.{% if config.score_thresholds is not none %} `threshold="auto"` uses the stored thresholds.{% endif %}{% else %}Scores are not probabilities: they only rank labels until `taidpt calibrate` has fitted them on a few images, with labels or without.{% endif %}
{% if config.image_standardization == "captions" %}From each image's global score is taken what it scores for captions in general ({{ config.caption_bank_size }} clusters).
{% elif config.image_standardization %}Scores of each image are standardized over the classes (`{{ config.image_standardization }}`).
{% endif %}{% if config.visual_photographs %}A classifier of patches from {{ config.visual_photographs }} unlabelled photographs is joined to the local prompts (`taidpt adapt`).
{% endif %}{% if config.score_statistics and config.score_statistics.global_mean %}Classes are z-scored with the statistics of {{ text(config.score_statistics.source or "given scores") }}.
{% endif %}
## Figures

{% if figures -%}
| measured on | figure | this model | "{{ text(template) }}" on the same CLIP |
|---|---|---|---|
{% for figure in figures %}| {{ text(figure.dataset_name) }} | {{ text(figure.metric_name) }} | {{ figure.metric_value }} | {{ "" if figure.baseline is none else figure.baseline }} |
{% endfor %}
mAP in percent. Figures on captions say how well the prompts tell texts apart; on images they can differ much.
{%- else -%}
**This model was never evaluated**: no figure is known, neither on captions nor on images. Measure it on your own images
before you rely on it.
{%- endif %}

## Limits

The model knows an object from its CLIP and from words alone: labels that the CLIP hardly knows, small
objects and what is outside the center crop are missed. It carries the biases of the CLIP and of the captions. Rank by
the scores, or choose a threshold on images of your own. Not for decisions about people.

## Licence and citation

{% if report.license %}Licence of the checkpoint: {{ text(report.license) }}. {% endif %}The CLIP has the licence of its source{% if base %}, `{{ code(base) }}`{% endif %}; the code beside the weights is Apache-2.0 (see
the taidpt package).

```bibtex
@inproceedings{guo2023texts,
  title={Texts as Images in Prompt Tuning for Multi-Label Image Recognition},
  author={Guo, Zixian and Dong, Bowen and Ji, Zhilong and Bai, Jinfeng and Guo, Yiwen and Zuo, Wangmeng},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2023}
}
```
"""

__all__ = ["CARD_TEMPLATE"]
