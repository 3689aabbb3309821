"""Depth upscaling of a language model: which layers can be repeated, and the deeper model (docs/depth.md).

`expansion` (which layers, in which order) -> `cosine` (what each layer does to a text) -> `suggestion` (which block to
repeat) and `comparison` (what a repetition does to the model). `stored` (safetensors files, tensor by tensor) ->
`expand` (the deeper model's folder). `report` and `figures` show what was measured; `command` is `yivl depth`.
"""
