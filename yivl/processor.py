"""The processor: text and images to the model's inputs, as transformers' Auto classes expect it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from yivl import prompt
from yivl.configuration import YiVLConfig
from yivl.conversation import Conversation, ImageSource, Role, Turn
from yivl.encoder import Encoder
from yivl.images import to_pixels


class YiVLProcessor(ProcessorMixin):
    """Prompts and images to `input_ids`, `attention_mask` and uint8 `pixel_values`, padded on the left.

    Args:
        tokenizer: the model's tokenizer.
        image_side: pixels of the square image.
        patch_size: pixels of one patch.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, image_side: int = 224, patch_size: int = 14, **kwargs: Any
    ) -> None:
        super().__init__(tokenizer, **kwargs)  # type: ignore[no-untyped-call]
        self.tokenizer = tokenizer
        self.image_side = image_side
        self.patch_size = patch_size

    @classmethod
    def of(cls, config: YiVLConfig, tokenizer: PreTrainedTokenizerBase) -> YiVLProcessor:
        """The processor of a model."""
        return cls(tokenizer, image_side=config.image_side, patch_size=config.vision_config["patch_size"])

    @property
    def encoder(self) -> Encoder:
        """The encoder that training uses too."""
        patches = (self.image_side // self.patch_size) ** 2
        return Encoder(self.tokenizer, patches=patches, image_side=self.image_side)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs of rendered prompts.

        Args:
            images: one image or several, in the order of the placeholders in all texts.
            text: one prompt or several, each with `<image_placeholder>` where an image goes.
            kwargs: `return_tensors="pt"` and `padding=True` are what it does anyhow; nothing else is accepted.

        Raises:
            ValueError: there are not as many images as placeholders.
        """
        for name, only in (("return_tensors", "pt"), ("padding", True)):
            if kwargs.pop(name, only) != only:
                raise ValueError(f"{name} can only be {only!r}")
        if kwargs:
            raise TypeError(f"unknown arguments {sorted(kwargs)}")
        texts = [text] if isinstance(text, str) else list(text or ())
        pictures: list[ImageSource] = []
        if images is not None:
            pictures = list(images) if isinstance(images, list | tuple) else [cast(ImageSource, images)]
        placeholders = sum(one.count(prompt.PLACEHOLDER) for one in texts)
        if placeholders != len(pictures):
            raise ValueError(f"{placeholders} image placeholders in the text but {len(pictures)} images")
        encoder = self.encoder
        return self._batch(
            [encoder.prompt_ids(one) for one in texts], [to_pixels(p, self.image_side) for p in pictures]
        )

    def encode(self, conversations: Sequence[Conversation]) -> BatchFeature:
        """Inputs of conversations that the model is to answer."""
        encoder = self.encoder
        examples = [encoder.encode(conversation) for conversation in conversations]
        pixels = [image for example in examples for image in example.pixels]
        return self._batch([example.input_ids.tolist() for example in examples], pixels)

    def _batch(self, rows: Sequence[Sequence[int]], pixels: Sequence[np.ndarray[Any, Any]]) -> BatchFeature:
        longest = max(map(len, rows), default=0)
        padding = self.tokenizer.pad_token_id or 0
        ids = [[padding] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if pixels:
            inputs["pixel_values"] = torch.from_numpy(np.stack(pixels))  # uint8 [N, 3, S, S]
        return BatchFeature(inputs)

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = False, **kwargs: Any) -> Any:
        """transformers' messages, `[{"role": "user", "content": ...}]`, as a prompt or (tokenize) as inputs.

        Content is a string or a list of `{"type": "image", "image": ...}` and `{"type": "text", "text": ...}`; as a
        prompt, an image may be left open (`{"type": "image"}`) and be passed with the text later.

        Raises:
            ValueError: a role other than "user" and "assistant", or inputs of an image that is left open.
        """
        implied = {"add_generation_prompt", "return_dict", "return_tensors", "padding"}
        if args or kwargs.keys() - implied:
            raise TypeError(f"unknown arguments {[*args, *sorted(kwargs.keys() - implied)]}")
        turns: list[Turn] = []
        images: list[ImageSource] = []
        for message in conversation:
            content, role = message["content"], message["role"]
            if role not in _ROLES:
                raise ValueError(f"role {role!r}; known are {', '.join(_ROLES)} (Yi-VL's system text is fixed)")
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            found = [_source(part, required=tokenize) for part in parts if part["type"] == "image"]
            said = "\n".join(part["text"] for part in parts if part["type"] == "text")
            turns.append(Turn(_ROLES[role], said, images=len(found)))
            images += found
        whole = Conversation(turns=tuple(turns), images=tuple(images))
        return self.encode([whole]) if tokenize else prompt.text(whole)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's."""
        texts: list[str] = self.tokenizer.batch_decode(*args, **kwargs)
        return texts


_ROLES: dict[str, Role] = {"user": "human", "assistant": "assistant"}


def _source(part: dict[str, Any], required: bool) -> ImageSource:
    for key in ("image", "path", "url"):
        if key in part:
            source: ImageSource = part[key]
            return source
    if required:
        raise ValueError('an image without a source: give {"type": "image", "image": ...}')
    return b""
