"""Light augmentation of small batches on the CPU, like the variation between hand-held photographs."""

from __future__ import annotations

import torch
from torch.nn import functional


def affine(images: torch.Tensor, random: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Rotate, scale, shear and shift each image by its own random amounts.

    At strength 1: up to 15 degrees, 15% of scale and shear, 10% of shift, uniformly.

    Args:
        images: [N, C, H, W] float; pixels from outside are those of the nearest border.
        random: the generator of all amounts.
    """
    count = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=random) * 2 - 1) * limit * strength

    angle, scale_x, scale_y, shear = uniform(0.26), 1 + uniform(0.15), 1 + uniform(0.15), uniform(0.15)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, uniform(0.2)], dim=1)
    second = torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, uniform(0.2)], dim=1)
    grid = functional.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def elastic(images: torch.Tensor, random: torch.Generator, shift: float = 0.1) -> torch.Tensor:
    """Distort each image by smooth random displacements of about `shift` (of half its side).

    After Simard et al., "Best Practices for Convolutional Neural Networks", 2003.

    Args:
        images: [N, C, H, W] float; pixels from outside are those of the nearest border.
        random: the generator of all displacements.
    """
    count, _, height, width = images.shape
    coarse = torch.randn(count, 2, 4, 4, generator=random) * shift
    smooth = functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    still = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(images.shape), align_corners=False)
    grid = still + smooth.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
