"""What the metrics compute, by the packages that define them: `FORMULAS` by op, each of a call's arguments and inputs."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr
from torchmetrics.functional.image import structural_similarity_index_measure as torch_ssim


def valid(plane):
    """Weighted sums over every window of 11 by 11 within a plane."""
    weights = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    for axis in (0, 1):
        plane = correlate1d(plane, weights / weights.sum(), axis=axis)
    return plane[5:-5, 5:-5]


def gaussian_ssim(a, b):
    c1, c2, total = 0.01**2, 0.03**2, 0.0
    for x, y in zip(np.moveaxis(a, 2, 0), np.moveaxis(b, 2, 0)):
        mx, my = valid(x), valid(y)
        vx, vy, vxy = valid(x * x) - mx * mx, valid(y * y) - my * my, valid(x * y) - mx * my
        total += np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return total / a.shape[2]


def image(args, i):
    a, b = i["a"].numpy(), i["b"].numpy()
    x, y = a / 255.0, b / 255.0
    tx, ty = (torch.from_numpy(v).permute(2, 0, 1)[None] for v in (x, y))
    gray = lambda v: v.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    wang = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, data_range=1.0)
    mse = np.mean((x - y) ** 2)
    with np.errstate(divide="ignore"):
        return {
            "psnr.skimage_uint8": peak_signal_noise_ratio(a, b, data_range=255),
            "psnr.unit": -10 * np.log10(mse),
            "l1.unit": np.mean(np.abs(x - y)),
            "mse.unit": mse,
            "ssim.skimage_default_uint8": structural_similarity(a, b, channel_axis=2, data_range=255),
            "ssim.skimage_default_unit": structural_similarity(x, y, channel_axis=2, data_range=1.0),
            "ssim.skimage_gaussian_wang": structural_similarity(x, y, **wang),
            "ssim.skimage_default_gray": structural_similarity(gray(a), gray(b), data_range=255),
            "ssim.gauss11_valid_unit": gaussian_ssim(x, y),
            "ssim.torchmetrics_unit": torch_ssim(tx, ty, data_range=1.0).item(),
            "psnr.torchmetrics_unit": torch_psnr(tx, ty, data_range=1.0).item(),
        }


def frechet(args, i):
    a, b = (i[k].double().numpy() for k in ("f1", "f2"))
    mean = float(np.square(a.mean(0) - b.mean(0)).sum())
    if min(len(a), len(b)) == 1:
        # One clip has no covariance: StyleGAN-V's code leaves the rest out.
        return {"mean_term": mean, "frechet.styleganv": mean}
    s1, s2 = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (a, b))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    trace = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0)).sum()
    product = sqrtm(s1 @ s2)
    return {
        "mean_term": mean,
        "trace_sqrt": trace,
        "frechet.styleganv": float(np.real(mean + np.trace(s1 + s2 - 2 * product))),
        "frechet.symmetric": mean + np.trace(s1) + np.trace(s2) - 2 * trace,
    }


def cosine(args, i):
    return {"cosine": F.cosine_similarity(i["e1"].double(), i["e2"].double()).numpy()}


def i3d_preprocess(args, i):
    side = args["resolution"]

    def one(video):
        b, c, t, h, w = video.shape
        scale = side / min(h, w)
        size = (side, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), side)
        frames = video.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
        frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
        y, x = (size[0] - side) // 2, (size[1] - side) // 2
        frames = frames[:, :, y : y + side, x : x + side].reshape(b, t, c, side, side)
        return ((frames.permute(0, 2, 1, 3, 4) - 0.5) * 2).contiguous().numpy()

    video = i["video"]
    return {"styleganv": one(video), "videogpt": one((video * 255).clamp(0, 255).to(torch.uint8).float() / 255)}


FORMULAS = {"image": image, "frechet": frechet, "cosine": cosine, "i3d_preprocess": i3d_preprocess}
