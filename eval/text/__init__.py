"""Text benchmarks through EleutherAI's lm-evaluation-harness, from local files: what a language model, or the language
part of a vision-language model, scores on the benchmarks of the Yi technical report's Tables 6 and 8.

`paper` (tasks, shots and published rows) -> `local` (the harness's tasks on local files) -> `run` (asks) -> `report`.
"""
