"""What a step of each stage costs on this machine: numbers, work, seconds, and how many steps fit into a budget."""

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from batches import Seen
from networks import GUIDANCE, SIZES, Animator, autoencoder, control_net, denoise, weigh


def timed(f, parameters, repeats=3):
    def step():
        for p in parameters:
            p.grad = None
        f().backward()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - started)
    return counter.get_total_flops(), best


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--size", default="small")
    p.add_argument("--minutes", type=float, nargs=4, default=[25, 85, 30, 15], help="for VAE, stage 1, stage 2, ControlNet")
    p.add_argument("--batches", type=int, nargs=4, default=[16, 12, 16, 12], help="frames of a step")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    model, vae = Animator(args.size), autoencoder(args.size).to(memory_format=torch.channels_last)
    net = control_net(args.size)
    parts = weigh(dict(vae=vae, unet=model.unet, motion=model.motion, reference=model.reference, guiders=model.guiders,
                       image_encoder=model.image_encoder, controlnet=net))
    for name, n in parts.items():
        print(f"{name:16}{n:>10,}")
    print(f"{'in all':16}{sum(parts.values()):>10,} numbers, {2 * sum(parts.values()) / 1e6:.2f} MB in f16\n")
    assert args.size in SIZES
    v, s1, s2, cn = args.batches
    x = torch.randn(v, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def of_vae():
        return vae.decode(vae.encode(x).latent_dist.mode()).sample.pow(2).mean()

    def inputs(n, refs):
        picture = torch.randint(256, (n, 128, 128, 3), dtype=torch.uint8)
        seen = Seen(picture[:refs], picture, "cpu")
        return (torch.randn(n, 4, 32, 32), torch.full((n,), 500), torch.randn(refs, 4, 32, 32), seen,
                {g: torch.rand(n, 3, 128, 128) for g in GUIDANCE})

    def of_stage1():
        z, t, ref, seen, pictures = inputs(s1, max(1, s1 // 3))
        e = model.context(seen.clip)
        each = e.repeat_interleave(s1 // len(ref), 0)
        return denoise(model.unet, z, t, each, model.pose(pictures, seen.carried), model.bank(ref, e)).pow(2).mean()

    def of_stage2():
        z, t, ref, seen, pictures = inputs(s2, 1)
        with torch.no_grad():
            e = model.context(seen.clip)
            bank, pose = model.bank(ref, e), model.pose(pictures, seen.carried)
        return denoise(model.unet, z, t, e.expand(s2, -1, -1), pose, bank, 0, model.motion, s2).pow(2).mean()

    def of_control():
        z, t, ref, seen, pictures = inputs(cn, max(1, cn // 3))
        with torch.no_grad():
            e = model.context(seen.clip)
            bank = model.bank(ref, e)
        each = e.repeat_interleave(cn // len(ref), 0)
        down, mid = net(z, t, each, pictures[GUIDANCE[0]], return_dict=False)
        return denoise(model.unet, z, t, each, bank=bank, residuals=(down, mid)).pow(2).mean()

    motion = list(model.motion.parameters())
    print(f"{'':12}{'GFLOP':>9}{'s':>8}{'GFLOP/s':>9}{'frames/s':>10}{'minutes':>9}{'steps':>8}")
    for name, f, frames, minutes, learn in [
        ("VAE", of_vae, v, args.minutes[0], list(vae.parameters())),
        ("stage 1", of_stage1, s1, args.minutes[1], list(model.parameters())),
        ("stage 2", of_stage2, s2, args.minutes[2], motion),
        ("ControlNet", of_control, cn, args.minutes[3], list(net.parameters())),
    ]:
        for p in [*model.parameters(), *vae.parameters(), *net.parameters()]:
            p.requires_grad_(False)
        for p in learn:
            p.requires_grad_(True)
        flop, seconds = timed(f, learn)
        print(f"{name:12}{flop / 1e9:9.1f}{seconds:8.3f}{flop / seconds / 1e9:9.0f}{frames / seconds:10.1f}{minutes:9.0f}{minutes * 60 / seconds:8.0f}")


if __name__ == "__main__":
    main()
