"""The command `yivl`.

yivl ask MODEL IMAGE "How many cats are there?"
yivl chat MODEL [IMAGE]
yivl convert MODEL OUT --layout released
yivl merge MODEL ADAPTER OUT
yivl depth measure|expand|compare|unpack …
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yivl.adapters import merge, read_adapter
from yivl.conversation import Conversation, Turn
from yivl.depth import command as depth
from yivl.folder import write_model
from yivl.inference import YiVL
from yivl.released import write_released


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        run = {"ask": _ask, "chat": _chat, "convert": _convert, "merge": _merge, "depth": depth.run}[options.command]
        run(options)
    except (ImportError, OSError, ValueError) as error:
        print(f"yivl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="yivl", description="Ask a Yi-VL model about images.")
    commands = parser.add_subparsers(dest="command", required=True)
    loading = argparse.ArgumentParser(add_help=False)
    loading.add_argument("model", help="model folder, of ours or in the released layout")
    loading.add_argument("--dtype", help="float32, bfloat16, ...; by default that of the weights")
    loading.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default the first GPU, or else the CPU")
    generating = argparse.ArgumentParser(add_help=False)
    generating.add_argument("--max-new-tokens", type=int, default=512)
    generating.add_argument("--temperature", type=float, default=0.0, help="0 (the default) is greedy")
    ask = commands.add_parser("ask", parents=[loading, generating], help="one question about one image")
    ask.add_argument("image")
    ask.add_argument("question")
    chat = commands.add_parser("chat", parents=[loading, generating], help="a conversation in the terminal")
    chat.add_argument("image", nargs="?")
    convert = commands.add_parser("convert", parents=[loading], help="write a model in the other layout")
    convert.add_argument("out")
    convert.add_argument("--layout", choices=("released", "yivl"), default="released")
    merging = commands.add_parser("merge", help="write a model with an adapter added to its language part")
    merging.add_argument("model", help="model folder that the adapter was trained on")
    merging.add_argument("adapter", help="folder of a run's adapter, or of a LoRA that peft wrote")
    merging.add_argument("out")
    depth.add_to(commands)
    return parser


def _reply(model: YiVL, conversation: Conversation, options: argparse.Namespace) -> str:
    sampling = {"do_sample": True, "temperature": options.temperature} if options.temperature > 0 else {}
    pieces = []
    for piece in model.stream_chat(conversation, max_new_tokens=options.max_new_tokens, **sampling):
        pieces.append(piece)
        print(piece, end="", flush=True)
    print()
    return "".join(pieces)


def _ask(options: argparse.Namespace) -> None:
    model = YiVL.load(options.model, options.dtype, options.device)
    turns = (Turn("human", options.question, images=1),)
    _reply(model, Conversation(turns=turns, images=(options.image,)), options)


def _chat(options: argparse.Namespace) -> None:
    model = YiVL.load(options.model, options.dtype, options.device)
    images = (options.image,) if options.image else ()
    turns: tuple[Turn, ...] = ()
    print("Empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            return
        if not said:
            return
        turns = (*turns, Turn("human", said, images=len(images) if not turns else 0))
        turns = (*turns, Turn("assistant", _reply(model, Conversation(turns=turns, images=images), options)))


def _convert(options: argparse.Namespace) -> None:
    out = _free(options.out)
    loaded = YiVL.load(options.model, options.dtype, options.device or "cpu")
    if options.layout == "released":
        write_released(loaded.model, loaded.tokenizer, out)
    else:
        write_model(loaded.model, loaded.tokenizer, out)
    print(out)


def _merge(options: argparse.Namespace) -> None:
    out = _free(options.out)
    loaded = YiVL.load(options.model, device="cpu")
    read_adapter(loaded.model, Path(options.adapter))
    merge(loaded.model, loaded.model.dtype)
    write_model(loaded.model, loaded.tokenizer, out)
    print(out)


def _free(folder: str) -> Path:
    out = Path(folder)
    if (out / "config.json").exists():
        raise ValueError(f"{out} already holds a model; choose another folder")
    return out


if __name__ == "__main__":
    sys.exit(main())
