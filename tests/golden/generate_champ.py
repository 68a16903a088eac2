"""Writes champ_pipeline/: the whole pipeline of Champ's layout as the training framework runs it, from pictures to frames.

The networks are those of training/networks.py at their smallest size; all of their weights are procedural, so the case holds none.

    python generate_champ.py
"""

import json
import shutil
import sys
import zlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "training"))

from safetensors.torch import load_file  # noqa: E402

import sample  # noqa: E402
from export import SCHEDULER, image_encoder_tensors, reference_tensors, unet3d_config, unet3d_tensors  # noqa: E402
from networks import GUIDANCE, SCENE, SIZES, Animator, autoencoder  # noqa: E402
from sampling import Sampler  # noqa: E402

SIZE = "tiny"
SCALE = 0.7


def procedural(seed, count, amp):
    """The rule for tensors that are not stored."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64)
    return ((u * 2.0**-23 - 1).astype(np.float32) * np.float32(amp)).astype(np.float32)


def fill(component, tensors):
    """Overwrites a network's tensors by the rule, and gives the rule's numbers by their published names."""
    spec = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or name.endswith("pos_encoder.pe"):
            continue
        shape = list(tensor.shape)
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        amp = (3 / fan) ** 0.5 if fan else (1.0 if name.endswith("weight") else 0.2)
        seed = zlib.crc32(f"{component}/{name}".encode())
        spec[name] = dict(shape=shape, seed=str(seed), amp=amp)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(procedural(seed, tensor.numel(), amp)).reshape(shape))
    return spec


class Latents:
    """What the sampler wants to know of the VAE."""

    def __init__(self, vae):
        self.vae, self.scale = vae, SCALE

    def decode(self, z):
        return (self.vae.decode(z / self.scale).sample / 2 + 0.5).clamp(0, 1)


def picture(seed, *shape):
    """Smooth colours, so that a resize shows what it does."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.random((int(np.prod(shape[:-3])), 3, 5, 5)))
    wide = torch.nn.functional.interpolate(small, size=shape[-3:-1], mode="bicubic", align_corners=True)
    return (wide.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).reshape(shape)


def main():
    torch.manual_seed(0)
    model, vae = Animator(SIZE).eval().requires_grad_(False), autoencoder(SIZE).eval().requires_grad_(False)
    size = SIZES[SIZE]
    encoder = dict(architectures=["CLIPVisionModelWithProjection"], num_channels=3, layer_norm_eps=1e-5, **size["image_encoder"])
    parts = {
        "vae": (dict(_class_name="AutoencoderKL", act_fn="silu", **size["vae"], scaling_factor=SCALE), vae.state_dict()),
        "denoising_unet": (unet3d_config(SIZE), unet3d_tensors(model)),
        "image_encoder": (encoder, image_encoder_tensors(model)),
        "scheduler": (SCHEDULER, None),
    }
    # Tensors without effect are copies there, and stay what they are here.
    kept = {k: v for k, v in model.reference.state_dict().items() if k in reference_tensors(model, SIZE)}
    parts["reference_unet"] = (dict(_class_name="UNet2DConditionModel", act_fn="silu", **size["unet"]), kept)
    for name, guider in model.guiders.items():
        config = dict(_class_name="GuidanceEncoder", **size["scene_guider" if name == SCENE else "guider"])
        parts[f"guidance_encoder_{name}"] = (config, guider.state_dict())
    folder = HERE / "champ_pipeline"
    shutil.rmtree(folder, ignore_errors=True)
    for name, (config, tensors) in parts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config) + "\n")
        if tensors is not None:
            (folder / name / "weights_spec.json").write_text(json.dumps(fill(name, tensors)) + "\n")
    latents = Latents(vae)
    reference, frames = picture(1, 32, 16, 3), 3
    guidance = {name: picture(2 + i, frames, 32, 16, 3) for i, name in enumerate(GUIDANCE)}
    noise = torch.randn(frames, 4, 8, 4, generator=torch.Generator().manual_seed(4))
    args = Namespace(case=folder, model=".", frames=frames, steps=2, guidance=1.5)
    # Without a carried reference: `bundled_pipeline` has one.
    sample.pipeline_case(args, model, latents, Sampler(model, latents, "cpu"), reference, None, guidance, noise)
    file = folder / "case.json"
    record = json.loads(file.read_text())
    narrow(args, model, latents, reference, guidance, noise, record["calls"][0]["outputs"], load_file(folder / "expected.safetensors"))
    for name, part in record["components"].items():
        part |= dict(dir=name, config=f"{name}/config.json", weights={}, procedural=name != "scheduler")
    file.write_text(json.dumps(record, indent=1) + "\n")


def narrow(args, model, latents, reference, guidance, noise, outputs, expected):
    """Adds what the framework itself errs by in half precision."""
    every = reference.expand(args.frames, *reference.shape)
    for dtype in (torch.float16, torch.bfloat16):
        model.to(dtype)
        latents.vae.to(dtype)
        trace = {}
        z = Sampler(model, latents, "cpu").run(reference, every, guidance, noise.to(dtype), args.steps, args.guidance, trace=trace)
        after = [x for _, x, _ in trace["steps"][1:]] + [z]
        got = {f"latents.{i}": x.transpose(0, 1)[None] for i, x in enumerate(after)}
        got |= dict(clip_embeds=trace["clip_embeds"][:, 0], ref_latents=trace["ref_latents"], video=latents.decode(z).transpose(0, 1)[None])
        for name, value in got.items():
            exact = expected[outputs[name]["key"] + ".f64"]
            error = ((value.double() - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()).item()
            outputs[name].setdefault("torch_low", {})[str(dtype).removeprefix("torch.")] = dict(rel_rms=error)
    model.float()
    latents.vae.float()


if __name__ == "__main__":
    main()
