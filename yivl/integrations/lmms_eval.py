"""lmms-eval finds the model by the entry point `lmms_eval.models` of this package:

    pip install lmms-eval
    python -m lmms_eval --model yi_vl --model_args pretrained=runs/stage3/model --tasks mmmu_val --batch_size 8

All pictures of a question stand before its text, each on a line of its own, whatever the text says of them (for a model
that was trained with one picture there are tasks with them joined, such as `mmmu_val_group_img`). Written against
lmms-eval 0.7.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from tqdm import tqdm

from yivl import YiVL
from yivl.integrations.replies import conversation, cut, log_probability, options_of
from yivl.ranks import Ranks

_NEW_TOKENS = 1024
"""Where the task does not say: what lmms-eval's own models do."""


def manifest() -> ModelManifest:
    """What the entry point gives."""
    return ModelManifest(model_id="yi_vl", simple_class_path="yivl.integrations.lmms_eval.YiVLModel")


class YiVLModel(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """A Yi-VL model folder.

    Args:
        pretrained: the folder, of ours or in the released layout.
        batch_size: questions at a time.
        device: such as "cuda:1"; by default each process takes its own GPU, or the CPU.
        dtype: such as "bfloat16"; by default that of the weights.
        max_batch_size: taken because lmms-eval gives it; of no effect.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        own = Ranks().device if device in (None, "cuda") else device
        self._model = YiVL.load(pretrained, dtype=dtype, device=own)
        self.device = self._model.model.device
        self.batch_size = int(batch_size)

    @property
    def rank(self) -> int:
        """Of this process; lmms-eval sets it."""
        return int(self._rank)

    @property
    def world_size(self) -> int:
        """How many processes there are; lmms-eval sets it."""
        return int(self._world_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Replies, in the order of the requests; asked in batches of equal options and of like length."""
        replies: dict[int, str] = {}
        order = sorted(
            range(len(requests)), key=lambda number: (str(requests[number].args[1]), len(_text(requests[number])))
        )
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="yi_vl")
        while order:
            options = requests[order[0]].args[1]
            batch = [number for number in order[: self.batch_size] if requests[number].args[1] == options]
            order = order[len(batch) :]
            asked = [conversation(self._pictures(requests[number]), _text(requests[number])) for number in batch]
            said = self._model.answer(asked, **options_of(options, _NEW_TOKENS))
            for number, reply in zip(batch, said, strict=True):
                replies[number] = cut(reply, options.get("until") or ())
                self.cache_hook.add_partial("generate_until", (_text(requests[number]), options), replies[number])
            bar.update(len(batch))
        bar.close()
        return [replies[number] for number in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-probability of each answer, the separator after it included, and whether it is the greedy one."""
        found = []
        for request in requests:
            context, target, *_, doc_id, task, split = request.args
            answer = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
            asked = conversation(self._pictures(request), context, answer.strip())
            found.append(log_probability(self._model, asked))
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not there: no task of several rounds is about a chat model of one picture."""
        raise NotImplementedError("yi_vl answers tasks of one round only")

    def _pictures(self, request: Instance) -> Sequence[Image.Image]:
        *_, doc_to_visual, doc_id, task, split = request.args
        seen: Any = doc_to_visual(self.task_dict[task][split][doc_id])
        if seen is None:
            return ()
        return [seen] if isinstance(seen, Image.Image) else list(seen)


def _text(request: Instance) -> str:
    text: str = request.args[0]
    return text
