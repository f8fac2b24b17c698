"""Anomaly maps of images and their reconstructions, and smoothing of maps."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# C1 and C2 of SSIM for values in [0, 1].
SSIM_CONSTANTS = (0.01**2, 0.03**2)

# Scales of the structural difference; each halves the resolution.
SCALES = 3


def ssim_map(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return 1 - SSIM (Wang et al., TIP 2004) of grey images, the mean over three scales.

    Args:
        images: [B, 3, H, W] in [0, 1].
        reconstructions: the same.

    Returns:
        [B, 1, H, W] in [0, 2].
    """
    a, b = (pixels.mean(dim=1, keepdim=True) for pixels in (images, reconstructions))
    size, total, done = a.shape[-2:], _dissimilarity(a, b), 1
    while done < SCALES and min(a.shape[-2:]) >= 16:
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        coarser = F.interpolate(_dissimilarity(a, b), size, mode="bilinear", align_corners=False)
        total, done = total + coarser, done + 1
    return total / done


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - SSIM of grey images [B, 1, H, W], with Gaussian windows of 1.5 pixels."""
    # Variances do not change by a shift; around 0 squares are smaller and cancel with less error.
    a, b = a - 0.5, b - 0.5
    moments = smooth(torch.cat([a, b, a * a, b * b, a * b], dim=1), 1.5)
    mean_a, mean_b, square_a, square_b, product = moments.split(1, dim=1)
    # cov(a, b) = E[ab] - E[a]E[b]
    covariance = product - mean_a * mean_b
    variances = square_a - mean_a * mean_a + square_b - mean_b * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    c1, c2 = SSIM_CONSTANTS
    # SSIM = (2 ma mb + C1) / (ma^2 + mb^2 + C1) * (2 cov + C2) / (va + vb + C2)
    light = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return 1 - light * (2 * covariance + c2) / (variances + c2)


def colour_map(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the difference of local colours in CIELAB, in hundreds of Delta E (CIE 1976).

    It finds shifts of colour or lightness that are too faint for the other terms.

    Args:
        images: [B, 3, H, W] in [0, 1].
        reconstructions: the same.

    Returns:
        [B, 1, H, W] >= 0.
    """
    # Blurred by 2 pixels, since grain differs in colour, too.
    difference = cielab(smooth(images, 2.0)) - cielab(smooth(reconstructions, 2.0))
    # 1e-12: the square root has no gradient at 0.
    return (difference.square().sum(dim=1, keepdim=True) + 1e-12).sqrt() / 100


def cielab(images: Tensor) -> Tensor:
    """Convert sRGB [B, 3, H, W] in [0, 1] to CIELAB (D65): L in [0, 100], a and b around 0."""
    images = images.clamp(0, 1)
    # Inverse of sRGB's gamma. The inner clamp keeps the unused branch's gradient finite.
    linear = torch.where(
        images <= 0.04045, images / 12.92, ((images.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    )
    to_xyz = linear.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    # Divided by the white point, X / Xn = 1 for white.
    white = to_xyz.sum(dim=1, keepdim=True)
    xyz = F.conv2d(linear, (to_xyz / white)[:, :, None, None])
    edge = 6 / 29  # below it CIE 1976 replaces the cube root by its tangent
    f = torch.where(xyz > edge**3, xyz.clamp_min(edge**3) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29)
    x, y, z = f.split(1, dim=1)
    return torch.cat([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Blur maps [B, C, H, W] with a Gaussian of `sigma` pixels; 0 leaves them unchanged."""
    if sigma == 0:
        return maps
    channels, height, width = maps.shape[-3:]
    radius = min(math.ceil(3 * sigma), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    # By reflection, so that border pixels are neither darkened nor brightened.
    padded = F.pad(maps, (radius, radius, radius, radius), mode="reflect")
    blurred = F.conv2d(padded, kernel[:, :, None, :], groups=channels)
    return F.conv2d(blurred, kernel[:, :, :, None], groups=channels)
