"""The vision part: open_clip's VisionTransformer, read at the output of its last block but one."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from yivl.images import normalise

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class Vision(nn.Module):
    """Patch features of images.

    The last block and the final layer norm are never run. They are kept, frozen, because the released layout and
    every tool that reads it expect the whole CLIP tower.

    Args:
        config: `YiVLConfig.vision_config`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.clip = VisionTransformer(
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            width=config["width"],
            layers=config["layers"],
            heads=config["heads"],
            mlp_ratio=config["mlp_ratio"],
            act_layer=ACTIVATIONS[config["activation"]],
            norm_layer=LayerNorm,
        )
        self.clip.proj = None
        self.width: int = config["width"]
        for parameter in self.unused():
            parameter.requires_grad_(False)

    def unused(self) -> list[nn.Parameter]:
        """Parameters that no feature depends on: the last block and the final layer norm."""
        return [*self.clip.transformer.resblocks[-1].parameters(), *self.clip.ln_post.parameters()]

    @property
    def side(self) -> int:
        """Side of the images taken, in pixels."""
        return int(self.clip.image_size[0])

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of each patch.

        Args:
            pixels: [N, 3, S, S], uint8, or floats that are normalised already.

        Returns:
            Floats [N, patches, width]: the last block but one's output without the CLS row.

        Raises:
            ValueError: the images have another size than the position embeddings.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.side, self.side):
            raise ValueError(
                f"pixels of shape {tuple(pixels.shape)}, but this model takes [N, 3, {self.side}, {self.side}]; "
                f"model.resize({pixels.shape[-1]}) adapts its position embeddings to another size"
            )
        dtype = self.clip.conv1.weight.dtype
        pixels = normalise(pixels, dtype) if pixels.dtype == torch.uint8 else pixels.to(dtype)
        found = self.clip.forward_intermediates(
            pixels,
            indices=[len(self.clip.transformer.resblocks) - 2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        features: Tensor = found["image_intermediates"][0]
        return features

    def resize(self, side: int) -> None:
        """Adapts the position embeddings to images of `side` pixels: bicubic on the grid, in float32, the CLS row
        kept; nothing changes at the same size.

        Raises:
            ValueError: `side` is not a multiple of the patch size.
        """
        patch = int(self.clip.patch_size[0])
        if side % patch or side <= 0:
            raise ValueError(f"{side} pixels are not a multiple of the patch size {patch}")
        if side == self.side:
            return
        old, grid = self.clip.positional_embedding, side // patch
        cls, rows = old.detach()[:1].float(), old.detach()[1:].float()
        before = int(self.clip.grid_size[0])
        planes = rows.reshape(1, before, before, self.width).permute(0, 3, 1, 2)
        planes = F.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=False)
        rows = planes.permute(0, 2, 3, 1).reshape(grid * grid, self.width)
        new = torch.cat([cls, rows]).to(old.dtype)
        self.clip.positional_embedding = nn.Parameter(new, requires_grad=old.requires_grad)
        self.clip.image_size, self.clip.grid_size = (side, side), (grid, grid)
