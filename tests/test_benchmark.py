"""The speed benchmark: two steps over the same samples and weights, and the other one is what it is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.benchmark.__main__ import main
from stages.benchmark.case import Case
from stages.benchmark.head import _measure
from stages.benchmark.ways import Packed, Padded, _Step
from yivl.encoder import IGNORE

TOY = Case(shapes="toy", stage=3, precision="fp32")


def gradients(step: _Step) -> dict[str, Tensor]:
    step.engine.model.zero_grad()
    step.backward(step.micro_batches)
    return {
        name: parameter.grad.clone() for name, parameter in step.engine.trained.items() if parameter.grad is not None
    }


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 1e-5 * scale, name


def means_of_token_losses(step: _Step, samples: int) -> dict[str, Tensor]:
    """Gradients of the mean, over groups of so many samples, of the groups' mean token losses; each sample alone."""
    examples = TOY.examples()
    groups = [examples[n : n + samples] for n in range(0, len(examples), samples)]
    model = step.engine.model
    model.zero_grad()
    for group in groups:
        tokens = sum(example.supervised for example in group)
        for example in group:
            ids, labels = torch.from_numpy(example.input_ids)[None], torch.from_numpy(example.labels)[None]
            loss = model(ids, torch.from_numpy(example.pixels), labels=labels, num_items_in_batch=tokens).loss
            (loss / len(groups)).backward()
    return {name: p.grad.clone() for name, p in step.engine.trained.items() if p.grad is not None}


def test_the_other_step_is_the_mean_of_its_micro_batches_means() -> None:
    padded = Padded(TOY)
    assert {len(set(batch.mask.sum(1).tolist())) for batch in padded.batches} != {1}  # there is padding
    assert_close(gradients(padded), means_of_token_losses(padded, TOY.padded))


def test_our_step_is_the_mean_over_all_tokens() -> None:
    packed = Packed(TOY)
    assert_close(gradients(packed), means_of_token_losses(packed, len(TOY.examples())))


def test_both_steps_begin_with_the_same_weights_and_samples() -> None:
    packed, padded = Packed(TOY), Padded(TOY)
    ours, theirs = packed.engine.model.state_dict(), padded.engine.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    rows = [batch.labels[batch.labels != IGNORE] for batch in packed.batches]
    others = [batch.labels[batch.labels != IGNORE] for batch in padded.batches]
    assert torch.equal(torch.cat(rows).sort().values, torch.cat(others).sort().values)


@pytest.mark.parametrize(("kind", "runs"), [(Packed, 1), (Padded, 2)])
def test_the_other_step_runs_every_decoder_layer_twice(kind: type[_Step], runs: int) -> None:
    step = kind(TOY)
    layers = step.engine.model.language.model.layers
    seen: list[int] = []
    for number, layer in enumerate(layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: seen.append(number))
    step.backward(1)
    assert np.bincount(seen).tolist() == [runs] * len(layers)


def test_a_step_moves_the_trained_weights_and_no_others() -> None:
    step = Padded(Case(shapes="toy", stage=1, precision="bf16"))
    before = {name: parameter.detach().clone() for name, parameter in step.engine.model.named_parameters()}
    step.measure()
    moved = {n for n, parameter in step.engine.model.named_parameters() if not torch.equal(parameter, before[n])}
    assert moved == set(step.engine.trained)


def test_samples_are_as_long_as_the_stage_has_them() -> None:
    desk = Case(shapes="desk", stage=2, precision="fp32")
    lengths = [len(example.input_ids) - 1024 for example in desk.examples()]
    assert len(lengths) == 32
    assert min(lengths) >= 8 and max(lengths) <= 160
    assert 35 < np.median(lengths) < 55
    assert all(abs(e.supervised - 0.6 * n) <= 0.5 for e, n in zip(desk.examples(), lengths, strict=True))


@pytest.mark.slow
def test_the_command_measures_both_and_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    assert main(["--shapes", "toy", "--stage", "3", "--precision", "fp32", "--steps", "1", "--json", str(file)]) == 0
    (line,) = json.loads(file.read_text())["lines"]
    ours, other = line["seconds"]["packed"], line["seconds"]["padded"]
    assert line["samples_per_second"] == {"packed": 6 / ours, "padded": 6 / other}
    assert line["times_as_fast"] == other / ours
    examples = TOY.examples()
    assert line["work"]["tokens"] == sum(len(example.input_ids) for example in examples)
    assert line["work"]["supervised"] == sum(example.supervised for example in examples)
    flops = line["share"] * line["product_tera_flops_per_second"] * ours
    assert flops == pytest.approx(line["tera_flops"])
    assert all(2**27 < peak < 2**33 for peak in line["peak_bytes"].values())
    shown = capsys.readouterr().out
    assert f"{6 / ours:.2f} ({6 / other:.2f})" in shown and f" {other / ours:.2f} " in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_large_model_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shapes", "yi-6b"]) == 1
    assert "--shapes yi-6b needs a GPU" in capsys.readouterr().err


def test_the_head_is_measured_and_compared_with_float64() -> None:
    line = _measure("chunks", "fp32", frozen=False, rows=64)
    assert line.seconds > 0
    assert line.error < 1e-5
