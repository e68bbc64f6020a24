"""The dual encoders of transformers that prompts are learned on, behind one text side and one image side.

What differs between them is here and nowhere else. Exact everywhere: pooled image features equal the model's
`get_image_features`, pooled features of texts its `get_text_features`, as the model was trained (padding, mask and
pooling are its own). Where the method leaves a choice, because the paper has CLIP only:

- CLIP, MetaCLIP, MetaCLIP 2: a causal text tower, pooled at the end of text. The prefix that prompts share is computed
  once, which is exact under a causal mask.
- SigLIP, SigLIP 2: no causal mask, so nothing is shared and every prompt is encoded whole. Texts are padded on the
  right to `max_position_embeddings` tokens, without a mask, and pooled at the last one, whatever it is; prompts have
  no start token, for the model has none. The token features of a caption are those of its own tokens, through the
  pooled token's head; the padding's are left out.
- Chinese-CLIP, AltCLIP: a BERT, pooled at the first token; prompts are `[CLS] V1 .. VM <name> . [SEP]`. So are those
  of a vision-text dual encoder on a BERT or RoBERTa, whose pooled token goes through the pooler of its text tower too;
  so does each token feature of a caption.
- TIPS v2: no causal mask, no start, no end; the mean over the text's own tokens, padding left out.

Image towers end in a class token and a projection, or (SigLIP) in an attention pool; the dense feature of a patch is
then what the pool makes of that patch alone. SigLIP 2 with free resolution takes `(batch, 3, height, width)` here, cut
into patches as its own image processor cuts them. TIPS v2 has a register beside the class token and no projection;
its dense features are `"value_residual"` unless told otherwise, as in its published segmentation without training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import (
    AltCLIPModel,
    ChineseCLIPModel,
    CLIPModel,
    CLIPSegModel,
    MetaClip2Model,
    PreTrainedModel,
    Siglip2Model,
    SiglipModel,
    Tipsv2Model,
    VisionTextDualEncoderModel,
)
from transformers.masking_utils import create_bidirectional_mask

from .layer_record import Record
from .modeling_clip_resnet import CLIPResNetModel
from .tokenization_taidpt import find_end_of_text

DualEncoder: TypeAlias = (
    CLIPModel
    | CLIPResNetModel
    | CLIPSegModel
    | MetaClip2Model
    | SiglipModel
    | Siglip2Model
    | ChineseCLIPModel
    | AltCLIPModel
    | Tipsv2Model
    | VisionTextDualEncoderModel
)
ANY_TOWERS = "vision-text-dual-encoder"  # the family whose towers are of other families
MODEL_CLASSES: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPModel,
    "clip_resnet": CLIPResNetModel,
    "clipseg": CLIPSegModel,
    "metaclip_2": MetaClip2Model,
    "siglip": SiglipModel,
    "siglip2": Siglip2Model,
    "chinese_clip": ChineseCLIPModel,
    "altclip": AltCLIPModel,
    "tipsv2": Tipsv2Model,
    ANY_TOWERS: VisionTextDualEncoderModel,
}


class TextSide:
    """A causal text tower that is pooled at the end of text: CLIP's and MetaCLIP 2's.

    Attributes:
        shares_prefix (`bool`): whether tokens before the first that differs have the same states in every prompt.
        pads_prompts (`bool`): whether prompts are padded to `max_length` tokens, and the padding is seen.
        max_length (`int`): most tokens of a text.
        modules (`list[nn.Module]`): everything that text features depend on.
    """

    shares_prefix = True
    pads_prompts = False

    def __init__(self, clip: Any) -> None:
        self.tower = clip.text_model
        self.max_length = text_length(clip.config)
        projection: nn.Module | None = getattr(clip, "text_projection", None)
        self.modules = [self.tower] if projection is None else [self.tower, projection]
        self.projection = projection

    @property
    def token_embedding(self) -> nn.Embedding:
        """The embedding of tokens, in whose width context vectors are."""
        return self.tower.get_input_embeddings()

    def parameters(self) -> list[torch.Tensor]:
        """All parameters that text features depend on."""
        return [parameter for module in self.modules for parameter in module.parameters()]

    def find_end(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, eos_token_id: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the end of each text `(batch,)` and the mask of its tokens `(batch, length)`.

        Raises:
            ValueError: a text has no end, or is padded and there is no mask.
        """
        return find_end_of_text(input_ids, attention_mask, eos_token_id)

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        end: torch.Tensor,
        pad_token_id: int | None,
        record: Record,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pooled `(batch, dim)` and token `(batch, length, dim)` features of texts, not normalised."""
        outputs = self.tower(input_ids=input_ids, attention_mask=attention_mask, **record.options)
        record.keep(outputs)
        tokens = self.projection(outputs.last_hidden_state)  # (batch, length, dim)
        return tokens[torch.arange(tokens.shape[0], device=tokens.device), end], tokens

    def encode_prompts(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pooled features `(prompts, dim)` of whole prompts, given as embeddings `(prompts, length, width)`.

        Args:
            embeds (`torch.Tensor` of shape `(prompts, length, width)`): token embeddings and context vectors.
            mask (`torch.Tensor` of shape `(prompts, length)`): 1 for tokens, 0 for padding on the right.
        """
        raise NotImplementedError("A causal tower shares the prefix: see `PromptLearner`.")


class SiglipTextSide(TextSide):
    """SigLIP's text tower: no mask at all, padded to its full length, pooled at the last token."""

    shares_prefix = False
    pads_prompts = True

    def find_end(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, eos_token_id: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`TextSide.find_end`]; SigLIP pads with its end token, the first one ends the text."""
        if attention_mask is None:
            end, _ = find_end_of_text(input_ids, torch.ones_like(input_ids), eos_token_id)
            attention_mask = (torch.arange(input_ids.shape[1], device=end.device) <= end[:, None]).long()
        attention_mask = attention_mask.to(input_ids.device)  # (batch, length)
        _require_right_padding(attention_mask)
        return attention_mask.sum(dim=1) - 1, attention_mask

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        end: torch.Tensor,
        pad_token_id: int | None,
        record: Record,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`TextSide.encode`]."""
        length = input_ids.shape[1]
        input_ids = input_ids.masked_fill(attention_mask == 0, pad_token_id)  # (batch, length)
        input_ids = nn.functional.pad(input_ids, (0, self.max_length - length), value=pad_token_id)
        outputs = self.tower(input_ids=input_ids, **record.options)  # of (batch, max_length)
        record.keep(outputs)
        return outputs.pooler_output, self.tower.head(outputs.last_hidden_state[:, :length])

    def encode_prompts(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As [`TextSide.encode_prompts`]; the padding is seen, as in training."""
        hidden = self.tower.embeddings(inputs_embeds=embeds)  # (prompts, max_length, width)
        attend = create_bidirectional_mask(config=self.tower.config, inputs_embeds=hidden, attention_mask=None)
        hidden = self.tower.encoder(inputs_embeds=hidden, attention_mask=attend).last_hidden_state
        return self.tower.head(self.tower.final_layer_norm(hidden[:, -1]))  # (prompts, dim)


class BertTextSide(TextSide):
    """A BERT as the text tower, pooled at its first token: Chinese-CLIP's and AltCLIP's."""

    shares_prefix = False

    def find_end(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, eos_token_id: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`TextSide.find_end`]; the first token is the text's own."""
        end, attention_mask = super().find_end(input_ids, attention_mask, eos_token_id)
        _require_right_padding(attention_mask)
        return end, attention_mask

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        end: torch.Tensor,
        pad_token_id: int | None,
        record: Record,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`TextSide.encode`]."""
        outputs = self.tower(input_ids=input_ids, attention_mask=attention_mask, **record.options)
        record.keep(outputs)
        tokens = self.project(outputs.last_hidden_state)  # (batch, length, dim)
        return tokens[:, 0], tokens

    def encode_prompts(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As [`TextSide.encode_prompts`]."""
        hidden = self.tower(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        return self.project(hidden[:, :1])[:, 0]  # (prompts, dim)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Last hidden states `(batch, length, width)` to the joint space, `(batch, length, dim)`."""
        return self.projection(hidden)


class PooledBertTextSide(BertTextSide):
    """A BERT or RoBERTa with a pooler of its own before the projection, as in a vision-text dual encoder."""

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """As [`BertTextSide.project`]: the pooler, which looks at the first token, looks at each one alone."""
        pooled = self.tower.pooler(hidden.flatten(0, 1)[:, None])  # (batch * length, width)
        return self.projection(pooled).unflatten(0, hidden.shape[:2])  # (batch, length, dim)


class MeanTextSide(TextSide):
    """A text tower without causal mask, start and end, pooled by the mean over the text's own tokens: TIPS v2's."""

    shares_prefix = False

    def find_end(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, eos_token_id: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`TextSide.find_end`]; the padding is known by its id, and an empty text is one token of padding."""
        if attention_mask is None:
            attention_mask = (input_ids != self.tower.config.pad_token_id).long()  # (batch, length)
        attention_mask = attention_mask.to(input_ids.device)  # (batch, length)
        empty = attention_mask.sum(dim=1, keepdim=True) == 0  # (batch, 1)
        attention_mask = torch.cat([attention_mask[:, :1] + empty, attention_mask[:, 1:]], dim=1)  # (batch, length)
        _require_right_padding(attention_mask)
        return attention_mask.sum(dim=1) - 1, attention_mask

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        end: torch.Tensor,
        pad_token_id: int | None,
        record: Record,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`TextSide.encode`]."""
        outputs = self.tower(input_ids=input_ids, attention_mask=attention_mask, **record.options)
        record.keep(outputs)
        return outputs.pooler_output, outputs.last_hidden_state

    def encode_prompts(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As [`TextSide.encode_prompts`]."""
        return self.tower(inputs_embeds=embeds, attention_mask=mask).pooler_output  # (prompts, dim)


def _require_right_padding(attention_mask: torch.Tensor) -> None:
    """Raises a `ValueError` where a mask `(batch, length)` says that a text begins with padding."""
    if not torch.compiler.is_compiling() and bool((attention_mask[:, :1] == 0).any()):
        raise ValueError("The captions are padded on the left: tokenize with padding_side='right', as in training.")


@dataclass(frozen=True)
class Block:
    """The parts of a block of a ViT: `hidden + out(attention(norm(hidden)))`, then that plus `feed` of it.

    Attributes:
        norm (`Callable`): what queries, keys and values are made of.
        query, key, value (`Callable`): the projections.
        num_heads (`int`): heads of the attention.
        out (`Callable`): what is done to the attended values before they are added.
        feed (`Callable`): the second half, with its norm, before it is added.
    """

    norm: Callable[[torch.Tensor], torch.Tensor]
    query: Callable[[torch.Tensor], torch.Tensor]
    key: Callable[[torch.Tensor], torch.Tensor]
    value: Callable[[torch.Tensor], torch.Tensor]
    num_heads: int
    out: Callable[[torch.Tensor], torch.Tensor]
    feed: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def around(
        cls, attention: Any, norm: Callable[[torch.Tensor], torch.Tensor], num_heads: int, **halves: Any
    ) -> Block:
        """A block whose attention has `q_proj`, `k_proj` and `v_proj`; `out` and `feed` follow."""
        return cls(norm, attention.q_proj, attention.k_proj, attention.v_proj, num_heads, **halves)


class ImageSide:
    """A ViT tower with a class token: patches in, features in the joint space out.

    Attributes:
        tower (`nn.Module`): the vision tower.
        patch_size (`int`): pixels per cell side.
        prefix_tokens (`int`): tokens before the patches, 1 for a class token, which is the first.
    """

    prefix_tokens = 1

    def __init__(self, clip: Any) -> None:
        self.clip, self.tower = clip, clip.vision_model
        self.patch_size = clip.config.vision_config.patch_size

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of the tower."""
        return self.tower.encoder.layers

    def parts(self, layer: Any) -> Block:
        """The parts of one of its blocks."""
        attention = layer.self_attn
        return Block.around(
            attention,
            layer.layer_norm1,
            attention.num_heads,
            out=attention.out_proj,
            feed=lambda hidden: layer.mlp(layer.layer_norm2(hidden)),
        )

    def embed(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> torch.Tensor:
        """Images `(batch, 3, height, width)` to what the first block takes, `(batch, prefix + patches, width)`."""
        hidden = self.tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        return self.tower.pre_layrnorm(hidden)  # (batch, 1 + patches, width)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Output of the last block `(batch, prefix + patches, width)` to the image's feature `(batch, dim)`."""
        return self.clip.visual_projection(self.tower.post_layernorm(hidden[:, 0]))  # (batch, dim)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches `(batch, patches, width)` to the joint space, `(batch, patches, dim)`."""
        return self.clip.visual_projection(self.tower.post_layernorm(patches))  # (batch, patches, dim)


class SiglipImageSide(ImageSide):
    """SigLIP's ViT: no class token, an attention pool with an MLP in place of the projection."""

    prefix_tokens = 0

    def embed(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> torch.Tensor:
        """As [`ImageSide.embed`]."""
        return self.tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """As [`ImageSide.pool`]."""
        return self.tower.head(self.tower.post_layernorm(hidden))  # (batch, dim)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """As [`ImageSide.project`]: the attention pool looks at each patch alone."""
        alone = self.tower.post_layernorm(patches).flatten(0, 1)[:, None]  # (batch * patches, 1, width)
        return self.tower.head(alone).unflatten(0, patches.shape[:2])  # (batch, patches, dim)


class ViTImageSide(ImageSide):
    """A plain ViT with a pooler, as in a vision-text dual encoder."""

    @property
    def layers(self) -> nn.ModuleList:
        """As [`ImageSide.layers`]."""
        return self.tower.layers

    def parts(self, layer: Any) -> Block:
        """As [`ImageSide.parts`]."""
        attention = layer.attention
        return Block.around(
            attention,
            layer.layernorm_before,
            attention.num_attention_heads,
            out=attention.o_proj,
            feed=lambda hidden: layer.mlp(layer.layernorm_after(hidden)),
        )

    def embed(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> torch.Tensor:
        """As [`ImageSide.embed`]."""
        return self.tower.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """As [`ImageSide.pool`]."""
        return self.project(hidden[:, :1])[:, 0]  # (batch, dim)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """As [`ImageSide.project`]: the pooler, which looks at the first token, looks at each patch alone."""
        alone = self.tower.layernorm(patches).flatten(0, 1)[:, None]  # (batch * patches, 1, width)
        projected = self.clip.visual_projection(self.tower.pooler(alone))  # (batch * patches, dim)
        return projected.unflatten(0, patches.shape[:2])  # (batch, patches, dim)


class TipsImageSide(ImageSide):
    """TIPS v2's ViT: a class token and registers, scaled layers, no projection; positions always fit the grid."""

    def __init__(self, clip: Any) -> None:
        super().__init__(clip)
        self.prefix_tokens = 1 + clip.config.vision_config.num_register_tokens

    @property
    def layers(self) -> nn.ModuleList:
        """As [`ImageSide.layers`]."""
        return self.tower.encoder.layer

    def parts(self, layer: Any) -> Block:
        """As [`ImageSide.parts`]."""
        attention = layer.attention
        return Block.around(
            attention,
            layer.norm1,
            attention.num_attention_heads,
            out=lambda attended: layer.layer_scale1(attention.o_proj(attended)),
            feed=lambda hidden: layer.layer_scale2(layer.mlp(layer.norm2(hidden))),
        )

    def embed(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> torch.Tensor:
        """As [`ImageSide.embed`]."""
        return self.tower.embeddings(pixel_values)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """As [`ImageSide.pool`]."""
        return self.tower.layernorm(hidden[:, 0])  # (batch, dim)

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """As [`ImageSide.project`]."""
        return self.tower.layernorm(patches)  # (batch, patches, dim)


class Siglip2ImageSide(SiglipImageSide):
    """SigLIP 2's ViT of free resolution: positions always fit the grid."""

    def embed(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> torch.Tensor:
        """As [`ImageSide.embed`]; a side that is not a multiple of the patch loses its last pixels."""
        if pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` has the shape {tuple(pixel_values.shape)}, (batch, 3, height, width) is needed: use "
                "an image processor that resizes and cuts no patches, as `SiglipImageProcessor`."
            )
        side = self.patch_size
        height, width = (length // side for length in pixel_values.shape[-2:])
        patches = pixel_values[..., : height * side, : width * side].unflatten(3, (width, side))
        patches = patches.unflatten(2, (height, side))  # (batch, 3, height, side, width, side)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (batch, patches, side * side * 3)
        # One shape for the batch, whose positions are added to every image; made so that export keeps the size free.
        grid = torch.stack([torch.full((), side, device=patches.device) for side in (height, width)])  # (2,)
        return self.tower.embeddings(patches, grid[None])  # (batch, patches, width)


TEXT_SIDES: dict[str, type[TextSide]] = {
    "siglip": SiglipTextSide,
    "siglip2": SiglipTextSide,
    "chinese_clip": BertTextSide,
    "altclip": BertTextSide,
    "tipsv2": MeanTextSide,
}
IMAGE_SIDES: dict[str, type[ImageSide]] = {
    "siglip": SiglipImageSide,
    "siglip2": Siglip2ImageSide,
    "tipsv2": TipsImageSide,
}
# The towers that a vision-text dual encoder may have, by their own types.
ANY_TEXT_SIDES: dict[str, type[TextSide]] = {
    "clip_text_model": TextSide,
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), PooledBertTextSide),
}
ANY_IMAGE_SIDES: dict[str, type[ImageSide]] = {"clip_vision_model": ImageSide, "vit": ViTImageSide}
ROBERTAS = ("altclip_text_model", "roberta", "xlm-roberta", "camembert")  # their first positions are for padding


def text_side(clip: Any) -> TextSide:
    """The text side of a dual encoder."""
    return _side(clip.config, "text_config", TEXT_SIDES, ANY_TEXT_SIDES, TextSide)(clip)


def image_side(clip: Any) -> ImageSide:
    """The image side of a dual encoder whose vision tower is a ViT."""
    return _side(clip.config, "vision_config", IMAGE_SIDES, ANY_IMAGE_SIDES, ImageSide)(clip)


def require_known_towers(config: Any) -> None:
    """Raises a `ValueError` where a vision-text dual encoder has a tower that is not supported."""
    _side(config, "text_config", TEXT_SIDES, ANY_TEXT_SIDES, TextSide)
    _side(config, "vision_config", IMAGE_SIDES, ANY_IMAGE_SIDES, ImageSide)


def _side(config: Any, tower: str, sides: dict[str, Any], any_sides: dict[str, Any], usual: Any) -> Any:
    """The class of a side: by the model's type, or by its tower's where towers may be of any family."""
    if config.model_type != ANY_TOWERS:
        return sides.get(config.model_type, usual)
    kind = getattr(config, tower).model_type
    if kind not in any_sides:
        raise ValueError(
            f"The `{tower}` of this {ANY_TOWERS} is a `{kind}`: supported are {', '.join(any_sides)}, each with its "
            "pooler."
        )
    return any_sides[kind]


def text_length(clip_config: Any) -> int:
    """Most tokens of a text."""
    text_config = clip_config.text_config
    reserved = text_config.pad_token_id + 1 if text_config.model_type in ROBERTAS else 0
    return text_config.max_position_embeddings - reserved


def contrastive_scale(clip: Any) -> torch.Tensor:
    """What a dual encoder multiplies cosines with in its contrastive loss: a tensor without dimension."""
    scale = _scale(clip).detach().float().reshape(())  # SigLIP's has one dimension
    return scale.exp() if hasattr(clip, "logit_scale") else 1 / scale


def compute_dtype(clip: Any) -> torch.dtype:
    """The precision of a dual encoder's weights: that of its scale, which quantization leaves alone."""
    return _scale(clip).dtype


def _scale(clip: Any) -> torch.Tensor:
    """The one number of a contrastive loss: the logarithm of a factor, or (TIPS v2) a temperature."""
    return clip.logit_scale if hasattr(clip, "logit_scale") else clip.temperature


def keep_scalars_whole(model: nn.Module) -> None:
    """Makes buffers of frozen parameters without a dimension (a CLIP's `logit_scale`): FSDP cannot shard them.

    Args:
        model (`nn.Module`): is changed; its state dict keeps its names and values.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0 and not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.data)


__all__ = [
    "ANY_TOWERS",
    "MODEL_CLASSES",
    "DualEncoder",
    "ImageSide",
    "TextSide",
    "compute_dtype",
    "contrastive_scale",
    "image_side",
    "keep_scalars_whole",
    "require_known_towers",
    "text_length",
    "text_side",
]
