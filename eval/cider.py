"""CIDEr of captions by COCO's own scripts, as the package pycocoevalcap ships them (arXiv 1411.5726; with the changes
that are called CIDEr-D).

Captions are split into words by Stanford's tokenizer, which is part of that package and runs in Java. There is no
other way to the published numbers, so none is tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

_PACKAGE = "pycocoevalcap"


def require() -> None:
    """Raises `ValueError` where the package or Java is missing."""
    if find_spec(_PACKAGE) is None:
        raise ValueError(f"CIDEr takes the package {_PACKAGE}, which is not installed: pip install -e '.[captions]'")
    if shutil.which("java") is None:
        raise ValueError("CIDEr takes Java, for Stanford's tokenizer, and there is no java: install a Java runtime")


def cider(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Each caption's score, from 0 to 10; their mean is the corpus' score, which is usually given times a hundred.

    Args:
        captions: by image; an empty one scores 0.
        references: people's captions of the same images. How rare a word is, is counted in these.

    Raises:
        ValueError: see `require`; or the tokenizer failed.
    """
    require()
    # Optional, and so imported where it is wanted.
    from pycocoevalcap.cider.cider import Cider  # noqa: PLC0415

    wanted = {image: references[image] for image in captions}
    given = _words({image: [caption] for image, caption in captions.items()})
    _, scores = Cider().compute_score(_words(wanted), given)
    return dict(zip(captions, map(float, scores), strict=True))


def _words(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Captions in words between spaces.

    The tokenizer takes one to a line and drops empty ones at the end, so that of one with a line end of any kind in it,
    or of none, the others would move: each is made a line, and empty ones are left out.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # noqa: PLC0415

    asked: dict[tuple[str, int], str] = {}
    for image, several in captions.items():
        asked |= {(image, number): " ".join(caption.split()) for number, caption in enumerate(several)}
    lines = {key: [{"caption": line}] for key, line in asked.items() if line}
    words = PTBTokenizer().tokenize(lines) if lines else {}
    if words.keys() != lines.keys():
        raise ValueError(f"Stanford's tokenizer gave {len(words)} captions for {len(lines)}; does java run?")
    return {
        image: [words[image, number][0] if asked[image, number] else "" for number in range(len(several))]
        for image, several in captions.items()
    }
