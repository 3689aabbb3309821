"""The model's configuration, as saved in `config.json`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

VISION_DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 14,
    "width": 1280,
    "layers": 32,
    "heads": 16,
    "mlp_ratio": 4.0,
    "activation": "gelu",
}
"""ViT-H/14 (open_clip `ViT-H-14`): width 1280, 32 blocks, 16 heads, MLP 5120, exact GELU."""


NO_VISION: dict[str, Any] = {"layers": 0}
"""The vision_config of a language model alone."""


class YiVLConfig(PreTrainedConfig):
    """Shapes of the three parts.

    Args:
        vision_config: `image_size` and `patch_size` in pixels, `width`, `layers` (all blocks, also the last, whose
            output is not used; 0 for a language model alone), `heads`, `mlp_ratio`, `activation` ("gelu" or
            "quick_gelu").
        text_config: the configuration of a Llama-architecture model.
        resized_from: the image sides that the position embeddings had before, oldest first.
    """

    model_type = "yivl"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 (transformers reads a plain class attribute)

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        resized_from: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        vision = dict(vision_config or {})
        unknown = sorted(set(vision) - set(VISION_DEFAULTS))
        if unknown:
            raise ValueError(f"unknown vision_config keys {unknown}; there are {sorted(VISION_DEFAULTS)}")
        self.vision_config = VISION_DEFAULTS | vision
        if isinstance(text_config, dict):
            fields = dict(text_config)
            text_config = AutoConfig.for_model(fields.pop("model_type", "llama"), **fields)
        self.text_config = text_config or LlamaConfig()
        self.resized_from = list(resized_from or [])
        if self.vision_config["activation"] not in ("gelu", "quick_gelu"):
            raise ValueError(f"activation {self.vision_config['activation']!r}; 'gelu' and 'quick_gelu' are supported")
        size, patch = self.vision_config["image_size"], self.vision_config["patch_size"]
        if size % patch:
            raise ValueError(f"image_size {size} is not a multiple of patch_size {patch}")
        for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(token, getattr(self.text_config, token))
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def has_vision(self) -> bool:
        """False for a language model alone."""
        return bool(self.vision_config["layers"])

    @property
    def image_side(self) -> int:
        """Side of the square image, in pixels."""
        return int(self.vision_config["image_size"])

    @property
    def patches(self) -> int:
        """Tokens that one image takes: 256 at 224 pixels and patch 14, 1024 at 448; 0 without a vision part."""
        return self.has_vision * int((self.image_side // self.vision_config["patch_size"]) ** 2)
