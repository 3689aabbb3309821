"""The vision part: resizing, images in any form, sizes that don't fit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY
from PIL import Image

from yivl import YiVL, YiVLConfig
from yivl.assembly import LanguageSource, ModelSource, VisionSource
from yivl.folder import read_model, write_model
from yivl.images import PADDING, BadImage, normalise, open_image, to_pixels
from yivl.vision import Vision
from yivl.weights import build, read_weights


def test_224_to_448_quadruples_the_image_tokens() -> None:
    assert YiVLConfig(vision_config={"image_size": 224}).patches == 256
    assert YiVLConfig(vision_config={"image_size": 448}).patches == 1024


def test_resize_is_bicubic_on_the_grid_and_keeps_the_cls_row(fresh_tiny: YiVL) -> None:
    vision = fresh_tiny.model.vision
    before = vision.clip.positional_embedding.detach().clone()
    fresh_tiny.model.resize(112)
    after = vision.clip.positional_embedding.detach()
    assert after.shape == (65, 48)
    assert torch.equal(after[0], before[0])
    assert fresh_tiny.model.config.patches == 64
    assert fresh_tiny.model.config.resized_from == [56]
    # an independent bicubic kernel (a = -0.75), written out for one point of the new grid
    grid = before[1:].reshape(4, 4, 48).double()
    for row, column in ((3, 4), (0, 7), (5, 2)):
        expected = torch.zeros(48, dtype=torch.float64)
        y, x = (row + 0.5) / 2 - 0.5, (column + 0.5) / 2 - 0.5
        for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                weight = cubic(y - i) * cubic(x - j)
                expected += weight * grid[min(max(i, 0), 3), min(max(j, 0), 3)]
        assert torch.allclose(after[1 + row * 8 + column].double(), expected, atol=1e-6)


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def test_resize_to_the_same_size_changes_nothing(fresh_tiny: YiVL) -> None:
    before = fresh_tiny.model.vision.clip.positional_embedding
    fresh_tiny.model.resize(56)
    assert fresh_tiny.model.vision.clip.positional_embedding is before
    assert fresh_tiny.model.config.resized_from == []


def test_resize_of_half_precision_weights_works_in_fp32(fresh_tiny: YiVL) -> None:
    vision = fresh_tiny.model.to(torch.bfloat16).vision
    exact = fresh_tiny.model.vision.clip.positional_embedding.detach().float()
    vision.resize(112)
    other = Vision(
        {
            "image_size": 56,
            "patch_size": 14,
            "width": 48,
            "layers": 4,
            "heads": 4,
            "mlp_ratio": 4.0,
            "activation": "gelu",
        }
    )
    other.clip.positional_embedding.data = exact
    other.resize(112)
    assert torch.equal(vision.clip.positional_embedding, other.clip.positional_embedding.to(torch.bfloat16))


def test_a_resized_model_is_saved_with_its_size(fresh_tiny: YiVL, tmp_path: Path) -> None:
    fresh_tiny.model.resize(112)
    write_model(fresh_tiny.model, fresh_tiny.tokenizer, tmp_path)
    again = YiVL.load(tmp_path)
    assert again.model.config.resized_from == [56]
    assert again.ask(TINY / "image_0.png", "图中有几只猫？", max_new_tokens=3) == fresh_tiny.ask(
        TINY / "image_0.png", "图中有几只猫？", max_new_tokens=3
    )


def test_pixels_of_another_size_are_an_error_that_says_how_to_resize(tiny: YiVL) -> None:
    with pytest.raises(ValueError, match=r"takes \[N, 3, 56, 56\]; model\.resize\(112\)"):
        tiny.model.vision(torch.zeros(1, 3, 112, 112, dtype=torch.uint8))
    with pytest.raises(ValueError, match="60 pixels are not a multiple of the patch size 14"):
        tiny.model.resize(60)


def test_weights_for_another_resolution_are_an_error_that_says_how_to_resize(fresh_tiny: YiVL, tmp_path: Path) -> None:
    write_model(fresh_tiny.model, fresh_tiny.tokenizer, tmp_path)
    config = YiVLConfig.from_pretrained(tmp_path)
    config.vision_config = config.vision_config | {"image_size": 112}
    with pytest.raises(ValueError, match=r"(?s)images of 56 pixels. Set image_size to 56 .*model\.resize\(112\)"):
        build(config, read_weights(tmp_path), None, tmp_path)


def test_missing_and_unexpected_tensors_are_listed(fresh_tiny: YiVL, tmp_path: Path) -> None:
    weights = fresh_tiny.model.state_dict()
    weights["language.extra"] = weights.pop("language.model.norm.weight")
    with pytest.raises(
        ValueError, match=r"(?s)missing: language\.model\.norm\.weight \[64\].*unexpected: language\.extra"
    ):
        build(fresh_tiny.model.config, weights, None, tmp_path)


def test_features_are_open_clips_own_last_block_but_one(tiny: YiVL) -> None:
    """Run open_clip's blocks by hand, up to the last but one."""
    pixels = torch.from_numpy(to_pixels(TINY / "image_0.png", 56))[None]
    clip = tiny.model.vision.clip
    with torch.no_grad():
        x = clip.conv1(normalise(pixels)).flatten(2).transpose(1, 2)
        x = torch.cat([clip.class_embedding.expand(1, 1, -1), x], dim=1) + clip.positional_embedding
        x = clip.ln_pre(x)
        for block in list(clip.transformer.resblocks)[:-1]:
            x = block(x)
        assert torch.allclose(tiny.model.vision(pixels), x[:, 1:], atol=1e-6)


def test_shapes_of_an_open_clip_model_are_taken_from_its_name() -> None:
    source = ModelSource(
        name="x", vision=VisionSource(open_clip="ViT-H-14"), language=LanguageSource(config={}, tokenizer="t")
    )
    assert source.config().vision_config == {
        "image_size": 224, "patch_size": 14, "width": 1280, "layers": 32, "heads": 16, "mlp_ratio": 4.0,
        "activation": "gelu",
    }  # fmt: skip
    assert "ViT-H-14" in open_clip.list_models()


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (25, 25), (301, 17)])
def test_images_are_padded_to_a_centred_square(size: tuple[int, int]) -> None:
    red = Image.new("RGB", size, (255, 0, 0))
    side = max(size)
    pixels = to_pixels(red, side).transpose(1, 2, 0)
    is_red = (pixels == (255, 0, 0)).all(-1)
    assert is_red.sum() == size[0] * size[1]
    assert (pixels[~is_red] == PADDING).all()
    rows, columns = np.flatnonzero(is_red.any(1)), np.flatnonzero(is_red.any(0))
    assert abs((rows[0] + rows[-1]) - (side - 1)) <= 1
    assert abs((columns[0] + columns[-1]) - (side - 1)) <= 1


def test_an_image_is_a_path_bytes_pil_or_array(tiny: YiVL) -> None:
    path = TINY / "image_0.png"
    image = Image.open(path)
    expected = to_pixels(path, 56)
    for form in (str(path), path.read_bytes(), image, np.asarray(image.convert("RGB"))):
        assert np.array_equal(to_pixels(form, 56), expected)


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    with io.BytesIO() as file:
        image.save(file, "JPEG", exif=exif)
        assert open_image(file.getvalue()).size == (10, 20)


def test_bad_images_say_what_is_wrong(tmp_path: Path) -> None:
    whole = (TINY / "image_0.png").read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        with pytest.raises(BadImage, match="not a readable image"):
            open_image(content)
    with pytest.raises(FileNotFoundError, match="no image file"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(TypeError, match="uint8"):
        open_image(np.zeros((4, 4, 3)))
    with pytest.raises(BadImage, match="as a square it would have more than the limit"):
        to_pixels(Image.new("RGB", (30_000, 10)), 56)
    with io.BytesIO() as file:
        Image.new("1", (10_000, 10_000)).save(file, "PNG")
        with pytest.raises(BadImage, match="more than the limit"):
            open_image(file.getvalue())


def test_models_read_from_either_layout_are_the_same(tmp_path: Path) -> None:
    model = read_model(TINY)
    write_model(model, YiVL.load(TINY).tokenizer, tmp_path)
    assert read_model(tmp_path).config.vision_config == model.config.vision_config
