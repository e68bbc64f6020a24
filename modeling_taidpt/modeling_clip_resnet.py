"""CLIP with a convolutional vision tower: OpenAI's ModifiedResNet or any conv trunk of transformers, attention-pooled.

Source: Radford et al. 2021 (CLIP), section 2.4, and the published `clip/model.py`. The dense features are those of
TaI-DPT (CVPR 2023, section 3.4): every cell goes through the pool's value and output projections.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, CLIPTextModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput, CLIPPreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_taidpt import CLIPResNetConfig, CLIPResNetVisionConfig
from .layer_record import Record


class Bottleneck(nn.Module):
    """Residual block of the ModifiedResNet: strided blocks pool before their last convolution instead of striding."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(out_channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.downsample is None else self.downsample(hidden_states)
        hidden_states = self.bn1(self.conv1(hidden_states)).relu()  # (batch, channels, height, width)
        hidden_states = self.bn2(self.conv2(hidden_states)).relu()  # (batch, channels, height, width)
        hidden_states = self.avgpool(hidden_states)  # (batch, channels, height / stride, width / stride)
        hidden_states = self.bn3(self.conv3(hidden_states))  # (batch, 4 * channels, height / stride, width / stride)
        return (hidden_states + residual).relu()


class ModifiedResNet(nn.Module):
    """OpenAI's ResNet: three-convolution stem, average-pooled strides, no classifier.

    Args:
        config ([`CLIPResNetVisionConfig`]): `layers` and `width` are used.
    """

    def __init__(self, config: CLIPResNetVisionConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        in_channels = width
        for stage, blocks in enumerate(config.layers):
            channels, stride = width * 2**stage, 1 if stage == 0 else 2
            layer = [Bottleneck(in_channels, channels, stride)]
            in_channels = channels * Bottleneck.expansion
            layer += [Bottleneck(in_channels, channels) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Maps `(batch, 3, height, width)` to the last map `(batch, 32 * width, height / 32, width / 32)`."""
        hidden_states = self.bn1(self.conv1(pixel_values)).relu()  # (batch, width / 2, height / 2, width / 2)
        hidden_states = self.bn2(self.conv2(hidden_states)).relu()  # (batch, width / 2, height / 2, width / 2)
        hidden_states = self.bn3(self.conv3(hidden_states)).relu()  # (batch, width, height / 2, width / 2)
        hidden_states = self.avgpool(hidden_states)  # (batch, width, height / 4, width / 4)
        for stage in self.stages:
            hidden_states = stage(hidden_states)  # half the height and width in all but the first
        return hidden_states  # (batch, 32 * width, height / 32, width / 32)

    @property
    def stages(self) -> list[nn.Module]:
        """The four stages of blocks."""
        return [getattr(self, f"layer{stage}") for stage in range(1, 5)]


class AttentionPool(nn.Module):
    """CLIP's attention pool: the mean of the cells asks, the mean and the cells answer.

    Args:
        config ([`CLIPResNetVisionConfig`]): widths, heads and whether positions are used.
    """

    def __init__(self, config: CLIPResNetVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.grid_size = config.image_size // config.patch_size
        self.q_proj = nn.Linear(config.hidden_size, config.pool_hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.pool_hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.pool_hidden_size)
        self.c_proj = nn.Linear(config.pool_hidden_size, config.projection_dim)
        self.positional_embedding: nn.Parameter | None = None
        if config.use_positions:
            self.positional_embedding = nn.Parameter(torch.empty(self.grid_size**2 + 1, config.hidden_size))

    def positions(self, height: int, width: int, interpolate: bool) -> torch.Tensor:
        """Positional embedding `(1 + height * width, channels)` of a grid, bicubic where it is not the trained one."""
        embedding = self.positional_embedding  # (1 + cells, channels)
        if embedding is None:
            raise ValueError("The attention pool has no positional embedding: leave `with_positions` out.")
        if (height, width) == (self.grid_size, self.grid_size):
            return embedding
        if not interpolate:
            raise ValueError(
                f"The image gives {height}x{width} cells, the positions of the attention pool are for "
                f"{self.grid_size}x{self.grid_size}: resize the image or pass `interpolate_pos_encoding=True`."
            )
        mean, grid = embedding[:1], embedding[1:]  # (1, channels), (cells, channels)
        grid = grid.reshape(1, self.grid_size, self.grid_size, -1).permute(0, 3, 1, 2)  # (1, channels, side, side)
        grid = nn.functional.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([mean, grid.flatten(2)[0].T])  # (1 + height * width, channels)

    def forward(
        self, cells: torch.Tensor, with_positions: bool = True, interpolate_pos_encoding: bool = False
    ) -> torch.Tensor:
        """Pools cells `(batch, channels, height, width)` to `(batch, projection_dim)`."""
        height, width = cells.shape[-2:]
        tokens = cells.flatten(2).transpose(1, 2)  # (batch, cells, channels)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)  # (batch, 1 + cells, channels)
        if with_positions and self.positional_embedding is not None:
            tokens = tokens + self.positions(height, width, interpolate_pos_encoding)  # (batch, 1 + cells, channels)
        query = self._heads(self.q_proj(tokens[:, :1]))  # (batch, heads, 1, head_dim)
        key = self._heads(self.k_proj(tokens))  # (batch, heads, 1 + cells, head_dim)
        value = self._heads(self.v_proj(tokens))  # (batch, heads, 1 + cells, head_dim)
        pooled = nn.functional.scaled_dot_product_attention(query, key, value)  # (batch, heads, 1, head_dim)
        return self.c_proj(pooled.flatten(1))  # (batch, projection_dim)

    def dense(self, cells: torch.Tensor) -> torch.Tensor:
        """Projects every cell of `(batch, channels, height, width)` to `(batch, height, width, projection_dim)`."""
        return self.c_proj(self.v_proj(cells.permute(0, 2, 3, 1)))  # (batch, height, width, projection_dim)

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, heads, tokens, head_dim)


class CLIPResNetPreTrainedModel(CLIPPreTrainedModel):
    """Weight initialisation and loading of CLIPs with a convolutional vision tower."""

    config: CLIPResNetConfig
    config_class = CLIPResNetConfig
    base_model_prefix = "clip"
    supports_gradient_checkpointing = False  # the trunk has none
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "Bottleneck"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AttentionPool) and module.positional_embedding is not None:
            init.normal_(module.positional_embedding, std=module.positional_embedding.shape[-1] ** -0.5)
        elif isinstance(module, CLIPResNetModel):
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5)
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class CLIPResNetVisionModel(CLIPResNetPreTrainedModel):
    """Convolutional trunk and attention pool.

    Args:
        config ([`CLIPResNetVisionConfig`]): a ModifiedResNet, or any convolutional model by its `trunk_config`.
    """

    config: CLIPResNetVisionConfig
    config_class = CLIPResNetVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CLIPResNetVisionConfig) -> None:
        super().__init__(config)
        trunk_config = config.trunk_config
        self.trunk = ModifiedResNet(config) if trunk_config is None else convolutional_trunk(trunk_config)
        self.attention_pool = AttentionPool(config)
        self.post_init()

    def encode_cells(self, pixel_values: torch.Tensor, record: Record | None = None) -> torch.Tensor:
        """Runs the trunk: `(batch, 3, height, width)` to cells `(batch, channels, height / 32, width / 32)`.

        A record keeps the maps of its stages; a trunk has no attention weights.
        """
        record = Record() if record is None else record
        if isinstance(self.trunk, ModifiedResNet):
            with record.of_layers(self.trunk.stages):
                return self.trunk(pixel_values)  # (batch, channels, height / 32, width / 32)
        outputs = self.trunk(pixel_values, **{key: value for key, value in record.options.items() if "hidden" in key})
        if record:
            record.keep(outputs)
        return outputs.last_hidden_state  # (batch, channels, height / 32, width / 32)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        with_positions: bool = True,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalised pixels.
            with_positions (`bool`, *optional*, defaults to `True`): whether the pool adds its positional embedding.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): stretches the positional embedding to
                the grid of the image.
            output_hidden_states (`bool`, *optional*): returns the maps of the trunk's stages as `hidden_states`.
            **kwargs: accepted and unused, as the other vision towers take more.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state` `(batch, channels, height / 32, width / 32)`,
            `pooler_output` `(batch, projection_dim)`, in the joint space, not normalised.

        Raises:
            ValueError: the grid is not the trained one, positions are used and may not be interpolated.
        """
        record = Record.of_flags(self.config, output_hidden_states, False)
        cells = self.encode_cells(pixel_values, record)  # (batch, channels, height / 32, width / 32)
        pooled = self.attention_pool(cells, with_positions, interpolate_pos_encoding)  # (batch, projection_dim)
        states = record.hidden_states
        return BaseModelOutputWithPooling(last_hidden_state=cells, pooler_output=pooled, hidden_states=states)


def convolutional_trunk(config: Any) -> nn.Module:
    """A trunk of transformers: no code of a repository is run, and an attention that it lacks is not asked for.

    An EfficientNet whose squeeze ratio is 0 is an EfficientNet-Lite: its blocks do not squeeze and excite.
    """
    trunk = AutoModel.from_config(config, attn_implementation="eager", trust_remote_code=False)
    if config.model_type == "efficientnet" and not config.squeeze_expansion_ratio:
        for block in trunk.encoder.blocks:
            block.squeeze_excite = nn.Identity()
    return trunk


class CLIPResNetModel(CLIPResNetPreTrainedModel):
    """CLIP's text tower beside a convolutional vision tower; the calls are those of [`~transformers.CLIPModel`].

    Args:
        config ([`CLIPResNetConfig`]): both towers and the joint width.
    """

    def __init__(self, config: CLIPResNetConfig) -> None:
        super().__init__(config)
        if config.vision_config.projection_dim != config.projection_dim:
            raise ValueError(
                f"`vision_config.projection_dim` is {config.vision_config.projection_dim} and `projection_dim` is "
                f"{config.projection_dim}: both towers must end in the same width."
            )
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.vision_model = CLIPResNetVisionModel._from_config(config.vision_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encodes texts `(batch, length)`; `pooler_output` `(batch, projection_dim)` is projected, not normalised."""
        outputs = self.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)  # (batch, projection_dim)
        return outputs

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        with_positions: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes images `(batch, 3, height, width)`; `pooler_output` `(batch, projection_dim)`, not normalised."""
        return self.vision_model(pixel_values, with_positions, interpolate_pos_encoding, return_dict=True, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding of the text tower."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding of the text tower."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> CLIPOutput:
        """Compares texts with images, as [`~transformers.CLIPModel`] does.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): token ids.
            pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): normalised pixels.
            attention_mask (`torch.Tensor` of shape `(texts, length)`, *optional*): 1 for tokens, 0 for padding.
            return_loss (`bool`, *optional*): returns the contrastive loss, text i belonging to image i.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): lets images have another size.
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, as in transformers.

        Returns:
            `CLIPOutput`: `logits_per_image` `(images, texts)` and the embeddings `(images or texts, projection_dim)`.
        """
        image_outputs = self.get_image_features(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)
        text_outputs = self.get_text_features(input_ids, attention_mask, return_dict=True, **kwargs)
        image_embeds = nn.functional.normalize(image_outputs.pooler_output, dim=-1)  # (images, projection_dim)
        text_embeds = nn.functional.normalize(text_outputs.pooler_output, dim=-1)  # (texts, projection_dim)
        logits_per_text = self.logit_scale.exp() * text_embeds @ image_embeds.T  # (texts, images)
        loss = None
        if return_loss:
            pairs = torch.arange(logits_per_text.shape[0], device=logits_per_text.device)  # (texts,)
            entropy = nn.functional.cross_entropy
            loss = (entropy(logits_per_text, pairs) + entropy(logits_per_text.T, pairs)) / 2
        return CLIPOutput(
            loss=loss,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=image_outputs,
        )


__all__ = ["CLIPResNetModel", "CLIPResNetPreTrainedModel", "CLIPResNetVisionModel", "convolutional_trunk"]
