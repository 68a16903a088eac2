"""Stage 1: single frames. UNet, reference network, guiders and image encoder learn to redraw a person in another pose."""

import torch
from torch import nn

from batches import Batches, dropped, stratified
from common import Clips, Trainer, alphas_cumprod, arguments, noised, psnr, save_sheet
from latents import Latents
from networks import Animator, denoise
from sampling import Sampler, truth


def main():
    p = arguments(__doc__, steps=18000, batch=4, lr=5e-4, warmup=300, ema=0.998)
    p.add_argument("--frames", type=int, default=3, help="frames for each reference of a batch")
    p.add_argument("--test", type=__import__("pathlib").Path, help="held-out clips for the contact sheets")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    clips = Clips(args.data)
    latents = Latents(args, clips)
    held = Clips(args.test) if args.test else clips
    model = Animator(args.size).to(args.device)
    model.motion.requires_grad_(False)
    trainer = Trainer(args, nn.ModuleDict(dict(animator=model)), "stage1")
    batches, table = Batches(clips, latents, args.device), alphas_cumprod()

    def loss_of(g):
        x0, z, seen, flat = batches.draw(g, args.batch, args.frames, neighbours=False)
        noise = torch.randn(x0.shape, generator=g).to(args.device)
        t = stratified(g, len(x0), 1)
        x, v, weight = noised(x0, noise, t, table)
        plain = dropped(g, args.batch)
        context = model.context(seen.clip)
        context = torch.cat([torch.zeros_like(context[:plain]), context[plain:]])
        bank = model.bank(z[plain:], context[plain:]) if plain < args.batch else None
        each = context.repeat_interleave(args.frames, 0)
        pose = model.pose(batches.guidance(flat), seen.carried)
        out = denoise(model.unet, x, t.to(args.device), each, pose, bank, plain * args.frames)
        error = ((out - v) ** 2).mean((1, 2, 3))
        high = t >= 700
        parts = dict(high=error[high].mean().item(), low=error[~high].mean().item()) if 0 < int(high.sum()) < len(t) else {}
        return (weight.to(args.device) * error).mean(), parts

    def sheet(step):
        sampler = Sampler(model, latents, args.device)
        rows, quality = [], []
        for i in range(min(6, len(held))):
            reference, guidance, frames = truth(held, i)
            made = sampler.clip(held, i, steps=10, motion=False)
            quality.append(psnr(made, frames).mean())
            k = [0, len(frames) // 2, len(frames) - 1]
            rows.append([reference] + [p[j] for j in k for p in (next(iter(guidance.values())), made, frames)])
        print(f"stage1: {sum(quality) / len(quality):.2f} dB on {len(quality)} clips", flush=True)
        save_sheet(args.out / f"stage1_{step:06d}.png", rows)

    trainer.run(loss_of, sheet)


if __name__ == "__main__":
    main()
