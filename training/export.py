"""Writes the trained networks as a directory in the published layout: config.json and f16 safetensors for each.

OUT/{vae, denoising_unet, reference_unet, guidance_encoder_NAME …, image_encoder, controlnet, scheduler}
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from common import Clips, averaged
from latents import Latents
from networks import MOTION, SCENE, SIZES, Animator, control_net, dead
from sampling import load

LIMIT = 9_000_000
SCHEDULER = dict(
    _class_name="DDIMScheduler", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="linear",
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
    set_alpha_to_one=True, steps_offset=1,
)


def published(tensors):
    """A state dict as f16, contiguous; a number that f16 cannot hold is an error."""
    out = {}
    for name, t in tensors.items():
        if not t.is_floating_point():
            continue
        half = t.detach().cpu().to(torch.float16).contiguous()
        if not torch.isfinite(half).all():
            raise SystemExit(f"{name}: not finite in f16")
        out[name] = half
    return out


def write(folder, config, tensors, file="diffusion_pytorch_model.safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if tensors is not None:
        save_file(published(tensors), folder / file, metadata={"format": "pt"})


def unet3d_config(size):
    unet = {k: v for k, v in SIZES[size]["unet"].items() if not k.endswith("block_types")}
    return dict(
        _class_name="UNet3DConditionModel",
        **unet,
        down_block_types=[k.replace("2D", "3D") for k in SIZES[size]["unet"]["down_block_types"]],
        up_block_types=[k.replace("2D", "3D") for k in SIZES[size]["unet"]["up_block_types"]],
        mid_block_type="UNetMidBlock3DCrossAttn",
        act_fn="silu",
        norm_eps=1e-5,
        use_inflated_groupnorm=True,
        unet_use_cross_frame_attention=False,
        unet_use_temporal_attention=False,
        **MOTION,
    )


def unet3d_tensors(model):
    tensors = dict(model.unet.state_dict())
    for path, modules in model.motion.items():
        for i, module in enumerate(modules):
            prefix = f"{path.replace('/', '.')}.motion_modules.{i}."
            tensors |= {prefix + k: v for k, v in module.state_dict().items()}
    return tensors


def reference_tensors(model, size):
    """Without the last norm and convolution, as published; what has no effect is zero, which costs nothing compressed."""
    unet = SIZES[size]["unet"]
    kept = {k: v for k, v in model.reference.state_dict().items() if not k.startswith(("conv_norm_out", "conv_out"))}
    return {k: torch.zeros_like(v) if dead(k, unet) else v for k, v in kept.items()}


def image_encoder_tensors(model):
    """Under the names of published files, whichever version of transformers is installed."""
    names = {}
    for k, v in model.image_encoder.state_dict().items():
        if not k.startswith(("vision_model.", "visual_projection.")):
            k = "vision_model." + k
        if "position_ids" not in k:
            names[k] = v
    return names


def export(args):
    latents = Latents(args, Clips(args.train))
    model, stage = load(args)
    size = SIZES[args.size]
    # Beside the place where it goes, so that the renaming stays on one disk.
    args.model.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{args.model.name}.", dir=args.model.parent))
    vae = dict(_class_name="AutoencoderKL", act_fn="silu", **size["vae"], scaling_factor=latents.scale)
    write(hidden / "vae", vae, latents.vae.state_dict())
    write(hidden / "denoising_unet", unet3d_config(args.size), unet3d_tensors(model))
    reference = dict(_class_name="UNet2DConditionModel", act_fn="silu", **size["unet"])
    write(hidden / "reference_unet", reference, reference_tensors(model, args.size))
    for name, guider in model.guiders.items():
        config = size["scene_guider" if name == SCENE else "guider"]
        write(hidden / f"guidance_encoder_{name}", dict(_class_name="GuidanceEncoder", **config), guider.state_dict())
    encoder = dict(architectures=["CLIPVisionModelWithProjection"], model_type="clip_vision_model", num_channels=3, layer_norm_eps=1e-5, **size["image_encoder"])
    write(hidden / "image_encoder", encoder, image_encoder_tensors(model), "model.safetensors")
    if (args.out / "controlnet.pt").exists():
        weights, _ = averaged(args.out, "controlnet")
        net = control_net(args.size)
        net.load_state_dict({k.removeprefix("controlnet."): v for k, v in weights.items()})
        write(hidden / "controlnet", dict(_class_name="ControlNetModel", act_fn="silu", **size["controlnet"]), net.state_dict())
    write(hidden / "scheduler", SCHEDULER, None)
    (hidden / "scheduler" / "config.json").rename(hidden / "scheduler" / "scheduler_config.json")
    total = sum(f.stat().st_size for f in hidden.rglob("*") if f.is_file())
    for folder in sorted(hidden.iterdir()):
        print(f"{folder.name:28}{sum(f.stat().st_size for f in folder.iterdir()):>10,} bytes")
    print(f"{'in all, ' + stage:28}{total:>10,} bytes")
    if total > args.limit:
        shutil.rmtree(hidden)
        raise SystemExit(f"over the limit of {args.limit:,} bytes; nothing was written")
    hidden.chmod(0o755)
    card = args.model / "README.md"
    if card.exists():
        shutil.copy(card, hidden)
    if args.model.exists():
        old = args.model.with_name(f".{args.model.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(args.model, old)
        os.replace(hidden, args.model)
        shutil.rmtree(old)
    else:
        os.replace(hidden, args.model)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=Path, required=True, help="the training clips, for the scale of the latents")
    p.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    p.add_argument("--model", type=Path, required=True, help="directory to write")
    p.add_argument("--size", default="small")
    p.add_argument("--limit", type=int, default=LIMIT, help="most bytes")
    p.add_argument("--device", default="cpu")
    export(p.parse_args())


if __name__ == "__main__":
    main()
