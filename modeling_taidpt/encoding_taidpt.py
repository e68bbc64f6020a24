"""The encoding half of [`TaiDptModel`]: classes, texts, captions and images to features in the joint space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from .backbones import DualEncoder, text_side
from .class_embedding_cache import ClassEmbeddingCache
from .configuration_taidpt import TaiDptConfig
from .dense_features import image_features
from .full_prompts import encode_full_prompts, lay_out_prompts
from .hub import find_tokenizer
from .image_views import encode_views
from .prompt_chunks import encode_chunks, split_classes
from .prompt_learner import PromptLearner
from .scores import normalize

DEFAULT_TEMPLATE = "a photo of a {}."
TEXT_BATCH = 256  # texts or prompts encoded at a time where no gradient is kept


class EncodingMixin:
    """Encodes with the frozen CLIP and the prompts of a model; [`TaiDptModel`] is the only class that mixes it in."""

    config: TaiDptConfig
    clip: DualEncoder
    prompt_learner: PromptLearner
    class_embeddings_global: torch.Tensor
    class_embeddings_local: torch.Tensor
    training: bool
    device: torch.device
    _class_embedding_cache: ClassEmbeddingCache
    _tokenizer: PreTrainedTokenizerBase | None

    def get_tokenizer(self, tokenizer: PreTrainedTokenizerBase | str | None = None) -> PreTrainedTokenizerBase:
        """The tokenizer: the argument, else the one beside the checkpoint, else the base's, else CLIP's BPE.

        Args:
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): taken as it is, or loaded from there.

        Returns:
            [`~transformers.PreTrainedTokenizerBase`]: found once, then kept.
        """
        if tokenizer is None and self._tokenizer is not None:
            return self._tokenizer
        sources = [self.config._name_or_path, self.config.base_model_name_or_path]
        found = find_tokenizer(sources, self.config.clip_config.text_config.vocab_size, tokenizer)
        if tokenizer is None:
            self._tokenizer = found
        return found

    def get_input_embeddings(self) -> torch.nn.Module | None:
        """The token embedding of the text tower; `None` of a baked model, which has none."""
        return None if self.config.baked else text_side(self.clip).token_embedding

    def _require_text_tower(self) -> None:
        if self.config.baked:
            raise ValueError(
                "The model is baked: it has no text tower and scores images against its own labels only; use the "
                "checkpoint that it was baked from."
            )

    def _require_base(self) -> None:
        if self.config.prompts_only:
            raise ValueError(
                "The prompts of this model stand on a random CLIP: load it with `TaiDptModel.from_pretrained`, which "
                "fetches the CLIP that they were learned on."
            )

    def encode_classes(self, prompt_chunk_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Class embeddings of both branches.

        In eval mode they are computed once and kept until a parameter changes.

        Args:
            prompt_chunk_size (`int`, *optional*): as in [`~TaiDptModel.forward`].

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: global G and local H, each `(classes, dim)`, L2-normalised, fp32.
        """
        self._require_base()
        if self.config.class_embedding_source == "fixed":
            return normalize(self.class_embeddings_global), normalize(self.class_embeddings_local)
        if self.training:
            both = self._compute_class_embeddings(prompt_chunk_size)  # (2, classes, dim)
        else:
            contexts, frozen = self.prompt_learner.contexts, text_side(self.clip).parameters()
            both = self._class_embedding_cache.get(self._compute_class_embeddings, contexts, frozen)
        return both[0], both[1]

    def _compute_class_embeddings(self, chunk_size: int | None = None) -> torch.Tensor:
        """Class embeddings `(2, classes, dim)`; many classes go in pieces."""
        count, learner = len(self.config.labels), self.prompt_learner
        if torch.is_grad_enabled():
            contexts, recompute = learner.contexts, learner.gradient_checkpointing and self.training
            both = encode_chunks(self._encode_piece, count, contexts, chunk_size, recompute)  # (2, classes, dim)
        else:
            both = torch.cat([self._encode_piece(piece) for piece in split_classes(count, TEXT_BATCH)], dim=1)
        return normalize(both)  # (2, classes, dim)

    def _encode_piece(self, classes: range) -> torch.Tensor:
        """Embeddings `(2, classes, dim)` of some classes, not normalised."""
        side = text_side(self.clip)
        if side.shares_prefix:
            return self.prompt_learner(self.clip.text_model, self.clip.text_projection, classes)
        return encode_full_prompts(self.prompt_learner, side, classes)

    def _check_prompts(self) -> None:
        """Raises a `ValueError` that names the first class whose prompt is too long for the text tower."""
        side, classes = text_side(self.clip), range(self.config.num_labels)
        if side.shares_prefix:
            self.prompt_learner.layout(classes, torch.device("cpu"))
        else:
            lay_out_prompts(self.config, classes, side)

    @torch.no_grad()
    def encode_templates(
        self, templates: Sequence[str] | None = None, tokenizer: PreTrainedTokenizerBase | str | None = None
    ) -> torch.Tensor:
        """Class embeddings of written templates: normalised, averaged over the templates, normalised again.

        Args:
            templates (`Sequence[str]`, *optional*): texts with `{}` for the name; `"a photo of a {}."` by default.
            tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): as for [`~TaiDptModel.get_tokenizer`].

        Returns:
            `torch.Tensor` of shape `(classes, dim)`, fp32.

        Raises:
            ValueError: a template has no `{}`, or a text is too long.
        """
        templates = [DEFAULT_TEMPLATE] if templates is None else list(templates)
        wrong = [template for template in templates if "{}" not in template]
        if wrong or not templates:
            raise ValueError(
                f"Template {wrong or templates} has no {{}} for the class name: write 'a photo of a {{}}.'"
            )
        names = [name.replace("_", " ") for name in self.config.class_names]
        texts = [template.replace("{}", name) for name in names for template in templates]
        features = self.encode_texts(texts, tokenizer)  # (classes * templates, dim)
        return normalize(features.unflatten(0, (len(names), len(templates))).mean(dim=1))  # (classes, dim)

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
        tokenizer = self.get_tokenizer(tokenizer)
        max_length = text_side(self.clip).max_length
        features = []
        for start in range(0, len(texts), TEXT_BATCH):
            batch = list(texts[start : start + TEXT_BATCH])
            tokens = tokenizer(
                batch,
                padding=True,
                padding_side="right",
                return_attention_mask=True,
                return_tensors="pt",
                verbose=False,
            )
            lengths = tokens["attention_mask"].sum(dim=1)  # (batch,)
            if int(lengths.max()) > max_length:
                text = batch[int(lengths.argmax())]
                raise ValueError(
                    f"The text {text[:60]!r} has {int(lengths.max())} tokens, the text tower takes {max_length}."
                )
            features.append(self.encode_captions(tokens["input_ids"], tokens["attention_mask"])[0])  # (batch, dim)
        return torch.cat(features)  # (texts, dim)

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
        return self._encode_captions(input_ids, attention_mask)[:2]

    def _encode_captions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Global and token features of captions, and the mask of their tokens `(batch, length)`."""
        self._require_text_tower()
        side, input_ids = text_side(self.clip), input_ids.to(self.device)  # (batch, length)
        end, mask = side.find_end(input_ids, attention_mask, self.config.eos_token_id)  # (batch,), (batch, length)
        pooled, tokens = side.encode(input_ids, mask, end, self.config.pad_token_id)
        tokens = normalize(tokens) * mask[:, :, None]  # (batch, length, dim)
        return normalize(pooled), tokens, mask

    def encode_images(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        flip: bool | None = None,
        multi_crop: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of images, pooled and of every cell.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): pixels, normalised by the processor.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets images have another size than the
                CLIP was trained on.
            flip (`bool`, *optional*): averages with the mirror image; `config.flip` by default.
            multi_crop (`bool`, *optional*): averages over windows of a large image; `config.multi_crop` by default.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: global `(batch, dim)` and dense `(batch, height, width, dim)`
            features, L2-normalised, fp32; height and width in cells.

        Raises:
            ValueError: the size is not the tower's and may not be interpolated, or has no whole cells for windows.
        """
        config, dtype = self.config, self.clip.logit_scale.dtype
        flip = config.flip if flip is None else flip
        multi_crop = config.multi_crop if multi_crop is None else multi_crop
        interpolate = interpolate_pos_encoding or multi_crop  # leaves windows of the tower's own size as they are

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled, dense = image_features(
                self.clip, pixels, interpolate, config.pool_with_positions, config.dense_features
            )
            return normalize(pooled), normalize(dense)  # (batch, dim), (batch, height, width, dim)

        window = config.image_size if multi_crop else None
        return encode_views(encode, pixel_values.to(dtype), window, config.patch_size, flip)


__all__ = ["DEFAULT_TEMPLATE", "TEXT_BATCH", "EncodingMixin"]
