"""The untrained base: the pretrained trunk under a plain-mean attention pool, and a small CLIP text tower."""

from __future__ import annotations

import math

import torch
from transformers import CLIPTextConfig, CLIPTokenizer, PreTrainedModel

from modeling_taidpt import CLIPResNetConfig, CLIPResNetModel

WIDTH = 256


def build_base(trunk: PreTrainedModel, tokenizer: CLIPTokenizer, feature_mean: torch.Tensor) -> CLIPResNetModel:
    """Builds the model to be trained; draws its random weights from torch's global generator.

    Args:
        trunk (`PreTrainedModel`): pretrained.
        tokenizer (`CLIPTokenizer`): gives vocabulary size and special tokens.
        feature_mean (`torch.Tensor` of shape `(channels,)`): mean of the pooled cells of the photographs, taken off
            by the biases.

    Returns:
        [`CLIPResNetModel`]: in train mode, trunk in eval mode. Query and key of the pool are zero, so that it takes
        the plain mean of the cells.
    """
    channels = len(feature_mean)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = {
        "trunk_config": trunk.config.to_dict(),
        "image_size": trunk.config.image_size,
        "hidden_size": channels,
        "pool_hidden_size": WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
        "use_positions": False,
    }
    config = CLIPResNetConfig(
        text_config=text.to_dict(), vision_config=vision, projection_dim=WIDTH, logit_scale_init_value=math.log(20)
    )
    model = CLIPResNetModel(config)
    model.vision_model.trunk.load_state_dict(trunk.state_dict())
    pool = model.vision_model.attention_pool
    with torch.no_grad():
        for projection in (pool.q_proj, pool.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        pool.v_proj.weight.normal_(std=channels**-0.5)
        pool.v_proj.bias.copy_(-(pool.v_proj.weight @ feature_mean))  # (pool_hidden,)
        pool.c_proj.weight.copy_(torch.eye(WIDTH))
        pool.c_proj.bias.zero_()
    model.train()
    model.vision_model.trunk.eval()
    return model
