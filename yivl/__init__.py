"""Yi-VL: a CLIP ViT, a projector and a Yi language model; training, inference, evaluation.

from yivl import YiVL
answer = YiVL.load("runs/stage3/model").ask("cats.jpg", "How many cats are there?")

Where torch is not installed, `boxes`, `page` and the like can still be imported: scores are computed there too.
"""

from typing import Any

try:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from yivl.configuration import YiVLConfig
    from yivl.conversation import Conversation, Turn, question
    from yivl.inference import YiVL
    from yivl.model import YiVLForConditionalGeneration
    from yivl.processor import YiVLProcessor
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("torch", "transformers"):
        raise

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(f"yivl.{name} needs torch and transformers: pip install yivl")
        raise AttributeError(f"module 'yivl' has no attribute {name!r}")
else:
    AutoConfig.register(YiVLConfig.model_type, YiVLConfig)
    AutoModelForImageTextToText.register(YiVLConfig, YiVLForConditionalGeneration)
    AutoProcessor.register(YiVLConfig, YiVLProcessor)

__all__ = [
    "Conversation",
    "Turn",
    "YiVL",
    "YiVLConfig",
    "YiVLForConditionalGeneration",
    "YiVLProcessor",
    "question",
]
