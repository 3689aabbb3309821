"""Whether expanding a trained model pays, tried at desk size: `python -m stages.upscaling` (docs/depth.md)."""
