"""Latents of all frames and references, computed once a VAE and kept beside the checkpoints."""

import json
import os

import numpy as np
import torch
from numpy.lib.format import open_memmap

from common import averaged, digest, pixels
from networks import autoencoder


class Latents:
    """`frames` and `references` of every clip as the diffusion model sees them: means of the VAE, scaled to unit deviation."""

    def __init__(self, args, clips):
        weights, state = averaged(args.out, "vae")
        self.vae = autoencoder(args.size)
        self.vae.load_state_dict({k.removeprefix("vae."): v for k, v in weights.items()})
        self.vae.eval().requires_grad_(False).to(args.device)
        self.folder = args.out / f"latents_{digest(weights)}_{clips.folder.resolve().name}_{len(clips)}"
        self.shape = None
        if not (self.folder / "scale.json").exists():
            self.encode(clips, args.device)
        self.frames = np.load(self.folder / "frames.npy", mmap_mode="r")
        self.references = np.load(self.folder / "references.npy", mmap_mode="r")
        self.scale = json.loads((self.folder / "scale.json").read_text())["scaling_factor"]
        self.vae.register_to_config(scaling_factor=self.scale)

    @torch.no_grad()
    def encode(self, clips, device):
        """Goes on where it stopped: the number of finished clips is kept beside the arrays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / "done.json"
        done = json.loads(mark.read_text()) if mark.exists() else 0
        probe = self.vae.encode(pixels(clips.take("reference", [0])).to(device) * 2 - 1).latent_dist.mode()
        mode, n, shape = ("r+" if done else "w+"), len(clips), tuple(probe.shape[1:])
        frames = open_memmap(self.folder / "frames.npy", mode, np.float16, (n, clips.frames, *shape))
        references = open_memmap(self.folder / "references.npy", mode, np.float16, (n, *shape))
        for i in range(done, n):
            x = np.concatenate([clips.get("reference", i)[None], clips.get("frames", i)])
            z = self.vae.encode(pixels(torch.from_numpy(x)).to(device) * 2 - 1).latent_dist.mode().cpu().half().numpy()
            references[i], frames[i] = z[0], z[1:]
            if i % 50 == 49 or i == n - 1:
                frames.flush()
                references.flush()
                write(mark, i + 1)
                print(f"latents: {i + 1} of {n} clips", flush=True)
        sample = np.asarray(frames[:: max(1, n // 256)], dtype=np.float32)
        write(self.folder / "scale.json", dict(scaling_factor=round(float(1 / sample.std()), 5)))

    def of_frames(self, clips, frames):
        z = np.stack([self.frames[c, f] for c, f in zip(clips, frames)])
        return torch.from_numpy(z).float() * self.scale

    def of_references(self, clips):
        return torch.from_numpy(np.stack([self.references[c] for c in clips])).float() * self.scale

    def decode(self, z):
        """Pictures in [0,1]."""
        return (self.vae.decode(z / self.scale).sample / 2 + 0.5).clamp(0, 1)


def write(path, value):
    hidden = path.with_suffix(".partial")
    hidden.write_text(json.dumps(value))
    os.replace(hidden, path)
