"""Asking a model about images.

from yivl import YiVL
model = YiVL.load("runs/stage3/model")
print(model.ask("cats.jpg", "How many cats are there?"))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BatchFeature,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from yivl import prompt
from yivl.conversation import Conversation, ImageSource, question
from yivl.folder import check_folder, read_model
from yivl.images import ZERO, normalise
from yivl.model import YiVLForConditionalGeneration
from yivl.processor import YiVLProcessor
from yivl.tokenizer import load_tokenizer


class YiVL:
    """A model with its tokenizer and processor, ready to answer."""

    def __init__(self, model: YiVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        model.eval()  # type: ignore[no-untyped-call]
        self.model = model
        self.tokenizer = tokenizer

    @property
    def processor(self) -> YiVLProcessor:
        """Text and images to inputs, at the model's present image size."""
        return YiVLProcessor.of(self.model.config, self.tokenizer)

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
    ) -> YiVL:
        """A model from a folder of ours or in the released layout.

        Args:
            folder: the model folder.
            dtype: such as `torch.bfloat16` or "bfloat16"; by default that of the weights.
            device: such as "cuda:1"; by default the first GPU, or else the CPU.

        Raises:
            FileNotFoundError: the folder or a file in it is missing.
            ValueError: it holds another kind of model, or weights that don't fit its configuration.
        """
        path = check_folder(folder)
        chosen = _device(device)
        model = read_model(path, float_dtype(dtype) if isinstance(dtype, str) else dtype)
        model.to(chosen)  # type: ignore[arg-type]
        return cls(model, load_tokenizer(path))

    def ask(self, image: ImageSource | None, text: str, *, max_new_tokens: int = 512, **generation: Any) -> str:
        """The answer to one question about one image (or, with None, about none).

        Args:
            image: a path, the bytes of a file, a PIL image or a uint8 array.
            text: the question.
            max_new_tokens: where to stop if the model does not.
            generation: transformers' options, such as `do_sample=True, temperature=0.2`; greedy by default.
        """
        return self.chat(question(image, text), max_new_tokens=max_new_tokens, **generation)

    def chat(self, conversation: Conversation, *, max_new_tokens: int = 512, **generation: Any) -> str:
        """The model's next turn in an open conversation."""
        return self.answer([conversation], max_new_tokens=max_new_tokens, **generation)[0]

    def answer(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = 512, **generation: Any
    ) -> list[str]:
        """The next turns of several open conversations, generated as one batch."""
        if not conversations:
            return []
        inputs = self._inputs(conversations)
        sequences = self._generate(inputs, max_new_tokens, generation)
        new = sequences[:, inputs["input_ids"].shape[1] :]
        return [prompt.cut(reply) for reply in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def stream(
        self, image: ImageSource | None, text: str, *, max_new_tokens: int = 512, **generation: Any
    ) -> Iterator[str]:
        """The answer to one question, piece by piece as it is generated."""
        return self.stream_chat(question(image, text), max_new_tokens=max_new_tokens, **generation)

    def stream_chat(self, conversation: Conversation, *, max_new_tokens: int = 512, **generation: Any) -> Iterator[str]:
        """The model's next turn, piece by piece. Joined, the pieces are what `chat` returns."""
        inputs = self._inputs([conversation])
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failure: list[BaseException] = []
        abandoned = Event()

        def work() -> None:
            try:
                self._generate(inputs, max_new_tokens, generation | {"streamer": streamer}, abandoned)
            except BaseException as error:
                failure.append(error)
                streamer.end()

        thread = Thread(target=work, daemon=True)
        thread.start()
        sent = said = ""
        try:
            for piece in streamer:
                said += piece
                ready = _settled(said)
                yield ready[len(sent) :]
                sent = ready
        finally:  # also when the caller stops listening
            abandoned.set()
            thread.join()
        if failure:
            raise failure[0]
        yield prompt.cut(said)[len(sent) :]

    def _inputs(self, conversations: Sequence[Conversation]) -> BatchFeature:
        for conversation in conversations:
            if not conversation.open:
                raise ValueError(f"{conversation.name}: the last turn is the assistant's; there is nothing to answer")
        inputs = self.processor.encode(conversations)
        images = [image for conversation in conversations for image in conversation.images]
        if any(image is ZERO for image in images):
            pixels = normalise(inputs["pixel_values"])
            pixels[[image is ZERO for image in images]] = 0
            inputs["pixel_values"] = pixels
        return inputs.to(self.model.device)

    def _generate(
        self, inputs: BatchFeature, max_new_tokens: int, generation: dict[str, Any], abandoned: Event | None = None
    ) -> Tensor:
        length, limit = inputs["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings
        if length >= limit:
            raise ValueError(
                f"the conversation takes {length} tokens, images included; the model reads {limit} at most"
            )
        stop = StopText(self.tokenizer, length, prompt.STOPS, abandoned)
        settings: dict[str, Any] = {"do_sample": False, "stopping_criteria": StoppingCriteriaList([stop])}
        settings["max_new_tokens"] = min(max_new_tokens, limit - length)
        sequences: Tensor = self.model.generate(**inputs, **(settings | generation))
        return sequences


def float_dtype(name: str) -> torch.dtype:
    """Such as "bfloat16"; a `ValueError` for what is no floating-point dtype."""
    known = getattr(torch, name, None)
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise ValueError(f"unknown dtype {name!r}; such as 'float32' or 'bfloat16'")
    return known


def _device(name: torch.device | str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(name)!r} can't be used: {str(error).splitlines()[0]}") from error
    return device


class StopText(StoppingCriteria):
    """Ends each row of a batch at the first stop in its new text, and all when nobody listens any more."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_length: int,
        stops: Sequence[str],
        abandoned: Event | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        self.stops = stops
        self.tail = 1 + max(map(len, stops))
        """New tokens decoded to look for a stop, each of whose characters may be a token."""
        self.abandoned = abandoned or Event()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which sequences of [B, L] hold a stop: bool [B]."""
        tails = self.tokenizer.batch_decode(input_ids[:, self.prompt_length :][:, -self.tail :])
        done = [self.abandoned.is_set() or any(stop in tail for stop in self.stops) for tail in tails]
        return torch.tensor(done, device=input_ids.device)


def _settled(said: str) -> str:
    """The part of a growing reply that no later token can take back: without a stop that may be on its way, and
    without the space that the final reply is stripped of."""
    if any(stop in said for stop in prompt.STOPS):
        return prompt.cut(said)
    longest = max(
        (n for stop in prompt.STOPS for n in range(1, len(stop)) if said.endswith(stop[:n])),
        default=0,
    )
    return said[: len(said) - longest].strip()
