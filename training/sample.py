"""Samples a held-out clip with the training framework and writes it as recorded cases that `muybridge run --check` reads.

OUT/bundled_denoise: one step with guidance (kind champ_denoise). OUT/bundled_pipeline: from pictures to frames, with the latents after every step
(kind champ_pipeline). Both run the exported f16 weights, computed in f32.
"""

import argparse
import json
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from common import Clips, pixels
from latents import Latents
from networks import GUIDANCE, SCENE, denoise
from sampling import Sampler, carried, load


def rounded(model, latents):
    """The weights as the export has them."""
    for module in (model, latents.vae):
        module.load_state_dict({k: v.half().to(v.dtype) if v.is_floating_point() else v for k, v in module.state_dict().items()})


def components(model):
    """Networks of the exported directory, for the cases that use them by a relative path."""
    classes = dict(reference_unet="ReferenceUNet2DConditionModel", denoising_unet="UNet3DConditionModel", vae="AutoencoderKL",
                   image_encoder="CLIPVisionModelWithProjection", scheduler="DDIMScheduler")
    classes |= {f"guidance_encoder_{g}": "GuidanceEncoder" for g in (*GUIDANCE, SCENE)}
    found = {}
    for name, cls in classes.items():
        file = "model.safetensors" if name == "image_encoder" else "diffusion_pytorch_model.safetensors"
        config = "scheduler_config.json" if name == "scheduler" else "config.json"
        base = f"{model}/{name}"
        found[name] = {"class": cls, "dir": base, "config": f"{base}/{config}", "weights": {} if name == "scheduler" else {"float16": f"{base}/{file}"}}
    return found


class Case:
    """A case in the making."""

    def __init__(self, folder, kind, note, model, call, op, args):
        self.folder, self.call = folder, call
        self.inputs, self.outputs = {}, {}
        libraries = dict(torch=torch.__version__, diffusers=diffusers.__version__, transformers=transformers.__version__, numpy=np.__version__)
        self.record = dict(format=1, name=folder.name, kind=kind, note=note, libraries=libraries, components=components(model))
        self.head = dict(name=call, op=op, args=args)

    def put(self, name, tensor):
        self.inputs[name] = tensor.contiguous()

    def expect(self, name, tensor, double):
        self.outputs[name] = (tensor.float().contiguous(), double.contiguous())

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        key = lambda name: f"{self.call}.{name}"  # noqa: E731
        inputs = {n: dict(key=key(n), shape=list(t.shape), dtype=str(t.dtype).removeprefix("torch.")) for n, t in self.inputs.items()}
        outputs, values = {}, {}
        for name, (single, double) in self.outputs.items():
            error = (single.double() - double).abs().max().item()
            absmax = double.abs().max().item()
            outputs[name] = dict(key=key(name), shape=list(single.shape), rms=double.pow(2).mean().sqrt().item(), absmax=absmax,
                                 f32_vs_f64_max=error, atol_f32=max(20 * error, 2e-4 * absmax))
            values |= {key(name): single, key(name) + ".f64": double}
        self.record["calls"] = [self.head | dict(inputs=inputs, outputs=outputs)]
        save_file({key(n): t for n, t in self.inputs.items()}, self.folder / "inputs.safetensors")
        save_file(values, self.folder / "expected.safetensors")
        (self.folder / "case.json").write_text(json.dumps(self.record, indent=1) + "\n")
        print(f"{self.folder}: {', '.join(self.outputs)}")


def both(sampler, model, latents, f):
    """A function in f32 and in f64."""
    single = f(torch.float32)
    for m in (model, latents.vae):
        m.double()
    double = f(torch.float64)
    for m in (model, latents.vae):
        m.float()
    return single, double


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="held-out clips")
    p.add_argument("--train", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    p.add_argument("--cases", type=Path, required=True, help="folder to write the cases to")
    p.add_argument("--model", default="../../../models/weights", help="the exported directory, as seen from a case")
    p.add_argument("--clip", type=int, default=0)
    p.add_argument("--frames", type=int, default=2)
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--guidance", type=float, default=1.5)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--size", default="small")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    clips = Clips(args.data)
    latents = Latents(args, Clips(args.train))
    model, _ = load(args)
    rounded(model, latents)
    sampler = Sampler(model, latents, args.device)
    reference = torch.from_numpy(clips.get("reference", args.clip).copy())
    guidance = {k: torch.from_numpy(clips.get(k, args.clip)[: args.frames].copy()) for k in GUIDANCE}
    noise = torch.randn(args.frames, *latents.references.shape[1:], generator=torch.Generator().manual_seed(args.seed))
    scene = carried(clips, args.clip)[: args.frames]
    denoise_case(args, model, latents, sampler, reference, scene, guidance, noise)
    args.case = args.cases / "bundled_pipeline"
    pipeline_case(args, model, latents, sampler, reference, scene, guidance, noise)


@torch.no_grad()
def denoise_case(args, model, latents, sampler, reference, scene, guidance, noise):
    trace = {}
    sampler.run(reference, scene, guidance, noise, 1, trace=trace)
    frames, t = args.frames, 701
    clip_embeds, ref_latents = trace["clip_embeds"], trace["ref_latents"]
    pictures = {k: pixels(v) for k, v in guidance.items()}
    seen = pixels(scene)

    def step(dtype):
        e = clip_embeds.to(dtype)
        bank = model.bank(ref_latents.to(dtype), e)
        pose = model.pose({k: v.to(dtype) for k, v in pictures.items()}, seen.to(dtype))
        x, when = noise.to(dtype), torch.tensor([t])
        cond = denoise(model.unet, x, when, e.expand(frames, -1, -1), pose, bank, 0, model.motion, frames)
        free = denoise(model.unet, x, when, torch.zeros_like(e).expand(frames, -1, -1), pose, None, 0, model.motion, frames)
        return pose, torch.stack([free, cond]), (free + args.guidance * (cond - free))[None]

    single, double = both(sampler, model, latents, step)
    call = dict(timestep=t, guidance_scale=args.guidance, guidance_types=[*GUIDANCE, SCENE])
    case = Case(args.cases / "bundled_denoise", "champ_denoise", "one step of the bundled model", args.model, "cfg", "denoise", call)
    case.put("ref_latents", ref_latents)
    case.put("clip_embeds", clip_embeds)
    case.put("latents", noise.transpose(0, 1)[None])
    for name, picture in (pictures | {SCENE: seen}).items():
        case.put(f"guidance.{name}", picture.transpose(0, 1)[None])
    # Frames stand before height and width, behind channels.
    case.expect("pose_features", single[0].transpose(0, 1)[None], double[0].transpose(0, 1)[None])
    case.expect("pred", single[1].transpose(1, 2), double[1].transpose(1, 2))
    case.expect("guided", single[2].transpose(1, 2), double[2].transpose(1, 2))
    case.write()


@torch.no_grad()
def pipeline_case(args, model, latents, sampler, reference, scene, guidance, noise):
    """`scene` as in `Sampler.run`, or nothing: then the reference as it is for every frame, which the engine does without being told."""
    every = reference.expand(args.frames, *reference.shape) if scene is None else scene
    def run(dtype):
        table, sampler.table = sampler.table, sampler.table.to(dtype)
        trace = {}
        z = sampler.run(reference, every, guidance, noise.to(dtype), args.steps, args.guidance, trace=trace)
        sampler.table = table
        after = [x for _, x, _ in trace["steps"][1:]] + [z]
        return trace, [a.transpose(0, 1)[None] for a in after], latents.decode(z).transpose(0, 1)[None]

    (trace, after, video), (trace64, after64, video64) = both(sampler, model, latents, run)
    height, width = reference.shape[:2]
    call = dict(width=width, height=height, video_length=args.frames, num_inference_steps=args.steps, guidance_scale=args.guidance,
                guidance_types=list(GUIDANCE), context_frames=24, context_overlap=4)
    case = Case(args.case, "champ_pipeline", "the model from pictures to frames", args.model, "run", "pipeline", call)
    case.put("ref_image", reference)
    for name, picture in (guidance | ({} if scene is None else {SCENE: scene})).items():
        case.put(f"guidance.{name}", picture)
    case.put("latents", noise.transpose(0, 1)[None])
    case.expect("clip_embeds", trace["clip_embeds"][:, 0], trace64["clip_embeds"][:, 0])
    case.expect("ref_latents", trace["ref_latents"], trace64["ref_latents"])
    for i, (a, b) in enumerate(zip(after, after64)):
        case.expect(f"latents.{i}", a, b)
    case.expect("video", video, video64)
    case.write()


if __name__ == "__main__":
    main()
