"""HumanEval: 164 functions in Python to be completed from signature and docstring, 0-shot.

A problem's prompt is given as it is, with the line break at its end, and the program is that of openai/human-eval:
prompt, completion, the function `check`, and its call.

Sources: arXiv 2107.03374, section 2 and 3 (stops); openai/human-eval, human_eval/execution.py (program). The same stops
are those of the task `humaneval` of lm-evaluation-harness (lm_eval/tasks/humaneval/humaneval.yaml); bigcode's harness
adds `\\n@`, `\\n``` ` and `<file_sep>`, and strips the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator

from eval.programs.benchmark import CodeBenchmark, Problem

_PUBLISHED = ("HumanEval.jsonl.gz", "HumanEval.jsonl")


class HumanEval(CodeBenchmark):
    """The problems."""

    title = "HumanEval"
    splits = ("test",)
    layout = (
        "openai_humaneval/openai_humaneval/test-*.parquet, the hub's openai/openai_humaneval; or HumanEval.jsonl.gz of "
        "openai/human-eval, unpacked or not"
    )
    shots = 0
    stops = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

    def read(self) -> Iterator[Problem]:
        """In the file's order."""
        published = [file for name in _PUBLISHED if (file := self.data / name).is_file()]
        folder = self.data / "openai_humaneval" / "openai_humaneval"
        if not (published or folder.is_dir()):
            raise FileNotFoundError(f"no HumanEval in {self.data}; it wants {self.layout}")
        for entry in self.lines(published[0]) if published else self.rows(folder, self.split):
            prompt, name = entry.get("prompt", str), entry.get("entry_point", str)
            yield Problem(
                id=entry.get("task_id", str),
                prompt=prompt,
                truth=entry.get("canonical_solution", str),
                before=prompt,
                after=f"\n{entry.get('test', str)}\ncheck({name})",
                file=entry.file,
                row=entry.row,
            )
