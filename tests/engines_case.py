"""Trains the fixture's model with an engine on samples that are spread over the processes in a chosen way.

torchrun … tests/engines_case.py CASES OUT    CASES: a JSON list of `Case` fields; OUT/NAME.safetensors, OUT/NAME.json
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from data.packing import Batch, empty, micro_batches, pack, spread
from stages.checkpoint import Checkpoints
from stages.engines.engine import Engine
from stages.parts import freeze_all_but
from stages.stage import Stage
from stages.train import engine_of
from yivl import YiVL
from yivl.encoder import IGNORE, IMAGE_ID, Example
from yivl.ranks import Ranks, joined

TINY = Path(__file__).parent / "fixtures" / "yi-vl-tiny"
SIDE, PATCHES, GLOBAL_BATCH, STEPS = 56, 16, 8, 4
FRONT = {"vision": 1e-3, "projector": 2e-3}
ALL = {**FRONT, "language": 5e-4}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to train."""

    name: str
    zero: int = 0
    offload: bool = False
    precision: str = "fp32"
    frozen: bool = False
    layout: str = "packed"
    """packed; rows: one sample a row; uneven: the first process has most of them; text: it has those of text alone."""
    bad: bool = False
    """Before the first step there is one whose gradients, on the last process, are not numbers."""
    save: str = ""
    """Folder for a checkpoint after two steps, after which the run ends."""
    load: str = ""
    """Folder with a checkpoint to go on from."""


def examples(step: int) -> list[Example]:
    """Eight samples of a step, two of text alone."""
    numbers = np.random.default_rng(step)
    made = []
    for key in range(GLOBAL_BATCH):
        length, image = int(numbers.integers(8, 40)), key % 4 != 0
        ids = numbers.integers(5, 2000, length)
        if image:
            ids = np.concatenate([ids[:2], np.full(PATCHES, IMAGE_ID), ids[2:]])
        labels = np.where(np.arange(len(ids)) >= len(ids) - length // 2, ids, IGNORE)
        pixels = numbers.integers(0, 255, (int(image), 3, SIDE, SIDE), dtype=np.uint8)
        made.append(Example(input_ids=ids, labels=labels, pixels=pixels, source="made", key=str(key)))
    return made


def batches(step: int, layout: str, ranks: Ranks) -> list[Batch]:
    """This process's micro-batches of a step, without those that make up the number."""
    made = examples(step)
    if layout == "packed":
        mine = spread([len(one.input_ids) for one in made], ranks.count)[ranks.rank]
        return micro_batches([made[number] for number in mine], 120)
    if layout == "rows":
        return [pack([one]) for one in made[ranks.rank :: ranks.count]]
    if layout == "uneven":
        others = ranks.count - 1
        mine = list(range(GLOBAL_BATCH - others)) if ranks.first else [GLOBAL_BATCH - ranks.rank]
        return [pack([made[number]]) for number in mine]
    text = [one for one in made if not len(one.pixels)]
    rest = [one for one in made if len(one.pixels)]
    if ranks.count == 1:
        return [pack(text), pack(rest)]
    return [pack(text)] if ranks.first else [pack([one]) for one in rest[ranks.rank - 1 :: ranks.count - 1]]


def stage_of(case: Case) -> Stage:
    return Stage(
        name=case.name, run="", model=Path(), resolution=SIDE, learning_rate=FRONT if case.frozen else ALL,
        mixture=Path(), global_batch=GLOBAL_BATCH, tokens_per_micro_batch=120, epochs=1, clip_norm=1.0,
        weight_decay=0.01, precision=case.precision, zero=case.zero, offload=case.offload,  # type: ignore[arg-type]
    )  # fmt: skip


def trained(case: Case, ranks: Ranks) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Losses and gradient norms of the steps, and the weights at the end (whole on the first process)."""
    model = YiVL.load(TINY, device="cpu").model
    model.resize(SIDE)
    stage = stage_of(case)
    freeze_all_but(model, stage.learning_rate)
    engine: Engine = engine_of(model, stage, ranks)
    steps = range(STEPS)
    if case.load:
        checkpoint = Checkpoints(Path(case.load), ranks).newest()
        assert checkpoint is not None
        engine.load_state(checkpoint.tensors)
        steps = range(checkpoint.step, STEPS)
    if case.bad:
        supervised = 1 if ranks.rank < ranks.count - 1 else float("nan")
        engine.backward(batches(9, "rows", ranks), supervised)  # type: ignore[arg-type]
        update = engine.step(1.0, math.isfinite)
        assert not update.applied and not math.isfinite(update.norm)
    told = []
    for step in steps:
        mine = batches(step, case.layout, ranks)
        rows = max(ranks.gather(len(mine)))
        supervised = sum(ranks.gather(sum(batch.supervised for batch in mine)))
        passed = engine.backward([*mine, *[empty(SIDE)] * (rows - len(mine))], supervised)
        loss = sum(ranks.gather(sum(one.double().sum().item() for one in passed.token_losses))) / supervised
        told.append([loss, engine.step(1.0, lambda norm: True).norm])
        if case.save and step == 1:
            Checkpoints(Path(case.save), ranks).save(step + 1, {}, engine.state())
            break
    weights = {name: parameter.detach().clone() for name, parameter in engine.finished().named_parameters()}
    return told, weights


def main(cases: Sequence[Case], out: Path) -> None:
    with joined(10) as ranks:
        for case in cases:
            told, weights = trained(case, ranks)
            if ranks.first:
                save_file(weights, out / f"{case.name}.safetensors")
                (out / f"{case.name}.json").write_text(json.dumps({**asdict(case), "told": told}))


if __name__ == "__main__":
    main([Case(**fields) for fields in json.loads(sys.argv[1])], Path(sys.argv[2]))
