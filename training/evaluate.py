"""PSNR and SSIM of held-out clips beside baselines: the reference repeated, not carried along, no features of
the ReferenceNet, no motion modules."""

import argparse
import json
import os
from pathlib import Path

import torch

from common import Clips, psnr, save_sheet, ssim
from latents import Latents
from sampling import Sampler, load, truth


def flicker(made, frames):
    """Mean absolute second difference in time, less that of the truth: 0 is as steady as the truth."""
    second = [(x[2:] - 2 * x[1:-1] + x[:-2]).abs().mean() for x in (made, frames)]
    return (second[0] - second[1]).item() * 255


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="held-out clips (`muybridge synth --split test --packed`)")
    p.add_argument("--train", type=Path, required=True, help="the training clips, for the scale of the latents")
    p.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    p.add_argument("--size", default="small")
    p.add_argument("--clips", type=int, default=32)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--guidance", type=float, default=1.0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    torch.set_num_threads(os.cpu_count())
    clips = Clips(args.data)
    latents = Latents(args, Clips(args.train))
    model, stage = load(args)
    sampler = Sampler(model, latents, args.device)
    kinds = {
        "model": {},
        "no ReferenceNet features": dict(features=False),
        "reference not carried": dict(placed=False),
        "no motion modules": dict(motion=False),
    }
    table, rows = {}, []
    for i in range(min(args.clips, len(clips))):
        reference, guidance, frames = truth(clips, i)
        z = latents.vae.encode(frames.to(args.device) * 2 - 1).latent_dist.mode()
        tries = {"reference repeated": reference[None].expand_as(frames), "autoencoder alone": latents.decode(z * latents.scale).cpu()}
        for name, options in kinds.items():
            tries[name] = sampler.clip(clips, i, args.steps, args.guidance, **options)
        for name, made in tries.items():
            row = (psnr(made, frames).mean().item(), ssim(made, frames).mean().item(), flicker(made, frames))
            table.setdefault(name, []).append(row)
        k = [0, len(frames) // 2, len(frames) - 1]
        rows.append([reference] + [p[j] for j in k for p in (*guidance.values(), tries["model"], frames)])
        print(f"{i + 1} of {args.clips}: {table['model'][-1][0]:.2f} dB", flush=True)
    summary = {name: torch.tensor(values).mean(0).tolist() for name, values in table.items()}
    print(f"\n{len(rows)} clips, {args.steps} steps, guidance {args.guidance}, {stage}")
    print(f"{'':24}{'PSNR dB':>10}{'SSIM':>10}{'flicker':>10}")
    for name, (a, b, c) in summary.items():
        print(f"{name:24}{a:10.2f}{b:10.4f}{c:10.3f}")
    (args.out / "evaluation.json").write_text(json.dumps(dict(options={k: str(v) for k, v in vars(args).items()}, mean=summary, clips=table)))
    save_sheet(args.out / "evaluation.png", rows)


if __name__ == "__main__":
    main()
