"""Tiny HumanEval and MBPP of our own problems, in the formats in which they are published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from text_case import write

HUMANEVAL: list[dict[str, Any]] = [
    {
        "task_id": "HumanEval/0",
        "prompt": "from typing import List\n\n\ndef doubled(numbers: List[int]) -> List[int]:\n"
        '    """Each number twice as large.\n    >>> doubled([1, 2])\n    [2, 4]\n    """\n',
        "canonical_solution": "    return [2 * number for number in numbers]\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"
        "    assert candidate([]) == []\n",
        "entry_point": "doubled",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": '\n\ndef is_odd(n):\n    """Whether n is odd."""\n',
        "canonical_solution": "    if n < 0:\n        return is_odd(-n)\n    return n % 2 == 1\n",
        "test": "def check(candidate):\n    assert candidate(3) is True\n    assert candidate(-3)\n"
        "    assert not candidate(0)\n",
        "entry_point": "is_odd",
    },
    {
        "task_id": "HumanEval/2",
        "prompt": "import math\n\ndef helper(x):\n    return math.floor(x)\n\ndef whole(x: float) -> int:\n"
        '    """The whole part of a positive number."""\n',
        "canonical_solution": "    return helper(x)\n",
        "test": "import random\ndef check(candidate):\n    for _ in range(9):\n        x = random.random() * 9\n"
        "        assert candidate(x) == int(x)\n",
        "entry_point": "whole",
    },
    {
        "task_id": "HumanEval/3",
        "prompt": 'def greeting(name):\n    """A greeting."""\n',
        "canonical_solution": '    hello = "你好"\n\n    return f"{hello}, {name}!"\n',
        "test": "def check(candidate):\n    assert candidate('Yi') == '你好, Yi!'\n",
        "entry_point": "greeting",
    },
]  # fmt: skip

EXAMPLES: list[dict[str, Any]] = [
    {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"def add(n):\r\n  return n + {number}",
        "test_list": [f"assert add({n}) == {n + number}" for n in range(3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    for number in range(1, 11)
]

MBPP: list[dict[str, Any]] = [
    {
        "task_id": 11,
        "text": "Write a function to find the largest number.",
        "code": "def largest(numbers):\r\n    return max(numbers)",
        "test_list": ["assert largest([1, 3, 2]) == 3", "assert largest([-1]) == -1", "assert largest([0, 0]) == 0"],
        "test_setup_code": "",
        "challenge_test_list": ["assert largest([]) is None"],
    },
    {
        "task_id": 12,
        "text": "Write a function to find the depth of a tree.",
        "code": "class Node:\r\n    def __init__(self, left=None):\r\n        self.left = left\r\ndef depth(node):\r\n"
        "    return 0 if node is None else 1 + depth(node.left)",
        "test_list": ["assert depth(root) == 2", "assert depth(None) == 0", "assert depth(root.left) == 1"],
        "test_setup_code": "root = Node(Node())",
        "challenge_test_list": [],
    },
    {
        "task_id": 13,
        "text": "Write a function to reverse a word.",
        "code": "def turned(word):\r\n\treturn word[::-1]",
        "test_list": ["assert turned('abc') == 'cba'", "assert turned('') == ''", "assert turned('猫狗') == '狗猫'"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
]

SANITIZED: list[dict[str, Any]] = [
    {
        "source_file": "a.ipynb",
        "task_id": 20,
        "prompt": "Write a function to find the area of a disc.",
        "code": "def area(r):\n    return 3.141592653589793 * r * r",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(area(1), math.pi)", "assert area(0) == 0"],
    }
]

_FULL = pa.schema(
    {"task_id": pa.int32(), "text": pa.string(), "code": pa.string(), "test_list": pa.list_(pa.string()),
     "test_setup_code": pa.string(), "challenge_test_list": pa.list_(pa.string())}
)  # fmt: skip


def humaneval(data: Path) -> Path:
    """As on the hub."""
    return write(data / "openai_humaneval" / "openai_humaneval", "test", HUMANEVAL)


def humaneval_lines(data: Path, *, packed: bool) -> Path:
    """As openai/human-eval has it."""
    data.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in HUMANEVAL).encode()
    file = data / ("HumanEval.jsonl.gz" if packed else "HumanEval.jsonl")
    file.write_bytes(gzip.compress(lines) if packed else lines)
    return file


def mbpp(data: Path) -> Path:
    """Both configurations, as on the hub."""
    write(data / "mbpp" / "full", "prompt", EXAMPLES, _FULL)
    test = write(data / "mbpp" / "full", "test", MBPP, _FULL)
    by_hand = [
        {"source_file": "a.ipynb", "task_id": row["task_id"], "prompt": row["text"], "code": row["code"],
         "test_imports": [], "test_list": row["test_list"]}
        for row in EXAMPLES
    ]  # fmt: skip
    schema = pa.schema(
        {"source_file": pa.string(), "task_id": pa.int32(), "prompt": pa.string(), "code": pa.string(),
         "test_imports": pa.list_(pa.string()), "test_list": pa.list_(pa.string())}
    )  # fmt: skip
    write(data / "mbpp" / "sanitized", "prompt", by_hand, schema)
    write(data / "mbpp" / "sanitized", "test", SANITIZED, schema)
    return test
