"""Trains the autoencoder on crops of single frames: 128x128 pictures to 32x32x4 latents and back."""

import torch
import torch.nn.functional as F
from torch import nn

from common import Clips, Trainer, arguments, pixels, psnr, save_sheet
from networks import autoencoder

CROP = 64


def crops(clips, batch, g):
    """Random crops `[N,3,64,64]` in [-1,1], half of them round the person's place in the middle, mirrored at random."""
    which = torch.randint(len(clips), (batch,), generator=g).tolist()
    frames = torch.randint(clips.frames, (batch,), generator=g).tolist()
    x = pixels(clips.take("frames", which, frames)) * 2 - 1
    crop = min(CROP, x.shape[-1])
    room_y, room_x = x.shape[-2] - crop, x.shape[-1] - crop
    out = []
    for i in range(batch):
        u, v = torch.rand(2, generator=g).tolist()
        if i % 2:
            v = 0.35 + 0.3 * v
        y, z = int(u * room_y + 0.5), int(v * room_x + 0.5)
        c = x[i, :, y : y + crop, z : z + crop]
        out.append(c.flip(-1) if torch.rand(1, generator=g).item() < 0.5 else c)
    return torch.stack(out)


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction(y, x):
    """Absolute differences of the pictures and of their edges, at three scales."""
    loss = 0.0
    for scale in range(3):
        loss = loss + F.l1_loss(y, x) + 0.5 * sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x)))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return loss + 0.5 * F.mse_loss(y, x)


def main():
    p = arguments(__doc__, steps=3000, batch=16, lr=1.5e-3, ema=0.998)
    p.add_argument("--kl", type=float, default=2e-5, help="weight of the latents' divergence from a normal distribution")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    clips = Clips(args.data)
    vae = autoencoder(args.size).to(args.device)
    trainer = Trainer(args, nn.ModuleDict(dict(vae=vae)), "vae")

    def loss_of(g):
        x = crops(clips, args.batch, g).to(args.device).contiguous(memory_format=torch.channels_last)
        moments = vae.encode(x).latent_dist
        # The diffusion model errs a little: a decoder that has seen noise forgives it.
        noise = torch.randn(moments.mean.shape, generator=g).to(args.device)
        y = vae.decode(moments.mean + moments.std * noise).sample
        kl = moments.kl().mean() / moments.mean[0].numel()
        error = reconstruction(y, x)
        return error + args.kl * moments.mean[0].numel() * kl, dict(psnr=psnr(y.detach() / 2 + 0.5, x / 2 + 0.5).mean().item(), kl=kl.item())

    def sheet(step):
        g = torch.Generator().manual_seed(99)
        which = torch.randint(len(clips), (8,), generator=g).tolist()
        x = pixels(clips.take("frames", which, [0] * 8)).to(args.device)
        z = vae.encode(x * 2 - 1).latent_dist.mode()
        y = vae.decode(z).sample / 2 + 0.5
        print(f"vae: whole frames, averaged weights: {psnr(y, x).mean():.2f} dB; latents {z.mean():.3f} ± {z.std():.3f}", flush=True)
        save_sheet(args.out / f"vae_{step:06d}.png", [list(x), list(y)])

    vae.to(memory_format=torch.channels_last)
    trainer.run(loss_of, sheet)


if __name__ == "__main__":
    main()
