"""Configuration of TaI-DPT models and of CLIPs whose vision tower is convolutional."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPTextConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.configuration_utils import SubConfigSpec

from .class_descriptions import with_descriptions
from .configuration_checks import (
    check_classes,
    check_code,
    check_keys,
    check_label_count,
    check_labels,
    check_numbers,
    check_recipe,
    check_texts,
    check_token_ids,
    check_towers,
    numbered_labels,
    one_line,
)
from .languages import ENGLISH, context_words, full_stop, read_language
from .tokenization_taidpt import frame_token_ids, tokenize_names

CLASS_TOKEN_POSITIONS = ("end", "middle", "front")
CLASS_EMBEDDING_SOURCES = ("learned", "fixed")
PROMPT_PAIRS = ("global_local", "positive_negative")
LABEL_ORIGINS = ("learned", "shared", "template", "hypernym")
DENSE_DEFAULTS = {"tipsv2": "value_residual"}  # of the bases that publish what they are best seen with
IMAGE_STANDARDIZATIONS = ("center", "zscore", "captions")
DENSE_FEATURES = ("value", "value_residual", "sclip", "clearclip", "naclip")
# What building a configuration raises where a field is of a wrong type; the last one is not an error of values.
DAMAGED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, StrictDataclassError)
LIVE_ONLY = ("_is_complete", "_hub_arguments")  # attributes that are not stored
CHOICES = {
    "class_token_position": CLASS_TOKEN_POSITIONS,
    "prompt_pair": PROMPT_PAIRS,
    "class_embedding_source": CLASS_EMBEDDING_SOURCES,
}


class CLIPResNetVisionConfig(PreTrainedConfig):
    r"""Configuration of a convolutional vision tower with CLIP's attention pool.

    Args:
        layers (`list[int]`, *optional*, defaults to `[3, 4, 6, 3]`):
            Bottleneck blocks of the four stages of OpenAI's ModifiedResNet (RN50). Unused with a `trunk_config`.
        width (`int`, *optional*, defaults to 64):
            Channels of the ModifiedResNet stem; the cells have `32 * width` channels. Unused with a `trunk_config`.
        image_size (`int`, *optional*, defaults to 224):
            Side in pixels of the images that the positional embedding of the attention pool was made for.
        hidden_size (`int`, *optional*):
            Channels of the cells; `32 * width` for a ModifiedResNet. Required with a `trunk_config`.
        pool_hidden_size (`int`, *optional*):
            Width of the attention inside the pool; `hidden_size` by default.
        num_attention_heads (`int`, *optional*):
            Heads of the attention pool; `pool_hidden_size // 64` by default, at least 1.
        projection_dim (`int`, *optional*, defaults to 1024):
            Width of the joint image-text space.
        use_positions (`bool`, *optional*, defaults to `True`):
            Whether the attention pool owns a positional embedding (one row for the mean token, one per cell).
        patch_size (`int`, *optional*, defaults to 32):
            Pixels per cell side, the stride of the trunk.
        trunk_config (`PreTrainedConfig`, *optional*):
            Configuration of any convolutional model of transformers that gives `last_hidden_state`
            `(batch, channels, height, width)`; without one the trunk is OpenAI's ModifiedResNet.
    """

    model_type = "clip_resnet_vision_model"
    base_config_key = "vision_config"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "trunk_config": SubConfigSpec(AutoConfig, model_type="mobilenet_v2", optional=True)
    }

    layers: Any = None
    width: int = 64
    image_size: int = 224
    hidden_size: Any = None
    pool_hidden_size: Any = None
    num_attention_heads: Any = None
    projection_dim: int = 1024
    use_positions: bool = True
    patch_size: int = 32
    trunk_config: Any = None
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layers is None:
            self.layers = [3, 4, 6, 3]
        if self.hidden_size is None:
            if self.trunk_config is not None:
                raise ValueError("`hidden_size` is missing: with a `trunk_config` give the channels of its last map.")
            self.hidden_size = 32 * self.width
        if self.pool_hidden_size is None:
            self.pool_hidden_size = self.hidden_size
        if self.num_attention_heads is None:
            self.num_attention_heads = max(1, self.pool_hidden_size // 64)
        super().__post_init__(**kwargs)


class CLIPResNetConfig(PreTrainedConfig):
    r"""Configuration of [`CLIPResNetModel`], a CLIP whose vision tower is convolutional.

    The fields are those of [`~transformers.CLIPConfig`] (which validates its vision tower to be a ViT and so cannot
    be subclassed).

    Args:
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            Configuration of the text tower.
        vision_config ([`CLIPResNetVisionConfig`] or `dict`, *optional*):
            Configuration of the convolutional vision tower.
        projection_dim (`int`, *optional*, defaults to 1024):
            Width of the joint image-text space.
        logit_scale_init_value (`float`, *optional*, defaults to 2.6592):
            Logarithm of the initial contrastive temperature.
        recommended_recipe (`dict`, *optional*):
            Training arguments and model options that suit this base; see [`TaiDptConfig`].
        word_counts (`str`, *optional*):
            File beside the checkpoint with the number of times that this base saw each word, if it ships one.
    """

    model_type = "clip_resnet"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": CLIPResNetVisionConfig,
        "text_config": CLIPTextConfig,
    }

    # Filled in by `__post_init__`, whatever they were given as.
    text_config: Any = None
    vision_config: Any = None
    projection_dim: int = 1024
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0
    recommended_recipe: dict | None = None
    word_counts: str | None = None


class TaiDptConfig(PreTrainedConfig):
    r"""Configuration of [`TaiDptModel`].

    The fields are grouped by subject.

    Args:
        > The CLIP

        clip_config (`CLIPConfig` or [`CLIPResNetConfig`] or `dict`, *optional*):
            Configuration of the CLIP that the prompts are learned on, or of another dual encoder (`backbones.py`).
        base_model_name_or_path, base_model_revision (`str`, *optional*):
            Where the CLIP came from; of a Hub repository the commit is kept.
        recommended_recipe (`dict`, *optional*):
            Options that suit the base: `{"model": {...}, "training": {...}}`, keyword arguments of
            [`TaiDptModel.from_clip`] and of [`TaiDptTrainingArguments`].
        word_counts (`str`, *optional*):
            File beside the checkpoint with the number of times that the base saw each word, if it ships one.
        prompts_only (`bool`, *optional*, defaults to `False`):
            Only of a stored configuration: the checkpoint holds everything but the CLIP.

        > Labels

        class_names (`list[str]`, *optional*):
            What the prompt says for each label; the labels by default.
        class_input_ids (`list[list[int]]`, *optional*):
            Token ids of the class names, without special tokens.
        label_origin (`dict[str, str]`, *optional*):
            For each label `"learned"`, `"shared"` (a context learned on other labels), `"template"` or `"hypernym"`
            (the mean of other labels, see `with_hypernyms`). A label that no caption named in training is a template.
        class_table (`dict`, *optional*):
            How labels were looked for in the captions of the training, where a custom table was given:
            `synonyms`, a list of texts for each label, and `ignored_forms`. And `language`, the code of the language
            of the labels, where it is not English.

        > Prompts

        num_context_tokens (`int`, *optional*, defaults to 16):
            Number M of context vectors in each prompt (paper, section 3.3).
        class_specific_context (`bool`, *optional*, defaults to `False`):
            Whether every class owns its context vectors; otherwise all classes share one set.
        shared_context (`bool`, *optional*, defaults to `False`):
            Whether a class-specific model also holds one learned context for labels that it does not know.
        class_token_position (`str`, *optional*, defaults to `"end"`):
            Where the class name is: `"end"` (after the context), `"middle"` (after its first M // 2 vectors)
            or `"front"` (before it).
        context_lengths (`list[int]`, *optional*):
            Context vectors used by each class of a class-specific model; all `num_context_tokens` by default.
            Shorter ones come from [`TaiDptModel.with_labels`], which gives template words to new labels.
        context_positions (`list[str]`, *optional*):
            `class_token_position` of each class of a class-specific model, where they differ.
        prompt_pair (`str`, *optional*, defaults to `"global_local"`):
            What the two prompts of a class are for: `"global_local"`, the whole image and its parts (TaI-DPT); or
            `"positive_negative"`, the class being present and absent, with learned scales (DualCoOp), as for learning
            from images with partial labels.
        bos_token_id, eos_token_id, period_token_id (`int`, *optional*):
            Ids of the start and end of text and of the full stop in the vocabulary of the CLIP; `None` where its
            texts have none.
        pad_token_id (`int`, *optional*):
            Id that texts are padded with, where the text tower sees the padding (SigLIP).

        > Class embeddings that are stored instead

        class_embedding_source (`str`, *optional*, defaults to `"learned"`):
            `"learned"`: class embeddings come from context vectors; `"fixed"`: they are stored.
        baked (`bool`, *optional*, defaults to `False`):
            Whether the text tower is left out; the class embeddings are fixed then. See [`TaiDptModel.bake`].
        templates (`list[str]` or `dict[str, list[str]]`, *optional*):
            Templates of the class embeddings of a zero-shot model, for labels added later; `{"global": [...],
            "local": [...]}` where the two branches have different ones. Descriptions of labels are beside them, as
            `"descriptions"`: `{label: [...]}`, of any model.

        > Images

        dense_features (`str`, *optional*, defaults to `"value"`):
            What is done to the last block of a ViT for the dense features: `"value"`, `"value_residual"`, `"sclip"`,
            `"clearclip"` or `"naclip"` (see `image_encoding.py` for what each computes and where it is from).
            Convolutional towers have all but `"value_residual"`. A new model on TIPS v2 has `"value_residual"`.
        flip (`bool`, *optional*, defaults to `False`):
            Whether image features are averaged with those of the mirror image.
        multi_crop (`bool` or `"max"`, *optional*, defaults to `False`):
            `True`: images larger than the tower's own size are seen in overlapping windows of that size, whose
            features are averaged. `"max"`: half of the score of the whole image plus half of the largest score over
            3 x 3 tiles of half its sides. Otherwise images are seen at once.
        pool_with_positions (`bool`, *optional*, defaults to `False`):
            Whether the attention pool of a convolutional tower adds its positional embedding. TaI-DPT leaves it out;
            the plain zero-shot baseline keeps it.

        > Scores

        logit_scale (`float`, *optional*, defaults to 4.0):
            Fixed factor on every cosine.
        text_spatial_scale (`float`, *optional*, defaults to 50.0):
            Inverse temperature of the softmax over the tokens of a caption in the local score.
        image_spatial_scale (`float`, *optional*, defaults to 40.0):
            Inverse temperature of the softmax over the cells of an image in the local score (the paper: 40 for VOC
            and COCO, 4 for NUS-WIDE).
        local_weight (`float`, *optional*, defaults to 0.5):
            Weight of the local score in the merged one; the global score has `1 - local_weight`.
        linear_head (`bool`, *optional*, defaults to `False`):
            Whether a linear layer over the class scores and the image feature gives the logits; see
            [`TaiDptModel.with_linear_head`].

        > Standardized scores

        image_standardization (`str`, *optional*):
            What is taken off the scores of each image: `"center"`, `"zscore"` or `"captions"`; see `standardization`.
        caption_bank_size (`int`, *optional*, defaults to 0):
            Caption features that the checkpoint holds for `"captions"`.
        caption_bank_temperature (`float`, *optional*, defaults to 100.0):
            Factor on their cosines: that of the CLIP's contrastive loss up to 32, else 16, unless told otherwise.
        score_statistics (`dict`, *optional*):
            Mean and standard deviation of each class and branch, by which classes are z-scored: `global_mean`,
            `global_std`, `local_mean`, `local_std`, a list each, and `source`; and `visual_photographs`, the number
            of unlabelled photographs that the checkpoint's visual classifier was fitted on, if it has one.

        > Probabilities

        score_scale, score_bias (`float` or `list[float]`, *optional*, defaults to 1.0 and 0.0):
            The probability of a label is `sigmoid(score_scale * logit + score_bias)`; one value, or one per class.
        score_thresholds (`float` or `list[float]`, *optional*):
            Least probability at which a label counts as present, one value or one per class: `threshold="auto"` of the
            pipeline.
        score_calibration (`str`, *optional*):
            What scale, bias and thresholds were fitted on, in words.
    """

    model_type = "taidpt"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "clip_config": SubConfigSpec(AutoConfig, model_type="clip")
    }

    # `None` of `Any` only until `__post_init__` has filled it in.
    # The CLIP
    clip_config: Any = None
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    recommended_recipe: dict | None = None
    word_counts: str | None = None
    # Labels
    class_names: Any = None
    class_input_ids: list[list[int]] | None = None
    label_origin: Any = None
    class_table: dict | None = None
    # Prompts
    num_context_tokens: int = 16
    class_specific_context: bool = False
    shared_context: bool = False
    class_token_position: str = "end"
    context_lengths: list[int] | None = None
    context_positions: list[str] | None = None
    prompt_pair: str = "global_local"
    bos_token_id: int | None = 49406
    eos_token_id: int | None = 49407
    period_token_id: int | None = 269
    pad_token_id: int | None = None
    # Class embeddings that are stored instead
    class_embedding_source: str = "learned"
    baked: bool = False
    templates: list[str] | dict[str, list[str]] | None = None
    # Images
    dense_features: str = "value"
    flip: bool = False
    multi_crop: bool | str = False
    pool_with_positions: bool = False
    # Scores
    logit_scale: float = 4.0
    text_spatial_scale: float = 50.0
    image_spatial_scale: float = 40.0
    local_weight: float = 0.5
    linear_head: bool = False
    # Standardized scores
    image_standardization: str | None = None
    caption_bank_size: int = 0
    caption_bank_temperature: float = 100.0
    score_statistics: Any = None
    # Probabilities
    score_scale: float | list[float] = 1.0
    score_bias: float | list[float] = 0.0
    score_thresholds: float | list[float] | None = None
    score_calibration: str | None = None
    # Of transformers
    problem_type: str | None = "multi_label_classification"
    prompts_only: ClassVar[bool] = False  # an attribute of stored configurations, not a field

    def __post_init__(self, **kwargs: Any) -> None:
        count = kwargs.get("num_labels")
        if isinstance(self.clip_config, dict):
            check_towers(self.clip_config)
        if count is not None:
            check_label_count(count, self.id2label)
        super().__post_init__(**kwargs)
        # A stored pipeline reference would make transformers ask for `trust_remote_code` although the package is
        # installed; only the class that runs as remote code needs it.
        if hasattr(self, "custom_pipelines") and not type(self).__module__.startswith("transformers_modules"):
            del self.custom_pipelines
        labels = self.labels
        check_labels(labels)
        # Always the inverse of `id2label`: files and callers often change or write only one of them.
        self.label2id = self.label_indices
        if self.class_names is None:
            self.class_names = list(labels)
        if self.label_origin is None:
            self.label_origin = dict.fromkeys(labels, self._default_origin)
        self._check()
        self._is_complete = True

    def __setattr__(self, key: str, value: Any) -> None:
        follows = key == "id2label" and self.__dict__.get("_is_complete", False)
        before = self.labels if follows else []
        value = numbered_labels(value) if follows else value
        super().__setattr__(key, value)
        if follows:
            self._follow_labels(before)

    def _follow_labels(self, before: list[str]) -> None:
        """Keeps the fields of the classes in step with labels that were set: renamed ones, or others in number."""
        labels = self.labels
        self.label2id = self.label_indices
        if len(labels) == len(before):  # the same classes under other names
            origins = [self.label_origin.get(label, self._default_origin) for label in before]
            self.label_origin = dict(zip(labels, origins, strict=True))
            self.class_names = list(labels) if self.class_input_ids is None else self.class_names
            return
        self.class_names, self.label_origin = list(labels), dict.fromkeys(labels, self._default_origin)
        self.class_input_ids = self.context_lengths = self.context_positions = self.score_statistics = None
        for name, default in (("score_scale", 1.0), ("score_bias", 0.0), ("score_thresholds", None)):
            if isinstance(getattr(self, name), (list, tuple)):
                setattr(self, name, default)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; what cannot be used is one `ValueError` that names the checkpoint.

        Args:
            config_dict (`dict`): the fields.
            **kwargs: as in transformers; they replace fields.

        Returns:
            [`TaiDptConfig`].

        Raises:
            ValueError: a field is of a wrong type, not plausible, or does not fit the others; or other labels are
                asked for than the checkpoint has in number.
        """
        name = kwargs.get("name_or_path")
        where = f"The configuration of {str(name)!r}" if name else "The configuration"
        if "labels" in kwargs:
            raise ValueError("`labels` is not an option here: load the model, then `model.with_labels([...])`.")
        try:
            check_keys(config_dict, cls)
            check_code(config_dict)
            stored = config_dict.get("id2label")
            if stored is not None and isinstance(kwargs.get("id2label"), Mapping):
                check_label_count(len(kwargs["id2label"]), stored)
            return super().from_dict(config_dict, **kwargs)
        except DAMAGED as error:
            raise ValueError(f"{where} cannot be used: {one_line(error)}") from error

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without what holds only for this process."""
        fields = {key: value for key, value in super().to_dict().items() if key not in LIVE_ONLY}
        if isinstance(fields.get("clip_config"), dict) and fields["clip_config"].get("_name_or_path"):
            fields["clip_config"]["_name_or_path"] = ""  # a folder of this machine; the base has a field
        if self.id2label is not None:
            fields["label2id"] = self.label_indices  # whatever was set there, as text for numbers
        return fields

    def validate(self) -> None:
        """As in transformers, which calls it before a configuration is stored; its own fields are checked too."""
        super().validate()  # type: ignore[misc]
        self._check()

    @property
    def num_labels(self) -> int:
        """Number of classes; another one can be set, and the fields of the classes are then those of new labels."""
        labels = self.id2label
        return None if labels is None else len(labels)  # type: ignore[return-value]

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        check_label_count(value)
        PreTrainedConfig.num_labels.fset(self, value)  # type: ignore[attr-defined]

    @property
    def _default_origin(self) -> str:
        return "learned" if self.class_embedding_source == "learned" else "template"

    @property
    def labels(self) -> list[str]:
        """Labels in the order of the logits, `(classes,)`."""
        return [self.id2label[index] for index in sorted(self.id2label, key=int)]

    @property
    def label_indices(self) -> dict[str, int]:
        """The index of each label, which `label2id` may have lost where only `id2label` was changed."""
        return {label: index for index, label in enumerate(self.labels)}

    @property
    def origins(self) -> list[str]:
        """`label_origin` in the order of the logits; a renamed label has that of its class name."""
        default, names = self._default_origin, zip(self.labels, self.class_names, strict=True)
        return [self.label_origin.get(label, self.label_origin.get(name, default)) for label, name in names]

    @property
    def language(self) -> str:
        """Code of the language of labels, prompts and captions."""
        return (self.class_table or {}).get("language", ENGLISH)

    @property
    def patch_size(self) -> int:
        """Side in pixels of a cell of the dense features."""
        return self.clip_config.vision_config.patch_size

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the vision tower was made for, in whole cells."""
        vision_config = self.clip_config.vision_config
        if vision_config.model_type == "siglip2_vision_model":  # it has a number of patches instead
            return int(vision_config.num_patches**0.5) * self.patch_size
        return vision_config.image_size // self.patch_size * self.patch_size

    @property
    def visual_photographs(self) -> int:
        """Photographs that the visual classifier was fitted on; 0 where the model has none."""
        return (self.score_statistics or {}).get("visual_photographs", 0)

    def view_settings(self, multi_crop: bool | str | None = None) -> dict[str, Any]:
        """Settings of the image processor that suit the views: with tiles the whole image, twice the tower's size.

        Args:
            multi_crop (`bool` or `"max"`, *optional*): as of the model; `multi_crop` of the configuration by default.

        Returns:
            `dict`: keyword arguments of an image processor's call, that tiles are then seen at the tower's own size;
            empty for other views.
        """
        if (self.multi_crop if multi_crop is None else multi_crop) != "max":
            return {}
        size = dict.fromkeys(("height", "width"), 2 * self.image_size)
        return {"do_resize": True, "size": size, "do_center_crop": False}

    @property
    def embedding_dim(self) -> int:
        """Width of the joint image-text space."""
        text_config = self.clip_config.text_config
        for config, name in ((self.clip_config, "projection_dim"), (text_config, "projection_size")):  # SigLIP's last
            if getattr(config, name, None) is not None:
                return getattr(config, name)
        return text_config.hidden_size  # TIPS v2 projects nothing

    def _check(self) -> None:
        """Raises a `ValueError` that says what is wrong with a field; nothing has been allocated yet."""
        check_towers(self.clip_config.to_dict())
        check_numbers(self)
        check_texts(self)
        check_classes(self)
        check_token_ids(self)
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        check_dense_features(self.clip_config.model_type, self.dense_features)
        if self.baked and self.class_embedding_source != "fixed":
            raise ValueError("`baked` needs `class_embedding_source='fixed'`: bake a model with `TaiDptModel.bake`.")
        for label, origin in self.label_origin.items():
            _check_choice(f"label_origin[{label!r}]", origin, LABEL_ORIGINS)
        for index, position in enumerate(self.context_positions or ()):
            _check_choice(f"context_positions[{index}]", position, CLASS_TOKEN_POSITIONS)
        if self.image_standardization is not None:
            _check_choice("image_standardization", self.image_standardization, IMAGE_STANDARDIZATIONS)
        if self.image_standardization == "captions" and not self.caption_bank_size:
            raise ValueError(
                "`image_standardization='captions'` needs a caption bank: keep one with `model.set_caption_bank`."
            )


def check_dense_features(model_type: str, option: str) -> None:
    """Raises a `ValueError` where a CLIP of this type has no dense features of this name."""
    _check_choice("dense_features", option, DENSE_FEATURES)
    if model_type == "clip_resnet" and option == "value_residual":
        raise ValueError(
            "`dense_features` is 'value_residual', and the attention pool of a convolutional tower has no residual "
            "and no MLP to keep: choose 'value', 'sclip', 'clearclip' or 'naclip'."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {str(value)[:80]!r}: choose one of {', '.join(map(repr, choices))}.")


def add_recipe_options(options: dict[str, Any], recommended: Mapping[str, Any] | None) -> None:
    """Adds the model options of a recipe to those that are given, which win; takes `recipe` out of them.

    Args:
        options (`dict`): fields of [`TaiDptConfig`] and `recipe`: `"recommended"` (the default), `"paper"` or
            `{"model": {...}}`.
        recommended (`Mapping`, *optional*): the recipe that the base recommends.

    Raises:
        ValueError: the recipe is something else.
    """
    recipe = options.pop("recipe", "recommended")
    if isinstance(recipe, Mapping):
        found: Any = recipe
    elif recipe in ("recommended", "paper"):
        found = recommended if recipe == "recommended" else None
        check_recipe(found)  # from a file of anybody
    else:
        raise ValueError(f"`recipe` is {str(recipe)[:80]!r}: give 'recommended', 'paper' or {{'model': {{...}}}}.")
    if found is None or options.get("class_embedding_source") == "fixed":  # nothing is learned
        return
    for name, value in (found.get("model") or {}).items():
        if name == "context_init":  # of a base, in English
            value = context_words(config_language(options)) or None
        if name != "context_init" or "num_context_tokens" not in options:  # which takes its place
            options.setdefault(name, value)


def build_config(
    clip_config: Any,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    options: dict[str, Any],
) -> TaiDptConfig:
    """Configuration of a new model.

    Args:
        clip_config (`CLIPConfig` or that of another dual encoder): the base's.
        labels (`Sequence[str]`): the labels, in the order of the logits.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the base.
        options (`dict`): further fields of [`TaiDptConfig`]; and `descriptions`, of [`gather_descriptions`].

    Returns:
        [`TaiDptConfig`]: with tokenised class names.

    Raises:
        ValueError: labels are empty or repeated.
    """
    check_labels(labels)
    described = options.pop("descriptions", None)
    if described is not None:
        templates = with_descriptions(options.get("templates"), described)
        options = options | {"templates": templates}
    names = list(options.pop("class_names", None) or labels)
    language = config_language(options)
    options = {name: value for name, value in options.items() if name != "language"}
    if language != ENGLISH:
        options["class_table"] = (options.get("class_table") or {}) | {"language": language}
    start, end = frame_token_ids(tokenizer)
    period = _token_after_a_word(tokenizer, full_stop(language))  # none where the tokenizer strips punctuation
    return TaiDptConfig(
        clip_config=copy.deepcopy(clip_config),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        class_names=names,
        class_input_ids=tokenize_names(tokenizer, names),
        bos_token_id=start,
        eos_token_id=end,
        period_token_id=period,
        pad_token_id=tokenizer.pad_token_id,
        **({"dense_features": DENSE_DEFAULTS.get(clip_config.model_type, "value")} | options),
    )


def config_language(options: Mapping[str, Any]) -> str:
    """The language that options of a new model ask for, as `language` or in `class_table`."""
    return read_language(options.get("language") or (options.get("class_table") or {}).get("language") or ENGLISH)


def _token_after_a_word(tokenizer: PreTrainedTokenizerBase, sign: str) -> int | None:
    """Id of a sign at the end of a word; alone, it may begin with a token for the space before it (SentencePiece)."""
    if not sign:
        return None
    word, both = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", f"a{sign}"))
    after = both[len(word) :] if both[: len(word)] == word else tokenizer(sign, add_special_tokens=False)["input_ids"]
    return after[-1] if after else None


# Sub-configurations are resolved by their `model_type`, in the installed package and in remote code alike.
AutoConfig.register("clip_resnet_vision_model", CLIPResNetVisionConfig, exist_ok=True)
AutoConfig.register("clip_resnet", CLIPResNetConfig, exist_ok=True)

__all__ = [
    "CLIPResNetConfig",
    "CLIPResNetVisionConfig",
    "TaiDptConfig",
    "add_recipe_options",
    "build_config",
    "check_dense_features",
    "check_labels",
    "config_language",
]
