"""VLMEvalKit has no entry points: a program registers the model there and calls it.

    from yivl.integrations import vlmevalkit
    vlmevalkit.register("yi-vl", "runs/stage3/model")

    from vlmeval.dataset import build_dataset
    from vlmeval.inference import infer_data_job
    data = build_dataset("MMMU_DEV_VAL")
    infer_data_job("yi-vl", "out", "yi-vl", data, verbose=False, api_nproc=1)
    print(data.evaluate("out/yi-vl_MMMU_DEV_VAL.xlsx", model="exact_matching"))

The model is asked with the toolkit's prompts, and sees the first picture that a question mentions, as the toolkit's own
Yi-VL does. Written against VLMEvalKit at e8e78f0; the package is `vlmeval` from its repository, or `ms-vlmeval`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import vlmeval.config
import vlmeval.vlm
from vlmeval.vlm.base import BaseModel

from yivl import YiVL
from yivl.integrations.replies import conversation

_NEW_TOKENS = 1024
"""As the toolkit's own Yi-VL has it (vlmeval/vlm/yi_vl.py)."""


class YiVLModel(BaseModel):  # type: ignore[misc]  # VLMEvalKit has no types
    """A Yi-VL model folder.

    Args:
        model_path: the folder, of ours or in the released layout.
        generation: transformers' options; greedy by default, of at most 1024 new tokens.
    """

    INTERLEAVE = False

    def __init__(self, model_path: str, **generation: Any) -> None:
        super().__init__()
        self._model = YiVL.load(model_path)
        self._generation = {"max_new_tokens": _NEW_TOKENS} | generation

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The reply to the texts of a message, one below the other, under its first picture."""
        text = "\n".join(part["value"] for part in message if part["type"] == "text")
        pictures = [part["value"] for part in message if part["type"] == "image"][:1]
        return self._model.chat(conversation(pictures, text), **self._generation)


def register(name: str, model_path: str, **generation: Any) -> None:
    """Makes a model folder known to VLMEvalKit under a name."""
    vlmeval.config.supported_VLM[name] = partial(YiVLModel, model_path=model_path, **generation)
    vlmeval.vlm.YiVLModel = YiVLModel  # for its --config, which names the class
