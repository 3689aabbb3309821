"""Yi-VL: a CLIP ViT, a projector and a Yi language model; training, inference, evaluation.

from yivl import YiVL
answer = YiVL.load("runs/stage3/model").ask("cats.jpg", "How many cats are there?")
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from yivl.configuration import YiVLConfig
from yivl.conversation import Conversation, Turn, question
from yivl.inference import YiVL
from yivl.model import YiVLForConditionalGeneration
from yivl.processor import YiVLProcessor

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
