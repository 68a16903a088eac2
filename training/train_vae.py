"""Trains the autoencoder on crops of single frames: 128x128 pictures to 32x32x4 latents and back."""

import torch
import torch.nn.functional as F
from torch import nn

from common import Clips, Trainer, arguments, pixels, psnr, save_sheet, similarity, ssim
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
        c = c.flip(-1) if torch.rand(1, generator=g).item() < 0.5 else c
        # Rooms are grey and brown: with red, green and blue exchanged no colour is so rare that latents could do without it.
        out.append(c[torch.randperm(3, generator=g)] if torch.rand(1, generator=g).item() < 0.5 else c)
    return torch.stack(out)


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def tint(x):
    return x - x.mean(1, keepdim=True)


def reconstruction(y, x, fine=1.0):
    """Squares of the differences of the pictures and of their tints at four scales, and, by `fine`, absolute differences of the
    pictures and of their edges at the two finest. Squares vanish where lightness is right already and leave the word to colours,
    which are rare; absolute differences alone never do."""
    loss = 0.0
    for scale in range(4):
        loss = loss + 10 * F.mse_loss(y, x) + 30 * F.mse_loss(tint(y), tint(x))
        if scale < 2 and fine > 0:
            loss = loss + fine * (F.l1_loss(y, x) + 0.5 * sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x))))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return loss


@torch.no_grad()
def pass_through(vae):
    """Begins as a network that hands its channels on: residual branches silent, resampling and shortcuts plain copies. Drawn at
    random they mix colours into lightness, and one of the two axes of colour is not found again."""
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            module.weight.zero_()
        elif name.endswith(("conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")) or name == "encoder.conv_in":
            repeated = nn.init.dirac_(torch.empty_like(module.weight))
            for out in range(module.weight.shape[1], module.weight.shape[0]):
                repeated[out] = repeated[out % module.weight.shape[1]] * (-1) ** (out // module.weight.shape[1])
            module.weight.mul_(0.1).add_(repeated)


def main():
    p = arguments(__doc__, steps=5000, batch=16, lr=6e-4, warmup=300, ema=0.997)
    p.add_argument("--kl", type=float, default=4e-6, help="weight of the latents' divergence from a normal distribution")
    p.add_argument("--kl-warmup", type=int, default=1000, help="steps until that weight is whole: channels that begin as noise stay it")
    p.add_argument("--structure", type=float, default=1.0, help="weight of 1 - SSIM: squares do not see texture of little contrast")
    p.add_argument("--coarse", type=int, default=250, help="steps without the absolute differences, which take as many again to count in full")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    clips = Clips(args.data)
    vae = autoencoder(args.size)
    pass_through(vae)
    vae.to(args.device)
    trainer = Trainer(args, nn.ModuleDict(dict(vae=vae)), "vae")

    def loss_of(g):
        x = crops(clips, args.batch, g).to(args.device).contiguous(memory_format=torch.channels_last)
        moments = vae.encode(x).latent_dist
        # The diffusion model errs a little: a decoder that has seen noise forgives it.
        noise = torch.randn(moments.mean.shape, generator=g).to(args.device)
        y = vae.decode(moments.mean + moments.std * noise).sample
        kl = moments.kl().mean() / moments.mean[0].numel()
        # Colours first: once all channels hold detail, they are slow to make room.
        fine = min(1, max(0, trainer.step / args.coarse - 1))
        error = reconstruction(y, x, fine)
        if fine > 0 and args.structure > 0:
            error = error + args.structure * fine * (1 - similarity(y / 2 + 0.5, x / 2 + 0.5).mean())
        weight = args.kl * min(1, trainer.step / args.kl_warmup) * moments.mean[0].numel()
        return error + weight * kl, dict(psnr=psnr(y.detach() / 2 + 0.5, x / 2 + 0.5).mean().item(), kl=kl.item())

    def sheet(step):
        g = torch.Generator().manual_seed(99)
        which = torch.randint(len(clips), (8,), generator=g).tolist()
        x = pixels(clips.take("frames", which, [0] * 8)).to(args.device)
        z = vae.encode(x * 2 - 1).latent_dist.mode()
        y = vae.decode(z).sample / 2 + 0.5
        print(f"vae: whole frames, averaged weights: {psnr(y, x).mean():.2f} dB, SSIM {ssim(y, x).mean():.4f}; latents {z.mean():.3f} ± {z.std((0, 2, 3)).tolist()}", flush=True)
        save_sheet(args.out / f"vae_{step:06d}.png", [list(x), list(y)])

    trainer.run(loss_of, sheet)


if __name__ == "__main__":
    main()
