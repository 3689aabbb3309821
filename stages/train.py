"""Trains a stage.

    python -m stages.train configs/yi-vl-6b/stage1.yaml --plan --ranks 8 --device h100      shows what it would do
    python -m stages.train configs/yi-vl-6b/stage1.yaml [key=value …]
    torchrun --nproc-per-node 8 -m stages.train …                   on several GPUs, each holding the whole model

A run that ended early, however, is continued by the same command, and ends as if it had never stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from data.cache import Cache
from data.index import BadIndex
from data.loader import BrokenSource, HeadroomLoader, Loader, Samples
from data.mixture import Manifest, Mixture, describe, resolve
from data.order import Order
from data.store import Store
from data.tar import BadTar
from stages import parts
from stages.checkpoint import CheckpointError, Checkpoints
from stages.engines import on_cpu
from stages.engines.engine import Engine
from stages.engines.plain import PlainEngine
from stages.examiner import Examiner
from stages.growth import Plateau
from stages.guard import BadStep, Guard
from stages.held_out import HeldOut
from stages.planning.memory import chosen_checkpointing
from stages.planning.plan import plan
from stages.record import Silent
from stages.recorder import Recorder
from stages.run_folder import RunFolder
from stages.stage import Stage
from stages.trainer import Interrupted, TooManyBroken, Trainer
from stages.watchdog import Watchdog
from yivl.adapters import add_adapter, merge, write_adapter
from yivl.assembly import Assembled, ModelSource, assemble
from yivl.checkpointing import blocks, recompute
from yivl.encoder import Encoder
from yivl.fast_images import PIXELS
from yivl.folder import check_folder, read_model
from yivl.model import YiVLForConditionalGeneration
from yivl.ranks import OtherProcessFailed, Ranks, joined
from yivl.settings import SettingsError, plain, read
from yivl.tokenizer import load_tokenizer
from yivl.weights import fingerprint

log = logging.getLogger("yivl")


def train(stage: Stage, ranks: Ranks | None = None) -> Path:
    """Runs a stage to its end, from wherever it stands; returns the model folder.

    Args:
        stage: what to do.
        ranks: the processes that do it together; by default this one alone.
    """
    ranks = ranks or Ranks()
    if ranks.device.type == "cpu":
        on_cpu.prepare()
    folder = RunFolder(Path(stage.run))
    checkpoints = Checkpoints(folder.state, ranks)
    store = Store(Path(stage.data), Cache(Path(stage.cache), int(stage.cache_gib * 2**30)))
    manifest = ranks.alike(lambda: _manifest(stage, store))
    ranks.by_first(lambda: folder.open(stage, manifest, starting_point(stage)))
    if blind := [str(rank) for rank, sees in enumerate(ranks.gather(folder.begun)) if not sees]:
        raise SettingsError(
            f"processes {', '.join(blind)} do not see the folder {folder.path} of the first: 'run' must lie on storage "
            "that all machines share"
        )
    if folder.finished:
        ranks.by_first(checkpoints.clear)
        log.info("%s is done: %s", stage.name, folder.model)
        return folder.model
    ranks.by_first(checkpoints.clean)
    log.info("samples\n%s", describe(manifest))

    start = ranks.alike(lambda: starting_model(stage))
    model, tokenizer = start.model, start.tokenizer
    if stage.adapter:
        add_adapter(model, stage.adapter, stage.seed)
    table = parts.freeze_all_but(model, stage.learning_rate)
    log.info("parts\n%s", parts.describe(table))
    _recompute(model, stage, ranks)

    encoder = Encoder(
        tokenizer,
        patches=model.config.patches,
        image_side=stage.resolution,
        pixels=PIXELS[stage.pixels],
        max_length=min(stage.max_length, stage.tokens_per_micro_batch),
    )
    if stage.headroom:
        log.warning("headroom: every step trains on the samples of the first; the model will be of no use")
    loader = (HeadroomLoader if stage.headroom else Loader)(
        Samples(Order(manifest, stage.seed), store, encoder),
        global_batch=stage.batch,
        tokens_per_micro_batch=stage.tokens_per_micro_batch,
        epochs=stage.epochs,
        rank=ranks.rank,
        ranks=ranks.count,
        workers=stage.workers,
    )
    held_out = None
    if stage.held_out:
        held_out = HeldOut(stage, trained=manifest, store=store, encoder=encoder, ranks=ranks, folder=folder.path)
    engine = engine_of(model, stage, ranks)
    guard = Guard(stage)
    done = broken = 0
    plateau = Plateau(stage.growth) if stage.growth else None
    if checkpoint := checkpoints.newest():
        engine.load_state(checkpoint.tensors)
        guard.load_state(checkpoint.facts["guard"])
        loader.load_state(checkpoint.facts.get("loader", loader.state()))  # older ones lack it
        if plateau:
            plateau.load_state(checkpoint.facts["plateau"])
        done, broken = checkpoint.step, checkpoint.facts["broken"]
        log.info("continuing after step %d of %d", done, loader.total_steps)
    ranks.by_first(lambda: _rewind(folder, checkpoints, done))
    watchdog = Watchdog(ranks, 60 * stage.hang_minutes, folder.hang)
    examiner = None
    if stage.benchmarks:
        examiner = Examiner(stage, tokenizer=tokenizer, ranks=ranks, folder=folder.examined, watchdog=watchdog)
    recorders: list[Recorder] = []
    ranks.by_first(lambda: recorders.append(Recorder(folder, stage, done, loader.total_steps)))
    with recorders[0] if recorders else Silent() as recorder, watchdog.watching():
        Trainer(
            stage, ranks, engine=engine, loader=loader, guard=guard, checkpoints=checkpoints, recorder=recorder,
            watchdog=watchdog, held_out=held_out, examiner=examiner, plateau=plateau,
        ).run(done, broken)  # fmt: skip
        watchdog.phase("writing the model")
        model = engine.finished()
        ranks.by_first(lambda: _finish(stage, folder, model, tokenizer))
        ranks.by_first(checkpoints.clear)
    log.info("%s: %s", stage.name, folder.model)
    return folder.model


def _manifest(stage: Stage, store: Store) -> Manifest:
    """The samples of a run.

    Raises:
        SettingsError: the batch is counted in tokens, and a source does not give rows of `max_length`.
    """
    manifest = resolve(read(Mixture, stage.mixture), store, stage.seed)
    if stage.batch_tokens and (other := [one.name for one in manifest.sources if one.row != stage.max_length]):
        raise SettingsError(
            f"batch_tokens counts rows of max_length, {stage.max_length} tokens, which {', '.join(other)} does not "
            f"give: prepare documents with row={stage.max_length}, or set global_batch"
        )
    return manifest


def _recompute(model: YiVLForConditionalGeneration, stage: Stage, ranks: Ranks) -> None:
    """Activation checkpointing, as the stage says or its memory asks for: the same in all processes, since a block that
    is computed again also gathers its weights again under ZeRO 3."""
    mine = ranks.alike(lambda: chosen_checkpointing(stage, model.config, ranks.count, ranks.device))
    chosen = ranks.gather(mine)[0]
    if chosen.warning and ranks.first:
        log.warning("%s", chosen.warning)
    for part, every in chosen.every.items():
        recompute(blocks(model, part), every)
        if every:
            log.info("checkpointing: of the %s part every block of %d is recomputed", part, every)


def engine_of(model: YiVLForConditionalGeneration, stage: Stage, ranks: Ranks) -> Engine:
    """The engine that a stage asks for.

    Raises:
        SettingsError: it needs DeepSpeed, which is not installed.
    """
    if not stage.zero:
        return PlainEngine(model, stage, ranks)
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would look for others first, and say so
    return ranks.alike(_deepspeed)(model, stage, ranks)


def _deepspeed() -> Callable[[YiVLForConditionalGeneration, Stage, Ranks], Engine]:
    try:
        from stages.engines.zero import DeepSpeedEngine  # noqa: PLC0415 (needed with zero alone; slow to import)
    except ImportError as error:
        raise SettingsError(f"zero needs DeepSpeed: pip install 'yivl[train]' ({error})") from error
    return DeepSpeedEngine


def _rewind(folder: RunFolder, checkpoints: Checkpoints, step: int) -> None:
    """Back to a step: what came after it is made anew."""
    checkpoints.remove_after(step)
    folder.rewind(step)


def _finish(
    stage: Stage, folder: RunFolder, model: YiVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> None:
    if stage.adapter:
        write_adapter(model, folder.adapter)
        merge(model, torch.bfloat16 if stage.precision == "bf16" else torch.float32)
    folder.finish(model, tokenizer)


def starting_point(stage: Stage) -> str:
    """Tells what a stage starts from: the model file, and the weights of `start_from`."""
    source = yaml.safe_dump(plain(read(ModelSource, stage.model)))
    weights = fingerprint(Path(stage.start_from)) if stage.start_from else ""
    return f"{hashlib.sha256(source.encode()).hexdigest()} {weights}"


def starting_model(stage: Stage) -> Assembled:
    """The model of the stage before, or a new one from the model file, at this stage's resolution.

    Raises:
        FileNotFoundError: `start_from` does not exist.
        ValueError: it has other shapes than the model file.
        SettingsError: as `stages.parts.check_vision`.
    """
    source = read(ModelSource, stage.model)
    parts.check_vision(stage, source.config())
    if stage.start_from:
        try:
            model, tokenizer = read_model(check_folder(stage.start_from)), load_tokenizer(stage.start_from)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"start_from: {error}; run the stage that writes it first") from error
        expected, found = source.config(), model.config
        for name, a, b in (
            ("vision", {**expected.vision_config, "image_size": 0}, {**found.vision_config, "image_size": 0}),
            ("language", _shapes(expected.text_config), _shapes(found.text_config)),
        ):
            if a != b:
                differ = "; ".join(f"{k} is {b[k]!r}, not {a[k]!r}" for k in a if a[k] != b[k])
                raise ValueError(
                    f"start_from {stage.start_from}: its {name} part is not that of {stage.model}: {differ}"
                )
        start = Assembled(model, tokenizer)
    else:
        start = assemble(source, stage.seed)
    start.model.resize(stage.resolution)
    return start


def _shapes(config: object) -> dict[str, object]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "vocab_size")  # fmt: skip
    return {name: getattr(config, name) for name in names}


_ERRORS = (
    ImportError, OSError, ValueError, BadIndex, BadTar, BadStep, BrokenSource, CheckpointError, SettingsError,
    TooManyBroken,
)  # fmt: skip
"""What is the matter with settings, files or data: told in a line, without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 when the stage is done, 143 when it was asked to stop."""
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__.split("\n")[0])
    parser.add_argument("stage", type=Path, help="stage file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="instead of what the file says")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it on
    parser.add_argument("--plan", action="store_true", help="show what it would do, take and need; train nothing")
    parser.add_argument("--ranks", type=int, default=1, help="with --plan: processes, each on a device of its own")
    parser.add_argument("--device", default="", help="with --plan: a100, h100, h200, or a GPU's memory in GiB")
    parser.add_argument("--mfu", type=float, help="with --plan: share of the device's peak that is used")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        stage = read(Stage, options.stage, options.overrides)
        if options.plan:
            source, mixture = read(ModelSource, stage.model), read(Mixture, stage.mixture)
            print(plan(stage, source, mixture, ranks=options.ranks, device=options.device, mfu=options.mfu))
            return 0
        with joined(stage.hang_minutes) as ranks:
            if not ranks.first:
                log.setLevel(logging.WARNING)
            try:
                train(stage, ranks)
            except _ERRORS as error:  # told before the processes part: over NCCL that may take a while
                print(f"error: {error}", file=sys.stderr, flush=True)
                raise OtherProcessFailed(str(error)) from error
    except OtherProcessFailed:
        return 1
    except Interrupted as ended:
        log.info("%s", ended)
        return 143
    except _ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
