"""Real training at desk size, and the memory it takes, beside the estimate.

OMP_NUM_THREADS=1 python tests/memory_case.py                the table in docs/plan.md
torchrun --nproc-per-node 2 tests/memory_case.py zero OUT    live tensors under DeepSpeed, by ZeRO stage and precision
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.packing import Batch, pack
from stages.engines import on_cpu
from stages.engines.plain import PlainEngine
from stages.parts import freeze_all_but
from stages.planning.activations import BLOCKS
from stages.planning.memory import Estimate, Memory
from stages.planning.sources import Lengths
from stages.stage import Stage
from stages.train import engine_of
from yivl.checkpointing import blocks, recompute
from yivl.configuration import YiVLConfig
from yivl.encoder import IGNORE, IMAGE_ID, Example
from yivl.model import YiVLForConditionalGeneration
from yivl.ranks import Ranks, joined

ROOT = Path(__file__).resolve().parent.parent
FRONT = {"vision": 1e-4, "projector": 1e-4}
ALL = {**FRONT, "language": 1e-4}


@dataclass(frozen=True)
class Case:
    """A way to train the desk model; each sample has one image."""

    rates: Mapping[str, float]
    precision: str
    every: int
    text: int
    """Tokens of text of a sample, of which 0.6 are supervised."""
    tokens: int = 2600


CASES = {
    "stage 1, fp32, nothing recomputed": Case(FRONT, "fp32", 0, 45),
    "stage 3, fp32, nothing recomputed": Case(ALL, "fp32", 0, 220),
    "stage 3, bf16, everything recomputed": Case(ALL, "bf16", 1, 220),
}


def desk(vision: int = 12, language: int = 8, vocabulary: int = 64000) -> YiVLConfig:
    return YiVLConfig(
        vision_config={"image_size": 224, "patch_size": 14, "width": 384, "layers": vision, "heads": 6},
        text_config={
            "model_type": "llama", "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": language,
            "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": vocabulary, "pad_token_id": 0,
        },
    )  # fmt: skip


def stage_of(rates: Mapping[str, float], precision: str, tokens: int = 2600, zero: int = 0) -> Stage:
    return Stage(
        name="desk", run="", model=Path(), resolution=224, learning_rate=dict(rates), mixture=Path(), global_batch=32,
        tokens_per_micro_batch=tokens, epochs=1, clip_norm=1.0, precision=precision, zero=zero,  # type: ignore[arg-type]
    )  # fmt: skip


def row(text: int, tokens: int) -> Batch:
    """As many equal samples as fit."""
    ids = np.array([IMAGE_ID] * 256 + list(range(1, text + 1)), dtype=np.int64)
    labels = np.where(np.arange(len(ids)) >= len(ids) - round(0.6 * text), ids, IGNORE)
    one = Example(input_ids=ids, labels=labels, pixels=np.zeros((1, 3, 224, 224), np.uint8))
    return pack([one] * (tokens // len(ids)))


def predicted(case: Case) -> Memory:
    lengths = Lengths(images=1, text=case.text, supervised=0.6 * case.text)
    estimate = Estimate(stage_of(case.rates, case.precision, case.tokens), desk(), 1, "cpu", lengths)
    return estimate.memory(dict.fromkeys(BLOCKS, case.every))


def measured(name: str) -> int:
    """Most bytes that a fresh process ever held in memory."""
    done = subprocess.run(
        [sys.executable, __file__, "train", name], cwd=ROOT, capture_output=True, text=True, check=True, timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return int(done.stdout)


def train(case: Case) -> None:
    """Two steps of two micro-batches each; prints the most bytes held."""
    on_cpu.prepare()
    model = YiVLForConditionalGeneration(desk())
    freeze_all_but(model, dict(case.rates))
    for part in BLOCKS:
        recompute(blocks(model, part), case.every)
    engine = PlainEngine(model, stage_of(case.rates, case.precision), Ranks())
    batch = row(case.text, case.tokens)
    for _ in range(2):
        engine.backward([batch, batch], 2 * batch.supervised)
        engine.step(1.0, lambda norm: True)
    status = Path("/proc/self/status").read_text()  # not ru_maxrss, in which a parent's memory may count
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def live() -> dict[int, Tensor]:
    """All tensors, one for each storage."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) in (Tensor, torch.nn.Parameter) and not one.is_meta]
    found += [one.grad for one in found if one.is_leaf and one.grad is not None]
    return {one.untyped_storage()._cdata: one for one in found}


def zero(out: Path) -> None:
    """For each ZeRO stage and precision the bytes of this process's tensors after a backward pass."""
    told = {}
    with joined(10) as ranks:
        for level in (1, 2, 3):
            for precision in ("bf16", "fp32"):
                before = live()
                model = YiVLForConditionalGeneration(desk(vision=6, language=4))
                freeze_all_but(model, ALL)
                engine = engine_of(model, stage_of(ALL, precision, zero=level), ranks)
                del model
                batch = row(20, 300)
                engine.backward([batch], batch.supervised)
                engine.step(1.0, lambda norm: True)
                engine.backward([batch], batch.supervised)
                after = live()
                told[f"{level} {precision}"] = sum(
                    tensor.untyped_storage().nbytes() for key, tensor in after.items() if key not in before
                )
                engine.finished()
                del engine, before, after
        if ranks.first:
            out.write_text(json.dumps(told))


def main() -> None:
    for name, case in CASES.items():
        guess, found = predicted(case).total, measured(name)
        print(f"| {name} | {guess / 2**30:.2f} | {found / 2**30:.2f} | {guess / found - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", name]:
            train(CASES[name])
        case ["zero", out]:
            zero(Path(out))
        case _:
            main()
