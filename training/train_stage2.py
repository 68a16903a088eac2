"""Stage 2: clips. Only the motion modules learn; they let frames see each other."""

import torch
from torch import nn

from batches import Batches, dropped, stratified
from common import Clips, Trainer, alphas_cumprod, arguments, averaged, noised, psnr, save_sheet
from latents import Latents
from networks import Animator, denoise
from sampling import Sampler, truth


def main():
    p = arguments(__doc__, steps=1000, batch=1, lr=5e-4, warmup=100, ema=0.997)
    p.add_argument("--frames", type=int, default=16, help="frames of a window")
    p.add_argument("--test", type=__import__("pathlib").Path, help="held-out clips for the contact sheets")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    clips = Clips(args.data)
    latents = Latents(args, clips)
    held = Clips(args.test) if args.test else clips
    model = Animator(args.size)
    weights, _ = averaged(args.out, "stage1")
    model.load_state_dict({k.removeprefix("animator."): v for k, v in weights.items()})
    model.requires_grad_(False).to(args.device)
    model.motion.requires_grad_(True)
    trainer = Trainer(args, nn.ModuleDict(dict(animator=model)), "stage2")
    batches, table = Batches(clips, latents, args.device), alphas_cumprod()

    def loss_of(g):
        x0, z, seen, flat = batches.draw(g, args.batch, args.frames, neighbours=True)
        noise = torch.randn(x0.shape, generator=g).to(args.device)
        t = stratified(g, len(x0), args.frames)
        x, v, weight = noised(x0, noise, t, table)
        plain = dropped(g, args.batch)
        with torch.no_grad():
            context = model.context(seen.clip)
            context = torch.cat([torch.zeros_like(context[:plain]), context[plain:]])
            bank = model.bank(z[plain:], context[plain:]) if plain < args.batch else None
            pose = model.pose(batches.guidance(flat), seen.carried)
        each = context.repeat_interleave(args.frames, 0)
        out = denoise(model.unet, x, t.to(args.device), each, pose, bank, plain * args.frames, model.motion, args.frames)
        error = ((out - v) ** 2).mean((1, 2, 3))
        # What moves in the prediction must move in the truth: the step from frame to frame counts besides.
        change = (out - v).unflatten(0, (-1, args.frames)).diff(dim=1).pow(2).mean()
        return (weight.to(args.device) * error).mean() + 0.25 * change, dict(change=change.item())

    def sheet(step):
        sampler = Sampler(model, latents, args.device)
        rows, quality = [], []
        for i in range(min(4, len(held))):
            reference, _, frames = truth(held, i)
            made = sampler.clip(held, i, steps=10)
            quality.append(psnr(made, frames).mean())
            rows += [[reference, *made[:8]], [reference, *frames[:8]]]
        print(f"stage2: {sum(quality) / len(quality):.2f} dB on {len(quality)} clips", flush=True)
        save_sheet(args.out / f"stage2_{step:06d}.png", rows)

    trainer.run(loss_of, sheet)


if __name__ == "__main__":
    main()
