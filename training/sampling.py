"""Sampling with the training framework: what the engine must reproduce."""

import torch

from carry import carry
from common import Clips, alphas_cumprod, averaged, clip_pixels, ddim, pixels
from networks import GUIDANCE, Animator, denoise


def load(args, stages=("stage2", "stage1")):
    """The animator with the averaged weights of the last stage that was trained."""
    model = Animator(args.size)
    for stage in stages:
        if (args.out / f"{stage}.pt").exists():
            weights, state = averaged(args.out, stage)
            missing = model.load_state_dict({k.removeprefix("animator."): v for k, v in weights.items()}, strict=False)
            if missing.unexpected_keys:
                raise SystemExit(f"{stage}: unexpected {missing.unexpected_keys[:3]}")
            print(f"{stage}: step {state['step']}", flush=True)
            return model.eval().requires_grad_(False).to(args.device), stage
    raise SystemExit(f"{args.out}: neither stage1.pt nor stage2.pt")


class Sampler:
    """Clips from references, guidance and noise."""

    def __init__(self, model, latents, device):
        self.model, self.latents, self.device = model, latents, device
        self.table = alphas_cumprod()

    @torch.no_grad()
    def run(self, reference, scene, guidance, noise, steps=4, scale=1.0, features=True, motion=True, trace=None):
        """`reference [H,W,3]` bytes and, carried along, `scene [F,H,W,3]`; `guidance` name to bytes `[F,H,W,3]`; `noise [F,4,h,w]`
        to latents `[F,4,h,w]`.

        Without `features` the reference network is not read; without `motion` frames do not see each other. `trace` takes
        everything on the way.
        """
        m, frames = self.model, len(noise)
        to = dict(device=self.device, dtype=noise.dtype)
        e = m.context(clip_pixels(reference[None]).to(**to))
        z = self.latents.vae.encode(pixels(reference[None]).to(**to) * 2 - 1).latent_dist.mode() * self.latents.scale
        bank = m.bank(z, e) if features else None
        pose = m.pose({k: pixels(guidance[k]).to(**to) for k in GUIDANCE}, pixels(scene).to(**to))
        modules = m.motion if motion else None
        if trace is not None:
            trace.update(clip_embeds=e, ref_latents=z, pose_features=pose, steps=[])

        def predict(x, t):
            t = torch.tensor([t], device=self.device)
            cond = denoise(m.unet, x, t, e.expand(frames, -1, -1), pose, bank, 0, modules, frames)
            if scale != 1.0:
                none = torch.zeros_like(e).expand(frames, -1, -1)
                free = denoise(m.unet, x, t, none, pose, None, 0, modules, frames)
                cond = free + scale * (cond - free)
            if trace is not None:
                trace["steps"].append((int(t), x, cond))
            return cond

        return ddim(predict, noise.to(self.device), self.table, steps)

    def clip(self, clips, i, steps=4, scale=1.0, seed=0, placed=True, **options):
        """Pictures `[F,3,H,W]` for a clip of a data set; the reference is carried along if `placed`."""
        frames = clips.frames
        noise = torch.randn(frames, *self.latents.references.shape[1:], generator=torch.Generator().manual_seed(seed + i))
        guidance = {k: torch.from_numpy(clips.get(k, i).copy()) for k in GUIDANCE}
        reference = torch.from_numpy(clips.get("reference", i).copy())
        scene = carried(clips, i) if placed else reference.expand(frames, *reference.shape)
        z = self.run(reference, scene, guidance, noise, steps, scale, **options)
        return self.latents.decode(z).cpu()


def carried(clips, i):
    """The reference of a clip carried along its frames, in bytes."""
    reference, place, places = (torch.from_numpy(clips.get(k, i).copy()) for k in ("reference", "reference_nocs", "nocs"))
    return carry(reference, place, places)


def truth(clips, i):
    """Reference, guidance and frames of a clip as pictures."""
    def get(name):
        return pixels(torch.from_numpy(clips.get(name, i).copy()))

    return get("reference"), {k: get(k) for k in GUIDANCE}, get("frames")


__all__ = ["Clips", "Sampler", "carried", "load", "truth"]
