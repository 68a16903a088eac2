"""What all training scripts share: data, noise schedule, averaged weights, checkpoints, pictures to look at."""

import argparse
import hashlib
import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

STEPS = 1000


def arguments(description, **defaults):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder that `muybridge synth --packed` wrote")
    p.add_argument("--out", type=Path, required=True, help="folder of checkpoints and contact sheets")
    p.add_argument("--begin", type=Path, help="folder of another run, to begin with its averaged weights as far as it has them")
    p.add_argument("--size", default="small", choices=["small", "tiny"], help="sizes in networks.py")
    p.add_argument("--steps", type=int, default=defaults.get("steps", 1000), help="steps in all, those before a resumption included")
    p.add_argument("--batch", type=int, default=defaults.get("batch", 8))
    p.add_argument("--lr", type=float, default=defaults.get("lr", 1e-3))
    p.add_argument("--warmup", type=int, default=defaults.get("warmup", 200))
    p.add_argument("--ema", type=float, default=defaults.get("ema", 0.999))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--f32", action="store_true", help="all numbers in f32; else activations of the diffusion model in bf16")
    p.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    p.add_argument("--sheet-every", type=int, default=500, help="steps between contact sheets")
    p.add_argument("--stop-after", type=int, default=0, help="stop, with a checkpoint, after so many steps of this run")
    return p


class Clips:
    """Packed clips, mapped into memory. Arrays by name; a clip is addressed by its number over all shards."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.shards = sorted(p for p in self.folder.glob("shard_*") if (p / "clips.jsonl").exists())
        if not self.shards:
            raise SystemExit(f"{folder}: no shards; make some with `muybridge synth {folder} --packed 64`")
        self.arrays, self.counts = {}, []
        for shard in self.shards:
            loaded = {f.stem: np.load(f, mmap_mode="r") for f in shard.glob("*.npy")}
            self.counts.append(len(loaded["reference"]))
            for name, array in loaded.items():
                self.arrays.setdefault(name, []).append(array)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.frames = self.arrays["frames"][0].shape[1]

    def __len__(self):
        return int(self.starts[-1])

    def get(self, name, clip, frame=None):
        if name not in self.arrays:
            raise SystemExit(f"{self.folder}: no {name}.npy; `muybridge synth --packed` writes it where --maps has it")
        shard = int(np.searchsorted(self.starts, clip, side="right")) - 1
        array = self.arrays[name][shard][clip - self.starts[shard]]
        return array if frame is None else array[frame]

    def take(self, name, clips, frames=None):
        """Bytes `[N,...]` of some clips' frames, or of clips where there are no frames to choose."""
        pairs = zip(clips, frames) if frames is not None else ((c, None) for c in clips)
        return torch.from_numpy(np.stack([self.get(name, c, f) for c, f in pairs]))

    def lines(self):
        return [json.loads(line) for shard in self.shards for line in (shard / "clips.jsonl").open()]


def pixels(bytes_hwc):
    """Bytes `[...,H,W,C]` (or `[...,H,W]`) to `[...,C,H,W]` in [0,1]."""
    x = bytes_hwc.float() / 255
    if x.shape[-1] not in (1, 3):
        return x.unsqueeze(-3).expand(*x.shape[:-2], 3, *x.shape[-2:])
    return x.movedim(-1, -3)


def clip_pixels(bytes_hwc):
    """References `[B,H,W,3]` as the pipelines hand them to the image encoder: Pillow's bicubic to 224, normalised."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    resized = [np.asarray(Image.fromarray(b.numpy()).resize((224, 224), Image.BICUBIC)) for b in bytes_hwc]
    return (pixels(torch.from_numpy(np.stack(resized))) - mean) / std


def alphas_cumprod():
    """The published schedule: linear betas, rescaled so that nothing of the picture is left at the last step."""
    betas = torch.linspace(0.00085, 0.012, STEPS, dtype=torch.float64)
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return (root**2).float()


def noised(x0, noise, t, table):
    """Noisy latents, the velocity to predict, and the weight of each item.

    Weights are min-SNR's (Hang et al., 2023) in the form for velocities that keeps the last step, where SNR is 0:
    min(SNR + 1, 5) / (SNR + 1).
    """
    a = table[t].view(-1, *[1] * (x0.dim() - 1))
    x = a.sqrt() * x0 + (1 - a).sqrt() * noise
    v = a.sqrt() * noise - (1 - a).sqrt() * x0
    snr = table[t] / (1 - table[t])
    return x, v, (snr + 1).clamp(max=5) / (snr + 1)


def ddim(predict, latents, table, steps):
    """DDIM without noise, trailing timesteps, final alpha 1. `predict(x, t)` gives velocities."""
    x = latents
    for i in range(steps):
        t = round(STEPS - i * STEPS / steps) - 1
        before = t - STEPS // steps
        a, b = table[t], table[before] if before >= 0 else torch.tensor(1.0)
        v = predict(x, t)
        x0 = a.sqrt() * x - (1 - a).sqrt() * v
        eps = a.sqrt() * v + (1 - a).sqrt() * x
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
    return x


class Trainer:
    """Steps, averages, checkpoints.

    Every random number of a step comes from a generator seeded by the run's seed and the step, so a run that was stopped and
    resumed takes the same path as one that was not.
    """

    def __init__(self, args, modules, name):
        self.args, self.modules, self.name = args, modules, name
        modules.to(memory_format=torch.channels_last)
        torch.set_num_threads(args.threads)
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        groups = [dict(params=[p for p in self.parameters if p.dim() > 1], weight_decay=0.01)]
        groups += [dict(params=[p for p in self.parameters if p.dim() <= 1], weight_decay=0.0)]
        if args.begin and not (args.out / f"{name}.pt").exists():
            # Only what this stage trains: the rest comes from the stages before it.
            learnt = {k for k, p in modules.named_parameters() if p.requires_grad}
            begun = {k: v for k, v in averaged(args.begin, name)[0].items() if k in learnt}
            modules.load_state_dict(begun, strict=False)
            print(f"{name}: begins as {args.begin} ended; new are {sorted(learnt - set(begun)) or 'no tensors'}", flush=True)
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99))
        self.average = {k: v.detach().clone().float() for k, v in modules.state_dict().items()}
        self.step, self.spent, self.stopped = 0, 0.0, False
        args.out.mkdir(parents=True, exist_ok=True)
        self.path = args.out / f"{name}.pt"
        if self.path.exists():
            self.load()
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.stop)

    def stop(self, *_):
        self.stopped = True

    def load(self):
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["seed"] != self.args.seed or state["size"] != self.args.size:
            raise SystemExit(f"{self.path}: of seed {state['seed']}, size {state['size']}; choose another --out")
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.spent = state["average"], state["step"], state["spent"]
        print(f"{self.name}: resumed at step {self.step}, {self.spent / 60:.1f} min in", flush=True)

    def save(self):
        state = dict(
            modules=self.modules.state_dict(), optimizer=self.optimizer.state_dict(), average=self.average,
            step=self.step, spent=self.spent, seed=self.args.seed, size=self.args.size,
        )
        hidden = self.path.with_suffix(".partial")
        torch.save(state, hidden)
        os.replace(hidden, self.path)

    def rate(self):
        """Warm-up, then a cosine to a twentieth."""
        a = self.args
        if self.step < a.warmup:
            return a.lr * (self.step + 1) / a.warmup
        u = (self.step - a.warmup) / max(1, a.steps - a.warmup)
        return a.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, u))))

    def generator(self, step):
        # The generator takes 32 bits of a seed: what is shifted beyond them is lost.
        return torch.Generator().manual_seed((self.args.seed * 1_000_003 + step) % 2**32)

    def run(self, loss_of, sheet=None):
        """`loss_of(generator) -> (loss, parts)` once a step; `sheet(step)` writes a picture to look at."""
        a, log = self.args, (self.args.out / f"{self.name}.log.jsonl").open("a")
        began = saved = time.monotonic()
        first, window = self.step, []
        while self.step < a.steps and not self.stopped:
            started = time.monotonic()
            with torch.autocast(torch.device(a.device).type, torch.bfloat16, enabled=self.name != "vae" and not a.f32):
                loss, parts = loss_of(self.generator(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            if torch.isfinite(norm):
                self.optimizer.step()
            self.step += 1
            self.blend()
            now = time.monotonic()
            self.spent += now - started
            window.append(float(loss.detach()))
            if self.step % 20 == 0 or self.step == a.steps or self.step == first + 1:
                row = dict(step=self.step, loss=sum(window) / len(window), lr=self.rate(), minutes=self.spent / 60, **parts)
                log.write(json.dumps(row) + "\n")
                log.flush()
                left = (a.steps - self.step) * (now - began) / (self.step - first) / 60
                shown = ", ".join(f"{k} {v:.4g}" for k, v in parts.items())
                print(f"{self.name} {self.step}/{a.steps}: loss {row['loss']:.4f}, {shown}; {left:.0f} min left", flush=True)
                window = []
            if sheet and (self.step % a.sheet_every == 0 or self.step == a.steps):
                self.look(sheet)
            if a.stop_after and self.step - first >= a.stop_after:
                break
            if now - saved > a.save_every:
                self.save()
                saved = now
        self.save()
        print(f"{self.name}: step {self.step} of {a.steps}, {self.spent / 60:.1f} min in all, {self.path}", flush=True)

    def blend(self):
        d = min(self.args.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for k, v in self.modules.state_dict().items():
                self.average[k].lerp_(v.float(), 1 - d) if v.is_floating_point() else self.average[k].copy_(v)

    def look(self, sheet):
        """Draws with the averaged weights."""
        own = {k: v.clone() for k, v in self.modules.state_dict().items()}
        self.modules.load_state_dict(self.average)
        with torch.no_grad():
            sheet(self.step)
        self.modules.load_state_dict(own)


def averaged(folder, name):
    """The averaged weights of a stage."""
    path = Path(folder) / f"{name}.pt"
    if not path.exists():
        raise SystemExit(f"{path}: train that stage first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state["average"], state


def digest(tensors):
    h = hashlib.sha256()
    for k in sorted(tensors):
        h.update(k.encode() + tensors[k].contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def save_sheet(path, rows, scale=1):
    """Rows of pictures `[3,H,W]` in [0,1] as one PNG."""
    rows = [torch.cat([c.clamp(0, 1) for c in row], 2) for row in rows]
    data = (torch.cat(rows, 1).movedim(0, -1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
    image = Image.fromarray(data)
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.NEAREST)
    image.save(path)


def psnr(a, b):
    """Decibel of pictures in [0,1] `[...,3,H,W]`, one a picture."""
    return -10 * torch.log10(((a.clamp(0, 1) - b) ** 2).mean((-3, -2, -1)).clamp(min=1e-10))


def ssim(a, b):
    """SSIM of pictures in [0,1] `[N,3,H,W]`, one a picture."""
    return similarity(a.clamp(0, 1).double(), b.double()).float()


def similarity(a, b):
    """SSIM (Wang et al., 2004) as it is, to train with: a Gaussian of 11x11, sigma 1.5, without the border; the mean over channels,
    one a picture."""
    g = torch.exp(-((torch.arange(11, dtype=a.dtype, device=a.device) - 5) ** 2) / (2 * 1.5**2))
    g = g / g.sum()

    def blur(x):
        rows = torch.nn.functional.conv2d(x.reshape(-1, 1, *x.shape[-2:]), g[None, None, :, None])
        return torch.nn.functional.conv2d(rows, g[None, None, None, :]).reshape(*x.shape[:2], x.shape[-2] - 10, -1)

    ma, mb = blur(a), blur(b)
    va, vb, c = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    value = ((2 * ma * mb + 1e-4) * (2 * c + 9e-4)) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    return value.mean((1, 2, 3))
