"""The loss is exact: packing, micro-batches, accumulation and ranks change nothing but rounding."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from data.loader import Loader, Samples, Task
from data.mixture import Mixture, resolve
from data.order import Order
from data.packing import Batch, empty, micro_batches, pack, spread
from data.store import Store
from stages.engines.plain import PlainEngine
from stages.parts import freeze_all_but
from stages.stage import Stage
from yivl import YiVL
from yivl.encoder import IGNORE, Encoder, Example
from yivl.ranks import Ranks
from yivl.settings import read

RATES = {"vision": 1e-3, "projector": 1e-3, "language": 1e-3}


@pytest.fixture
def samples(shards: Path, tiny: YiVL, tmp_path: Path) -> Samples:
    sources = {"captions": {"shards": "captions/*.tar", "format": "caption"},
               "chats": {"shards": "chats/*.tar", "format": "conversation"}}  # fmt: skip
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"sources": sources}))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"catalogue": "s.yaml", "sources": {"captions": {}, "chats": {}}}))
    store = Store(shards)
    manifest = resolve(read(Mixture, tmp_path / "m.yaml"), store, seed=0)
    return Samples(Order(manifest, 0), store, Encoder(tiny.tokenizer, patches=16, image_side=56))


def examples_of(samples: Samples, count: int) -> list[Example]:
    """The first examples of the order."""
    items = [samples[Task(position, place)] for position, place in enumerate(samples.order.places(0, count))]
    return [item.example for item in items if item.example]


def slow_reference(model: YiVL, examples: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """Each sample alone, logits at every position, one mean over all supervised tokens: the definition."""
    module = model.model.train()
    module.zero_grad()
    total = torch.zeros(())
    count = 0
    for example in examples:
        ids = torch.from_numpy(example.input_ids)[None]
        pixels = torch.from_numpy(example.pixels) if len(example.pixels) else None
        logits = module(ids, pixels).logits[0, :-1]
        targets = torch.from_numpy(example.labels)[1:]
        total = total + F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        count += int((targets != IGNORE).sum())
    (total / count).backward()
    return (total / count).item(), gradients(model)


def gradients(model: YiVL) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.model.named_parameters()
    }


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 2e-6 * scale, name


def engine_of(model: YiVL, stage_settings: dict[str, object] | None = None) -> PlainEngine:
    stage = Stage(
        name="t", run="r", model=Path("m"), resolution=56, learning_rate=RATES, mixture=Path("m"), global_batch=8,
        tokens_per_micro_batch=900, epochs=1, clip_norm=1.0, precision="fp32",
    )  # fmt: skip
    freeze_all_but(model.model, RATES)
    return PlainEngine(model.model, stage, Ranks())


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("tokens", [900, 4000])
def test_gradients_equal_the_definition_for_any_ranks_and_packing(
    samples: Samples, fresh_tiny: YiVL, ranks: int, tokens: int
) -> None:
    shares = [
        next(Loader(samples, global_batch=16, tokens_per_micro_batch=tokens, epochs=1, rank=rank, ranks=ranks).steps())
        for rank in range(ranks)
    ]
    supervised = sum(batch.supervised for share in shares for batch in share.batches)
    most = max(len(share.batches) for share in shares)
    engine = engine_of(fresh_tiny)
    loss = 0.0
    for share in shares:  # one after the other, adding up, as an all-reduce of sums would
        padding = [empty(56)] * (most - len(share.batches))
        passed = engine.backward([*share.batches, *padding], supervised)
        loss += sum(losses.sum().item() for losses in passed.token_losses) / supervised
    found = gradients(fresh_tiny)
    expected_loss, expected = slow_reference(fresh_tiny, examples_of(samples, 16))
    assert abs(loss - expected_loss) < 1e-5
    assert_close(found, expected)


def test_packed_samples_never_see_each_other(samples: Samples, tiny: YiVL) -> None:
    examples = examples_of(samples, 6)
    batch = pack(examples)
    with torch.no_grad():
        packed = tiny.model(
            batch.input_ids[None], batch.pixels, position_ids=batch.position_ids[None], bounds=batch.bounds
        ).logits[0]
        for example, start, end in zip(examples, batch.bounds[:-1], batch.bounds[1:], strict=True):
            pixels = torch.from_numpy(example.pixels) if len(example.pixels) else None
            alone = tiny.model(torch.from_numpy(example.input_ids)[None], pixels).logits[0]
            assert torch.allclose(packed[start:end], alone, atol=2e-6)


def test_a_batch_of_text_alone_touches_every_part(fresh_tiny: YiVL) -> None:
    engine = engine_of(fresh_tiny)
    ids = np.arange(10, 40)
    text = Example(input_ids=ids, labels=ids.copy(), pixels=np.zeros((0, 3, 56, 56), dtype=np.uint8))
    engine.backward([pack([text])], 29)
    for name, parameter in engine.trained.items():
        assert parameter.grad is not None, name
    assert all(not p.grad.any() for n, p in engine.trained.items() if not n.startswith("language."))  # type: ignore[union-attr]


def test_an_empty_batch_adds_nothing(fresh_tiny: YiVL) -> None:
    engine = engine_of(fresh_tiny)
    assert [len(losses) for losses in engine.backward([empty(56)], 5).token_losses] == [0]
    assert all(not p.grad.any() for p in engine.trained.values() if p.grad is not None)


def test_hf_loss_is_the_mean_over_supervised_tokens(samples: Samples, tiny: YiVL) -> None:
    example = examples_of(samples, 1)[0]
    ids, labels = torch.from_numpy(example.input_ids)[None], torch.from_numpy(example.labels)[None]
    pixels = torch.from_numpy(example.pixels)
    loss = tiny.model(ids, pixels, labels=labels).loss
    half = tiny.model(ids, pixels, labels=labels, num_items_in_batch=2 * example.supervised).loss
    assert torch.allclose(loss, 2 * half)
    assert abs(loss.item() - slow_reference(tiny, [example])[0]) < 1e-5


def test_a_gradient_that_is_not_a_number_moves_nothing(samples: Samples, fresh_tiny: YiVL) -> None:
    engine = engine_of(fresh_tiny)
    with torch.no_grad():
        fresh_tiny.model.projector[0].weight[0, 0] = float("nan")
    batch = pack(examples_of(samples, 2))
    assert engine.backward([batch], 10).token_losses[0].isnan().any()
    fresh_tiny.model.projector[0].weight.grad = torch.full((64, 48), float("inf"))
    before = {name: parameter.clone() for name, parameter in engine.trained.items()}
    update = engine.step(1.0, lambda norm: True)
    assert not update.applied and not math.isfinite(update.norm)
    assert all(torch.equal(before[n], p) or n == "projector.0.weight" for n, p in engine.trained.items())


def invented(length: int, key: str = "k") -> Example:
    ids = np.arange(length)
    return Example(input_ids=ids, labels=ids.copy(), pixels=np.zeros((1, 3, 2, 2), dtype=np.uint8), source="s", key=key)


def test_micro_batches_hold_every_sample_once_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    examples = [invented(int(length), f"{i}") for i, length in enumerate(rng.integers(5, 100, 200))]
    rows = micro_batches(examples, 256)
    assert sorted(key for row in rows for key in row.keys) == sorted(f"s/{i}" for i in range(200))
    assert all(row.tokens <= 256 for row in rows)
    fewest = -(-sum(len(e.input_ids) for e in examples) // 256)
    assert len(rows) <= fewest * 1.05 + 1
    for row in rows:
        for start, end in zip(row.bounds[:-1], row.bounds[1:], strict=True):
            assert row.position_ids[start:end].tolist() == list(range(end - start))
            assert row.labels[start] == IGNORE
    with pytest.raises(ValueError, match="300 tokens don't fit a micro-batch of 256"):
        micro_batches([invented(300)], 256)


def test_spread_balances_and_loses_nothing() -> None:
    lengths = [int(n) for n in np.random.default_rng(1).integers(10, 2000, 256)]
    for ranks in (1, 3, 8):
        shares = spread(lengths, ranks)
        assert sorted(i for share in shares for i in share) == list(range(256))
        loads = [sum(lengths[i] for i in share) for share in shares]
        assert max(loads) - min(loads) <= max(lengths)


def test_a_batch_checks_its_shapes() -> None:
    good = pack([invented(5)])
    with pytest.raises(ValueError, match=r"labels has the shape \(3,\), the bounds say \[5\]"):
        Batch(
            input_ids=good.input_ids, labels=good.labels[:3], position_ids=good.position_ids, bounds=good.bounds,
            sample_bounds=good.sample_bounds, pixels=good.pixels, keys=good.keys, sources=good.sources,
        )  # fmt: skip
