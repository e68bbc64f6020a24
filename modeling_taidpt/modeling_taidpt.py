"""TaI-DPT: double-grained prompts on a frozen CLIP, learned from texts, tagging images.

Source: "Texts as Images in Prompt Tuning for Multi-Label Image Recognition" (CVPR 2023, arXiv 2211.12739).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.utils import can_return_tuple, logging

from .backbones import DualEncoder, contrastive_scale, text_side
from .class_embeddings import cached_class_embeddings, encode_chunks, get_or_compute, split_classes
from .class_state import class_digest
from .configuration_taidpt import (
    TaiDptConfig,
    add_recipe_options,
    build_config,
    check_labels,
    config_language,
)
from .context_start import start_contexts, start_token_ids
from .hub import (
    clip_class,
    find_tokenizer,
    is_prompts_config,
    load_clip,
    load_own_config,
    load_prompts_only,
    require_complete,
    require_weights,
    settle,
    storage_dtype,
)
from .hub_errors import plain_errors
from .image_backends import ImageBackendMixin
from .image_encoding import encode_images
from .layer_record import Record
from .losses import RankingLoss
from .modeling_outputs import TaiDptOutput
from .origins import HUB_ARGUMENTS, Origin, is_remote_code, keep_origin, origins, own_origin, portable_source
from .prompt_learner import PromptLearner, encode_prompts
from .prompt_templates import branch_templates
from .rare_words import find_rare_words, load_word_counts
from .repository import RepositoryMixin
from .scores import branch_scores, join_tiles, normalize, probabilities
from .second_look import find_boxes, look_again, whole_view
from .standardization import CaptionBank, default_bank_temperature, score_statistics, standardize_scores
from .stored_weights import require_plausible_size, require_same_save
from .text_encoding import encode_templates, encode_texts
from .variants import VariantsMixin, relabel, template_embeddings, without_text_tower
from .visual_classifier import VisualClassifier

logger = logging.get_logger(__name__)

CLASS_BATCH = 256  # prompts encoded at a time where no gradient is wanted
INITIAL_STD = 0.02  # of context vectors that do not start as words (paper, section 4.1)
PAIR_LOG_SCALES = (3.91, 3.0)  # initial T and sT of DualCoOp, about 50 and 20


class TaiDptModel(RepositoryMixin, ImageBackendMixin, VariantsMixin, PreTrainedModel):
    """A frozen CLIP with two learned prompts per class.

    Build it with [`~TaiDptModel.from_clip`], [`~TaiDptModel.zero_shot`] or [`~TaiDptModel.from_pretrained`].

    Args:
        config ([`TaiDptConfig`]): labels, prompts and the CLIP.
        clip (`CLIPModel` or another dual encoder, *optional*): the CLIP to build on, taken as it is and frozen;
            without one a random CLIP is made from `config.clip_config`.

    Example:
        >>> import torch
        >>> from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel
        >>> model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
        >>> model.config.labels[:3]
        ['person', 'bicycle', 'car']
        >>> model.with_labels(["cat", "teapot"]).config.labels
        ['cat', 'teapot']
        >>> with torch.no_grad():
        ...     outputs = model(pixel_values=torch.zeros(2, 3, 256, 256))
        >>> model.probabilities(outputs.logits).shape, outputs.similarity_map.shape
        (torch.Size([2, 80]), torch.Size([2, 80, 8, 8]))
    """

    config_class = TaiDptConfig
    base_model_prefix = "taidpt"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = (
        *(f"{name}EncoderLayer" for name in ("CLIP", "CLIPSeg", "MetaClip2", "Siglip", "Siglip2", "AltCLIP")),
        *("ChineseCLIPTextLayer", "ChineseCLIPVisionLayer", "AltRobertaLayer", "Bottleneck", "Tipsv2TextEncoderLayer"),
        *("BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ViTLayer", "Tipsv2VisionLayer"),
        *("CLIPTextEmbeddings", "CLIPVisionEmbeddings", "ViTEmbeddings", "Tipsv2VisionEmbeddings"),
    )
    _keep_in_fp32_modules_strict = (
        "prompt_learner",
        "class_embeddings_global",
        "class_embeddings_local",
        "visual_classifier",
        "log_scales",
        "^head",  # the model's own, not those of SigLIP's towers
    )

    def __init__(self, config: TaiDptConfig, clip: DualEncoder | None = None) -> None:
        super().__init__(config)
        if clip is None:
            clip = clip_class(config.clip_config)._from_config(config.clip_config)
            if config.baked:  # the initialisation of a whole CLIP looks for the text tower
                clip._is_hf_initialized = True
        else:
            for module in clip.modules():
                module._is_hf_initialized = True  # its weights are not ours to initialise
        self.clip = without_text_tower(clip) if config.baked else clip
        if config.class_embedding_source == "learned":
            self.prompt_learner = PromptLearner(config)
        else:
            for branch in ("global", "local"):
                embeddings = torch.zeros(config.num_labels, config.embedding_dim, dtype=torch.float32)
                self.register_buffer(f"class_embeddings_{branch}", embeddings)
        self.log_scales: nn.Parameter | None = None  # of a positive and a negative prompt: factor, inverse temperature
        if config.prompt_pair == "positive_negative":
            self.log_scales = nn.Parameter(torch.tensor(PAIR_LOG_SCALES, dtype=torch.float32))  # (2,)
        self.head: nn.Linear | None = None
        if config.linear_head:
            width = config.num_labels + config.embedding_dim
            self.head = nn.Linear(width, config.num_labels, dtype=torch.float32)
        self.caption_bank: CaptionBank | None = None
        if config.caption_bank_size:
            self.caption_bank = CaptionBank(config.caption_bank_size, config.embedding_dim)
        self.visual_classifier: VisualClassifier | None = None
        if config.visual_photographs:
            self.visual_classifier = VisualClassifier(config.num_labels, config.embedding_dim)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self.training_report: dict[str, Any] | None = None  # what the model card says of the training
        self._word_counts: Mapping[str, int] | None = None
        self.post_init()
        # Once: on a CLIP that another model shares, adapters may be learning.
        if not getattr(self.clip, "_is_frozen_base", False):
            self._freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PromptLearner):
            for parameter in module.parameters():
                init.normal_(parameter, mean=0.0, std=INITIAL_STD)
        elif isinstance(module, (CaptionBank, VisualClassifier)):
            for buffer in module.buffers():
                init.zeros_(buffer)
        elif module is self.head:
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TaiDptModel):
            for buffer in module.buffers(recurse=False):  # class embeddings
                init.zeros_(buffer)
            if module.log_scales is not None:
                init.copy_(module.log_scales, torch.tensor(PAIR_LOG_SCALES))

    def set_caption_bank(
        self,
        bank: torch.Tensor | None,
        log_weights: torch.Tensor | None = None,
        caption_bank_temperature: float | None = None,
    ) -> None:
        """Keeps a bank of caption features with the model and standardises images by it (or drops it with `None`).

        The bank does not depend on the labels: it serves [`~TaiDptModel.with_labels`] too. It is saved with the model.

        Args:
            bank (`torch.Tensor` of shape `(clusters, dim)`, *optional*): see [`cluster_captions`].
            log_weights (`torch.Tensor` of shape `(clusters,)`, *optional*): equal shares by default.
            caption_bank_temperature (`float`, *optional*): factor on cosines with the bank; see
                [`default_bank_temperature`] for the default.

        Raises:
            ValueError: the shapes do not fit, or the temperature is not positive.
        """
        if bank is None:
            self.config.caption_bank_size, self.config.image_standardization = 0, None
            self.caption_bank = None
            return
        if caption_bank_temperature is None:
            caption_bank_temperature = default_bank_temperature(float(contrastive_scale(self.clip)))
        if not 0 < caption_bank_temperature < math.inf:
            raise ValueError(f"`caption_bank_temperature` is {caption_bank_temperature}: give a number above 0.")
        self.caption_bank = CaptionBank.from_features(bank, log_weights, self.config.embedding_dim).to(self.device)
        self.config.caption_bank_size, self.config.image_standardization = len(bank), "captions"
        self.config.caption_bank_temperature = float(caption_bank_temperature)

    def set_score_statistics(
        self, logits_global: torch.Tensor | None, logits_local: torch.Tensor | None = None, source: str | None = None
    ) -> None:
        """Keeps mean and standard deviation of each class and branch, and z-scores classes by them.

        Args:
            logits_global (`torch.Tensor` of shape `(samples, classes)`, *optional*): global scores of unlabelled
                images (or captions), after the image step that the model is set to; `None` stops z-scoring.
            logits_local (`torch.Tensor` of shape `(samples, classes)`, *optional*): local scores of the same.
            source (`str`, *optional*): what they were taken from, for the card.

        Raises:
            ValueError: there are fewer than two samples, or one branch alone is given.
        """
        if (logits_global is None) != (logits_local is None):
            raise ValueError("Give the scores of both branches, `logits_global` and `logits_local`, or none.")
        both = {} if logits_global is None else score_statistics(logits_global, logits_local, source)
        count = self.config.visual_photographs
        self.config.score_statistics = both | ({"visual_photographs": count} if count else {}) or None

    def _freeze(self) -> None:
        """Leaves only what is learned on top of the CLIP trainable, and the CLIP in eval mode for good."""
        self.clip.requires_grad_(False)
        self.clip.eval()
        self.clip._is_frozen_base = True

    def train(self, mode: bool = True) -> TaiDptModel:
        """Sets the training mode of everything but the frozen CLIP."""
        self.training = mode
        prompts = getattr(self, "prompt_learner", None) if mode and self.visual_classifier is not None else None
        if prompts is not None and any(parameter.requires_grad for parameter in prompts.parameters()):
            logger.warning_once(
                "Prompts that are learned further make the visual classifier of this model stale: fit it again "
                "afterwards."
            )
        for child in self.children():
            if child is not self.clip:
                child.train(mode)
            elif child.training:  # going through its modules in every step takes as long as computing some of them
                child.eval()
        return self

    @classmethod
    def from_clip(
        cls,
        clip_id_or_model: str | Path | DualEncoder,
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        **config: Any,
    ) -> TaiDptModel:
        """Starts untrained prompts on a CLIP.

        Args:
            clip_id_or_model (`str` or `CLIPModel` or [`CLIPResNetModel`]): Hub repository, folder, or a model, which
                is used as it is (not copied) and frozen.
            labels (`Sequence[str]`): the labels, in the order of the logits.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): the base's own by default, else CLIP's BPE.
            **config: fields of [`TaiDptConfig`]; `recipe`, whose model options are the defaults (`"recommended"`, the
                base's own, unless it is `"paper"` or `{"model": {...}}`); `descriptions`, see [`gather_descriptions`];
                `context_init`, words whose token embeddings start the context vectors, as `"a photo of a"` (without
                them they start from N(0, 0.02^2)); class-specific contexts start from the first description of their
                label instead, unless `context_init` or `num_context_tokens` is given;
                `language`, the code of the labels' language where it is not English, as `"de"` or `"zh"`; and for a
                Hub repository `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `dtype` (a model that
                was loaded from one does not know its revision: give it here too). With
                `prompt_pair="positive_negative"` `local_weight` is 1 by default.

        Returns:
            [`TaiDptModel`]: in eval mode; only its context vectors are trainable.

        Raises:
            ValueError: labels are empty or repeated, a prompt is too long, or an option is unknown.
        """
        arguments = {key: config.pop(key) for key in (*HUB_ARGUMENTS, "dtype", "attn_implementation") if key in config}
        clip, source = clip_id_or_model, getattr(getattr(clip_id_or_model, "config", None), "_name_or_path", None)
        if isinstance(clip_id_or_model, (str, Path)):
            with plain_errors(str(clip_id_or_model), arguments.get("revision")):
                source, arguments = settle(str(clip_id_or_model), arguments)
                clip = load_clip(source, **arguments)
        config.setdefault("base_model_revision", arguments.get("revision"))
        chosen = not {"context_init", "num_context_tokens"}.isdisjoint(config)  # and not by a recipe
        config.setdefault("recommended_recipe", getattr(clip.config, "recommended_recipe", None))
        add_recipe_options(config, config["recommended_recipe"])
        unknown = sorted(
            set(config) - set(TaiDptConfig.__dataclass_fields__) - {"context_init", "descriptions", "language"}
        )
        if unknown:
            raise ValueError(f"`{unknown[0]}` is not an option of TaiDptConfig: see its documentation for the names.")
        hub_arguments = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
        found, vocab_size = [Origin(source, hub_arguments)] if source else [], clip.config.text_config.vocab_size
        tokenizer = find_tokenizer(found, vocab_size, tokenizer)
        starts = start_token_ids(tokenizer, labels, config, chosen)
        config.setdefault("word_counts", getattr(clip.config, "word_counts", None))
        config.setdefault("base_model_name_or_path", portable_source(source))
        if config.get("prompt_pair") == "positive_negative":
            config.setdefault("local_weight", 1.0)
        model = cls(build_config(clip.config, labels, tokenizer, config), clip=clip)
        keep_origin(model.config, hub_arguments)
        if starts:
            start_contexts(model.prompt_learner, text_side(clip).token_embedding.weight, starts)
        model._tokenizer = tokenizer
        if config.get("class_embedding_source") != "fixed":
            model._check_prompts()
        return model.eval()

    @classmethod
    def zero_shot(
        cls,
        clip_id_or_model: str | Path | DualEncoder,
        labels: Sequence[str],
        templates: Sequence[str] | str | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        local_templates: Sequence[str] | str | None = None,
        **config: Any,
    ) -> TaiDptModel:
        """The untrained baselines: class embeddings are those of templates, averaged.

        - CLIP: `local_weight=0.0`, with `templates="default"` (one) or `"imagenet"` (80, averaged).
        - CLIP with local branch (double-grained, nothing learned): the default; both branches have the same templates.
        - Bracket prompts: `templates="coarse"`, that is `"[dog]"` for the whole image, and
          `local_templates="fine"`, that is `"{dog}"` for its parts.

        Args:
            clip_id_or_model (`str` or `CLIPModel` or [`CLIPResNetModel`]): as for [`~TaiDptModel.from_clip`].
            labels (`Sequence[str]`): the labels, in the order of the logits.
            templates (`Sequence[str]` or `str`, *optional*): texts with `{}` for the name, or the name of a list of
                them (see [`load_templates`]); `"a photo of a {}."` by default, or that of the `language`.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): as for [`~TaiDptModel.from_clip`].
            local_templates (`Sequence[str]` or `str`, *optional*): those of the local branch; `templates` by default.
            **config: as for [`~TaiDptModel.from_clip`]; `pool_with_positions` is `True` by default here, as in CLIP.

        Returns:
            [`TaiDptModel`]: with fixed class embeddings and no trainable parameter, in eval mode.

        Raises:
            ValueError: as [`~TaiDptModel.from_clip`], or a template has no `{}`.
        """
        config = {"pool_with_positions": True} | config | {"class_embedding_source": "fixed"}
        config["templates"] = branch_templates(templates, local_templates, config_language(config))
        model = cls.from_clip(clip_id_or_model, labels, tokenizer, **config)
        for branch, embeddings in zip(("global", "local"), template_embeddings(model), strict=True):
            getattr(model, f"class_embeddings_{branch}").copy_(embeddings)  # (classes, dim)
        return model

    def rare_words(self, labels: Sequence[str]) -> dict[str, list[str]]:
        """Words that the base hardly saw (fewer than 20 times), where it ships the counts of its training words.

        Args:
            labels (`Sequence[str]`): labels to look at.

        Returns:
            `dict[str, list[str]]`: labels with such words; empty where the base ships no counts.
        """
        if self._word_counts is None:
            self._word_counts = load_word_counts(origins(self.config), self.config.word_counts) or {}
        return find_rare_words(labels, self._word_counts) if self._word_counts else {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *model_args: Any,
        config: TaiDptConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a checkpoint: a full one, or a prompts-only one together with the CLIP that it names.

        fp16 is a storage format: on a CPU, without an explicit `dtype`, the model computes in fp32.

        Args:
            pretrained_model_name_or_path (`str`): folder or Hub repository.
            *model_args: as in transformers.
            config ([`TaiDptConfig`], *optional*): replaces the stored configuration.
            **kwargs: as in transformers.

        Returns:
            [`TaiDptModel`]: in eval mode; only its context vectors are trainable.

        Raises:
            ValueError: the checkpoint is of another model, lacks weights, or does not fit its base.
            OSError: the checkpoint or its base cannot be read.
        """
        with plain_errors(str(pretrained_model_name_or_path), kwargs.get("revision")):
            return cls._from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    @classmethod
    def _from_pretrained(cls, source: str | Path | None, *model_args: Any, config: Any = None, **kwargs: Any) -> Any:
        wants_info = kwargs.pop("output_loading_info", False)
        if kwargs.get("use_safetensors") is False:
            raise ValueError("Weights are read from safetensors files alone: leave `use_safetensors=False` out.")
        if source is None:  # a state dict, whose keys are looked at all the same
            kwargs["output_loading_info"] = True
            loaded: Any = super().from_pretrained(None, *model_args, config=config, **kwargs)
            model, info = loaded
            require_complete("", info)
            model._freeze()
            return (model, info) if wants_info else model
        name, kwargs = settle(str(source), kwargs)
        hub_arguments = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        if config is None:
            config, kwargs = load_own_config(name, kwargs)
        kwargs = storage_dtype(getattr(config, "dtype", None), kwargs) | {"use_safetensors": True}
        digest = vars(config).pop("weights_digest", None)
        if kwargs.get("state_dict") is None and not kwargs.get("variant"):
            files = require_weights(Origin(name, hub_arguments))
            require_same_save(name, digest, files)
            if not config.prompts_only:
                require_plausible_size(name, cls, config, files)
        place: str | None = name
        if is_prompts_config(config) and config.prompts_only and kwargs.get("state_dict") is None:
            kwargs["state_dict"] = load_prompts_only(name, config, **kwargs)
            place, kwargs = None, {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        kwargs["output_loading_info"] = True
        loaded = super().from_pretrained(place, *model_args, config=config, **kwargs)
        model, info = loaded
        require_complete(name, info)
        vars(model.config).pop("prompts_only", None)  # said of what is stored alone
        model.config._name_or_path = name
        vars(model.config).pop("base_model_sample", None)  # of the stored prompts
        keep_origin(model.config, hub_arguments)
        cls._code_origin = own_origin(model.config) if is_remote_code() else None
        model._freeze()
        return (model, info) if wants_info else model

    def with_labels(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        strict: bool = False,
    ) -> TaiDptModel:
        """A model for other labels on the same CLIP (shared, not copied).

        A shared context serves all labels. A class-specific model keeps the contexts of labels that it knows; a new
        label gets the checkpoint's shared context if it holds one, else the words of `"a photo of a {}."`. A fixed
        model keeps the embeddings of labels that it knows and encodes its templates for new ones.
        `config.label_origin` says for each label which it was.

        Args:
            labels (`Sequence[str]` or `Mapping[str, list[str]]`): the new labels, in the order of the logits; or with
                descriptions, which are averaged with the name.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): the one beside the checkpoint by default, else
                the base's.
            strict (`bool`, *optional*, defaults to `False`): raises instead of falling back on the template.

        Returns:
            [`TaiDptModel`]: in eval mode.

        Raises:
            ValueError: labels are empty or repeated, a prompt is too long, with `strict` a label would get the
                template, or the model is baked.
        """
        self._require_text_tower()
        check_labels(list(labels) if isinstance(labels, Mapping) else labels)
        return relabel(self, labels, self.get_tokenizer(tokenizer), strict)

    def get_tokenizer(self, tokenizer: PreTrainedTokenizerBase | str | None = None) -> PreTrainedTokenizerBase:
        """The tokenizer: the argument, else the one beside the checkpoint, else the base's, else CLIP's BPE.

        Args:
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): taken as it is, or loaded from there.

        Returns:
            [`~transformers.PreTrainedTokenizerBase`]: found once, then cached.
        """
        if tokenizer is None and self._tokenizer is not None:
            return self._tokenizer
        found = find_tokenizer(origins(self.config), self.config.clip_config.text_config.vocab_size, tokenizer)
        if tokenizer is None:
            self._tokenizer = found
        return found

    def get_input_embeddings(self) -> torch.nn.Module | None:
        """The token embedding of the text tower; `None` of a baked model, which has none."""
        return None if self.config.baked else text_side(self.clip).token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding of the text tower."""
        self._require_text_tower()
        text_side(self.clip).tower.set_input_embeddings(value)

    @property
    def _execution_device(self) -> torch.device:
        """Where inputs are to be; parameters of an offloaded model say `meta`."""
        device = getattr(getattr(self, "_hf_hook", None), "execution_device", None)
        return self.device if device is None else torch.device(device)

    def _require_text_tower(self) -> None:
        if self.config.baked:
            raise ValueError(
                "The model is baked: it has no text tower and scores images against its own labels only; use the "
                "checkpoint that it was baked from."
            )

    def encode_classes(self, prompt_chunk_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Class embeddings of both branches, computed in every call but in [`~TaiDptModel.cached_class_embeddings`].

        Args:
            prompt_chunk_size (`int`, *optional*): as in [`~TaiDptModel.forward`].

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: global G and local H, each `(classes, dim)`, L2-normalised, fp32.
        """
        self._require_loaded()
        if self.config.class_embedding_source == "fixed":
            return normalize(self.class_embeddings_global), normalize(self.class_embeddings_local)
        both = get_or_compute(self, lambda: self._compute_class_embeddings(prompt_chunk_size))  # (2, classes, dim)
        return both[0], both[1]

    def cached_class_embeddings(self) -> AbstractContextManager[None]:
        """A block in which class embeddings are computed once, without gradients, for this model and thread.

        Nothing is kept beyond the block. Inside, do not change what they depend on (context vectors, text tower,
        adapters): it would not be noticed. For serving, [`~TaiDptModel.bake`] stores them for good.

        Example:
            >>> import torch
            >>> from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel
            >>> model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
            >>> batches = torch.rand(2, 1, 3, 224, 224)  # two batches of one image
            >>> with torch.no_grad(), model.cached_class_embeddings():
            ...     logits = [model(pixel_values=batch).logits for batch in batches]
            >>> logits[0].shape
            torch.Size([1, 80])
        """
        return cached_class_embeddings(self)

    def class_digest(self) -> bytes | None:
        """A digest of all that [`~TaiDptModel.encode_classes`] depends on; class embeddings are equal where it is.

        Returns:
            `bytes`: `None` where that cannot be told (training, adapters, hooks, another device than the CPU, an open
            block of [`~TaiDptModel.cached_class_embeddings`]), nothing has to be encoded, or encoding is quicker (a
            few classes in a large text tower).
        """
        return class_digest(self)

    def _compute_class_embeddings(self, chunk_size: int | None = None) -> torch.Tensor:
        """Class embeddings `(2, classes, dim)`; many classes go in pieces."""
        count, learner = self.config.num_labels, self.prompt_learner
        if torch.is_grad_enabled():
            adapters = [parameter for parameter in text_side(self.clip).parameters() if parameter.requires_grad]
            recompute = learner.gradient_checkpointing and self.training
            learned = [*learner.contexts, *adapters]
            both = encode_chunks(self._encode_piece, count, learned, chunk_size, recompute)  # (2, classes, dim)
        else:
            both = torch.cat([self._encode_piece(piece) for piece in split_classes(count, CLASS_BATCH)], dim=1)
        return normalize(both)  # (2, classes, dim)

    def _encode_piece(self, classes: range) -> torch.Tensor:
        """Embeddings `(2, classes, dim)` of some classes, not normalised."""
        return encode_prompts(self.prompt_learner, text_side(self.clip), classes)

    def _check_prompts(self) -> None:
        """Raises a `ValueError` that names the first class whose prompt is too long for the text tower."""
        self.prompt_learner.layout(text_side(self.clip), range(self.config.num_labels), torch.device("cpu"))

    @torch.no_grad()
    def encode_templates(
        self, templates: Sequence[str] | None = None, tokenizer: PreTrainedTokenizerBase | str | None = None
    ) -> torch.Tensor:
        """Class embeddings of written templates: normalised, averaged over the templates, normalised again.

        Args:
            templates (`Sequence[str]`, *optional*): texts with `{}`; that of the labels' language by default.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): as for [`~TaiDptModel.get_tokenizer`].

        Returns:
            `torch.Tensor` of shape `(classes, dim)`, fp32.

        Raises:
            ValueError: a template has no `{}`, or a text is too long.
        """
        return encode_templates(self, templates, tokenizer)

    @torch.no_grad()
    def encode_texts(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | str | None = None
    ) -> torch.Tensor:
        """Pooled features of written texts.

        Args:
            texts (`Sequence[str]`): any texts.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): as for [`~TaiDptModel.get_tokenizer`].

        Returns:
            `torch.Tensor` of shape `(texts, dim)`, L2-normalised, fp32.

        Raises:
            ValueError: a text is longer than the text tower's positions (it is named), or the model is baked.
        """
        self._require_text_tower()
        return encode_texts(self, texts, self.get_tokenizer(tokenizer))

    def encode_captions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of captions, pooled as the text tower pools (CLIP: at the end of text) and of every token.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, length)`): token ids with start and end of text.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 for tokens, 0 for padding;
                required where a caption is padded.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: global `(batch, dim)` and token `(batch, length, dim)` features,
            L2-normalised, fp32; tokens of the padding are zero.

        Raises:
            ValueError: a caption has no end-of-text token, or is padded and there is no mask, or the model is baked.
        """
        return self._encode_captions(input_ids, attention_mask, Record())[:2]

    def _encode_captions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, record: Record
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Global and token features of captions, and the mask of their tokens `(batch, length)`."""
        self._require_text_tower()
        side, input_ids = text_side(self.clip), input_ids.to(self._execution_device)  # (batch, length)
        end, mask = side.find_end(input_ids, attention_mask, self.config.eos_token_id)  # (batch,), (batch, length)
        pooled, tokens = side.encode(input_ids, mask, end, self.config.pad_token_id, record)
        tokens = normalize(tokens) * mask[:, :, None]  # (batch, length, dim)
        return normalize(pooled), tokens, mask

    def encode_images(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        flip: bool | None = None,
        multi_crop: bool | str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of images, pooled and of every cell.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): pixels, normalised by the processor.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets images have another size than the
                CLIP was trained on.
            flip (`bool`, *optional*): averages with the mirror image; `config.flip` by default.
            multi_crop (`bool` or `"max"`, *optional*): averages over windows of a large image, or with `"max"` keeps
                ten views, the whole and nine tiles; `config.multi_crop` by default.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: global `(batch, dim)` and dense `(batch, height, width, dim)`
            features, L2-normalised, fp32; height and width in cells. With `"max"` both have ten views after the batch.

        Raises:
            ValueError: the size is not the tower's and may not be interpolated, or has no whole cells for windows.
        """
        return encode_images(self.clip, self.config, pixel_values, interpolate_pos_encoding, flip, multi_crop)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of logits: `sigmoid(score_scale * logit + score_bias)`, as `config` says.

        Args:
            logits (`torch.Tensor` of shape `(..., classes)`): as of [`~TaiDptModel.forward`].

        Returns:
            `torch.Tensor` of shape `(..., classes)`: in the dtype of the logits, at least fp32.
        """
        return probabilities(logits, self.config.score_scale, self.config.score_bias)  # (..., classes)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        caption_embeds: torch.Tensor | None = None,
        token_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        dense_embeds: torch.Tensor | None = None,
        flip: bool | None = None,
        multi_crop: bool | str | None = None,
        second_look: bool = False,
        standardize: bool | None = None,
        return_class_embeddings: bool = False,
        prompt_chunk_size: int | None = None,
        class_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | Sequence[int] | None = None,
    ) -> TaiDptOutput | tuple:
        """Scores images or captions against all classes.

        Give exactly one of `pixel_values`, `input_ids`, or cached features of [`~TaiDptModel.encode_captions`]
        (`caption_embeds` with `token_embeds`) or [`~TaiDptModel.encode_images`] (`image_embeds` with `dense_embeds`).

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`, *optional*): normalised pixels.
            input_ids (`torch.Tensor` of shape `(batch, length)`, *optional*): captions as token ids.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): mask of the captions.
            labels (`torch.Tensor` of shape `(batch, classes)`, *optional*): 1 where a class is present; gives `loss`.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets images have any size.
            caption_embeds (`torch.Tensor` of shape `(batch, dim)`, *optional*): cached global caption features.
            token_embeds (`torch.Tensor` of shape `(batch, length, dim)`, *optional*): cached token features.
            image_embeds (`torch.Tensor` of shape `(batch, dim)`, *optional*): cached global image features, of several
                views `(batch, views, dim)`.
            dense_embeds (`torch.Tensor` of shape `(batch, height, width, dim)`, *optional*): cached dense features, of
                several views `(batch, views, height, width, dim)`.
            flip (`bool`, *optional*): averages image features with the mirror image's; `config.flip` by default.
            multi_crop (`bool` or `"max"`, *optional*): averages features over windows of large images; or with
                `"max"` scores the whole and 3 x 3 tiles and joins half of the score of the whole with half of the
                largest over tiles; `config.multi_crop` by default.
            second_look (`bool`, *optional*, defaults to `False`): averages the score of each label that some cell
                clearly shows with that of the part where it seems to be, cut from `pixel_values` and seen again; see
                `second_look.py`. An image larger than the tower's size is first seen at that size.
            standardize (`bool`, *optional*): whether the scores are standardised as the configuration says
                (`image_standardization`, `score_statistics`), and those of images joined with the visual classifier;
                by default those of images are, those of captions not.
            return_class_embeddings (`bool`, *optional*, defaults to `False`): also returns the class embeddings.
            prompt_chunk_size (`int`, *optional*): classes whose prompts go through the text tower at a time when
                learning; the backward pass computes each chunk again, so that memory is that of one. By default more
                than 1,024 classes do.
            class_embeddings (`tuple[torch.Tensor, torch.Tensor]`, *optional*): what
                [`~TaiDptModel.encode_classes`] gave, global and local `(classes, dim)`; computed by default.
            output_attentions (`bool`, *optional*): returns `attentions`, of the tower that ran; as for
                [`~transformers.CLIPModel`] they need `attn_implementation="eager"`.
            output_hidden_states (`bool` or `list[int]`, *optional*): returns `hidden_states`, of the tower that ran;
                with indices those alone, and `None` for the others.

        Returns:
            [`TaiDptOutput`], or a `tuple` of what is there with `return_dict=False`, given or in the configuration.

        Raises:
            ValueError: none or several kinds of input, or a padded caption without mask.
        """
        given = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "caption_embeds": caption_embeds,
            "image_embeds": image_embeds,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise ValueError(f"Give exactly one of {', '.join(given)}: got {' and '.join(names) or 'none'}.")
        for name, embeds, partner in (
            ("caption_embeds", caption_embeds, token_embeds),
            ("image_embeds", image_embeds, dense_embeds),
        ):
            if embeds is not None and partner is None:
                raise ValueError(f"`{name}` needs its dense partner: pass token_embeds or dense_embeds too.")
        if second_look and pixel_values is None:
            raise ValueError("`second_look` cuts parts from images: give `pixel_values`, not features or captions.")
        if class_embeddings is None:
            class_embeddings = self.encode_classes(prompt_chunk_size)
        global_embeddings, local_embeddings = class_embeddings  # (classes, dim) each
        joined_embeddings, offset = local_embeddings, None
        record = Record.of_flags(self.config, output_hidden_states, output_attentions)
        if pixel_values is not None:
            multi_crop = self.config.multi_crop if multi_crop is None else multi_crop
            views = (interpolate_pos_encoding or second_look, flip, multi_crop)
            seen = whole_view(self.config, pixel_values) if second_look and not multi_crop else pixel_values
            image_embeds, dense_embeds = encode_images(self.clip, self.config, seen, *views, record)
        elif input_ids is not None:
            caption_embeds, token_embeds, attention_mask = self._encode_captions(input_ids, attention_mask, record)
        tiles = None
        if image_embeds is not None:
            if image_embeds.dim() == 3:  # of several views, which are scored as images of their own
                tiles = image_embeds.shape[1]
                image_embeds, dense_embeds = image_embeds.flatten(0, 1), dense_embeds.flatten(0, 1)
            grid = dense_embeds.shape[1:3]
            pooled, dense, mask = image_embeds, dense_embeds.flatten(1, 2), None  # (batch, dim), (batch, cells, dim)
            spatial_scale = self.config.image_spatial_scale
            if self.visual_classifier is not None and standardize is not False:
                joined_embeddings, offset = self.visual_classifier(local_embeddings)  # (classes, dim), (classes,)
        else:
            grid = None
            pooled, dense, mask = caption_embeds, token_embeds, attention_mask  # (batch, dim), (batch, length, dim)
            spatial_scale = self.config.text_spatial_scale
        # Cosines stay in fp32 under autocast: the softmax over tokens or cells multiplies them by up to 50.
        with torch.autocast(global_embeddings.device.type, enabled=False):
            scales = (self.config.logit_scale, spatial_scale, self.log_scales)
            logits_global, logits_local, similarity = branch_scores(
                pooled, dense, global_embeddings, joined_embeddings, *scales, mask, offset
            )
            if standardize is True or (standardize is None and image_embeds is not None):
                logits_global, logits_local = standardize_scores(
                    self.config, self.caption_bank, logits_global, logits_local, pooled
                )
            weight = self.config.local_weight
            logits = (1 - weight) * logits_global + weight * logits_local  # (batch, classes)
            if self.head is not None:
                joined = torch.cat([logits, pooled.to(logits.dtype)], dim=1)  # (batch, classes + dim)
                logits = self.head(joined.to(self.head.weight.dtype)).to(logits.dtype)  # (batch, classes)
        wholes = None
        if tiles is not None:
            branches = [scores.unflatten(0, (-1, tiles)) for scores in (logits, logits_global, logits_local)]
            logits, logits_global, logits_local = map(join_tiles, branches)  # (batch, classes) each
            wholes = [scores[:, 0] for scores in branches]  # (batch, classes) each
            similarity = similarity.unflatten(0, (-1, tiles))[:, 0]  # (batch, cells, classes) of the whole image
        similarity_map = None if grid is None else similarity.transpose(1, 2).unflatten(2, grid)
        if second_look:

            def see(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
                options = {"multi_crop": False, "flip": flip, "standardize": standardize, "return_dict": True}
                outputs = self(pixel_values=pixels, class_embeddings=class_embeddings, **options)
                return outputs.logits, outputs.logits_global, outputs.logits_local

            scores = (logits, logits_global, logits_local)  # (batch, classes) each
            boxes = find_boxes(similarity_map, contrastive_scale(self.clip))  # (boxes, 6)
            cells, size = similarity_map.shape[-2:], self.config.image_size
            scores = look_again(see, pixel_values, scores, boxes, cells, size, wholes)
            logits, logits_global, logits_local = scores
        loss = None
        if labels is not None:
            ranking = RankingLoss()
            loss = ranking(logits_global, labels) + ranking(logits_local, labels)
        return TaiDptOutput(
            loss=loss,
            logits=logits,
            logits_global=logits_global,
            logits_local=logits_local,
            similarity_map=similarity_map,
            class_embeddings=(global_embeddings, local_embeddings) if return_class_embeddings else None,
            hidden_states=record.chosen_hidden_states,
            attentions=record.attentions,
        )


__all__ = ["TaiDptModel", "TaiDptOutput"]
