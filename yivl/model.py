"""The model: vision, projector and language in one transformers class; or language alone.

The image placeholder stands in `input_ids` once per patch (`encoder.IMAGE_ID`), so the splice is a scatter whose
count is checked. The same `forward` serves training (packed rows with `bounds`, a loss over supervised positions
only) and generation (padded rows with an attention mask and a cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from yivl.attention import ATTENTION
from yivl.configuration import YiVLConfig
from yivl.encoder import IMAGE_ID
from yivl.loss import SupervisedHead, supervised_loss
from yivl.projector import projector
from yivl.vision import Vision

PARTS = ("vision", "projector", "language")
"""The parts that a stage trains or freezes."""


@dataclass
class YiVLOutput(CausalLMOutputWithPast):
    """transformers' output of a language model, with the loss taken apart."""

    token_losses: Tensor | None = None
    """float32 [supervised tokens], without a gradient: each one's loss, row by row."""


class YiVLForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """CLIP ViT, two-layer projector and a Llama-architecture language model."""

    config: YiVLConfig

    config_class = YiVLConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_compile_fullgraph = False
    _no_split_modules = ["LlamaDecoderLayer", "ResidualAttentionBlock"]  # noqa: RUF012 (as transformers has it)

    def __init__(self, config: YiVLConfig) -> None:
        super().__init__(config)
        self.vision = self.projector = None
        if config.has_vision:
            self.vision = Vision(config.vision_config)
            self.projector = projector(config.vision_config["width"], config.text_config.hidden_size)
        self.language = AutoModelForCausalLM.from_config(config.text_config, attn_implementation=ATTENTION)
        self.language.set_output_embeddings(SupervisedHead(self.language.get_output_embeddings()))
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        embeddings: nn.Module = self.language.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embeddings."""
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.language.get_output_embeddings()
        return head

    def part_parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        """For each of `PARTS` its parameters by full name, without the vision part's unused ones; none of a part that
        the model does not have."""
        unused = {id(parameter) for parameter in (self.vision.unused() if self.vision else ())}
        named = [(name, parameter) for name, parameter in self.named_parameters() if id(parameter) not in unused]
        return {part: {n: p for n, p in named if n.startswith(f"{part}.")} for part in PARTS}

    def resize(self, side: int) -> None:
        """Takes images of `side` pixels from now on; recorded in the configuration. See `Vision.resize`.

        Raises:
            ValueError: the model has no vision part, unless `side` is 0; or as `Vision.resize` does.
        """
        if self.vision is None:
            if side:
                raise ValueError(f"images of {side} pixels, but the model has no vision part")
            return
        before = self.vision.side
        self.vision.resize(side)
        if side != before:
            self.config.resized_from = [*self.config.resized_from, before]
            self.config.vision_config = self.config.vision_config | {"image_size": side}

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, S, S] (uint8, or normalised floats) as language model inputs [N, patches, H]; of a model with a
        vision part."""
        assert self.vision is not None and self.projector is not None
        features = self.vision(pixels).to(self.projector[0].weight.dtype)
        tokens: Tensor = self.projector(features)
        return tokens

    def embed(self, input_ids: Tensor, pixels: Tensor | None, always: bool = False) -> Tensor:
        """Token embeddings with the image tokens put in.

        Args:
            input_ids: int64 [B, T], `IMAGE_ID` once per patch.
            pixels: [N, 3, S, S] in reading order, or None.
            always: run the vision part also where there is no image: so all processes of a run make the same
                collective calls.

        Returns:
            [B, T, H].

        Raises:
            ValueError: there are not exactly N times `patches` placeholders, or the model has no vision part.
        """
        is_image = input_ids == IMAGE_ID
        embeddings: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        images = 0 if pixels is None else len(pixels)
        if images and self.vision is None:
            raise ValueError("an image was passed, but the model is a language model alone: it has no vision part")
        placeholders = int(is_image.sum())
        if placeholders != images * self.config.patches:
            raise ValueError(
                f"{placeholders} image placeholders in the ids, but {images} images of {self.config.patches} tokens "
                "each were passed"
            )
        if pixels is not None and images:
            tokens = self.image_tokens(pixels).to(embeddings.dtype)
            return embeddings.masked_scatter(is_image.unsqueeze(-1), tokens)
        if always and self.vision is not None:
            blank = torch.zeros(1, 3, self.vision.side, self.vision.side, dtype=torch.uint8, device=input_ids.device)
            return embeddings + 0 * self.image_tokens(blank).sum().to(embeddings.dtype)
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        bounds: tuple[int, ...] | None = None,
        num_items_in_batch: int | Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> YiVLOutput:
        """Logits, or the loss where labels are given (then the logits are not formed).

        Args:
            input_ids: int64 [B, T] with `IMAGE_ID` once per patch.
            pixel_values: [N, 3, S, S], uint8 or normalised floats, the images of all rows in reading order.
            attention_mask: [B, T], 0 at padding.
            position_ids: int64 [B, T]; needed with bounds.
            past_key_values: the cache while generating.
            inputs_embeds: [B, T, H], instead of ids.
            labels: int64 [B, T], -100 where not supervised, not shifted.
            use_cache: whether to fill a cache.
            bounds: sample bounds of a packed row (B = 1): 0, the start of the second sample, ..., T.
            num_items_in_batch: what the summed loss is divided by; the number of supervised tokens here by default.
                A trainer passes the number in the whole optimiser step.
            logits_to_keep: positions from the end that need logits (0: all), or their indices.
            kwargs: passed on to the language model.

        Returns:
            With `loss` (float32 scalar) and `token_losses` when labels are given, `logits` [B, T, vocabulary]
            otherwise.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, pixel_values, always=self.training or labels is not None)
        offsets = None
        if bounds is not None:
            offsets = torch.tensor(bounds, dtype=torch.int32, device=inputs_embeds.device)
            # a 4-D mask is handed through as it is; `attention` goes by the bounds and never looks at it
            attention_mask, use_cache = inputs_embeds.new_empty(1, 1, 0, 0), False
        outputs = self.language.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
            bounds=bounds,
            offsets=offsets,
            **kwargs,
        )
        hidden: Tensor = outputs.last_hidden_state
        head = self.get_output_embeddings()
        if labels is not None:
            total, token_losses = supervised_loss(hidden, labels, head)
            items = len(token_losses) if num_items_in_batch is None else num_items_in_batch
            return YiVLOutput(loss=total / items, token_losses=token_losses)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return YiVLOutput(
            logits=head(hidden[:, kept]),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`, with `pixel_values` as in `forward`; returns the prompt's ids (the padding id at
        image patches) and the new ones.

        The images go in once, as embeddings, and logits processors see ids without placeholders.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        pixels = kwargs.pop("pixel_values", None)
        if input_ids is not None and kwargs.get("inputs_embeds") is None:
            kwargs["inputs_embeds"] = self.embed(input_ids, pixels)
            if kwargs.get("attention_mask") is None:
                kwargs["attention_mask"] = torch.ones_like(input_ids)
            input_ids = input_ids.masked_fill(input_ids == IMAGE_ID, self.generation_config.pad_token_id or 0)
        return super().generate(input_ids, *args, **kwargs)  # type: ignore[misc]
