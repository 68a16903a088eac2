"""Records further runs of diffusers' pipelines over the networks of `pipeline_sd` and `pipeline_xl`: `pipeline_more`.

    python generate_pipelines_more.py            (after generate_pipelines.py; the same packages)

`sd2` reads the weights of `pipeline_sd` under a configuration of Stable Diffusion 2: linear projections, a number of heads for
each level, v-prediction, a text tower with GELU. The others are XL from a picture, within a picture, and with a ControlNet
whose trunk is that of the UNet (as `from_unet` begins one): only what it adds is stored.
"""

import json
import os
import shutil

import diffusers
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

import generate_pipelines as g
from generate import OUT

SD2 = {
    "unet/config.json": dict(use_linear_projection=True, attention_head_dim=[2, 4]),
    "text_encoder/config.json": dict(hidden_act="gelu"),
    "scheduler/scheduler_config.json": dict(prediction_type="v_prediction"),
}


def sd2(r):
    folder = os.path.join(OUT, "pipeline_sd")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    unet = UNet2DConditionModel.from_config(dict(pipe.unet.config) | SD2["unet/config.json"])
    state = pipe.unet.state_dict()
    unet.load_state_dict({k: v.reshape(unet.state_dict()[k].shape) for k, v in state.items()})
    text = type(pipe.text_encoder)(type(pipe.text_encoder.config)(**pipe.text_encoder.config.to_dict() | SD2["text_encoder/config.json"]))
    text.load_state_dict(pipe.text_encoder.state_dict())
    text.eval().__dict__["text_model"] = text
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler", **SD2["scheduler/scheduler_config.json"])
    parts = dict(vae=pipe.vae, text_encoder=text, tokenizer=g.tokenizer("<|endoftext|>")[0], unet=unet.eval(), scheduler=scheduler)
    pipe = diffusers.StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    ask = dict(prompt=g.PROMPT, negative_prompt=g.NEGATIVE, width=24, height=32, num_inference_steps=4, guidance_scale=5.0, seed=21)
    r.run("sd2", pipe, None, ask)
    r.runs[-1] |= dict(base="pipeline_sd", configs=SD2, scheduler="DDIMScheduler")


def xl(r, folder):
    base = os.path.join(OUT, "pipeline_xl")
    g.SCHEDULERS[0] = base
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=torch.float32, add_watermarker=False)
    for tower in (pipe.text_encoder, pipe.text_encoder_2):
        tower.eval()
    parts = dict(
        vae=pipe.vae, text_encoder=pipe.text_encoder, text_encoder_2=pipe.text_encoder_2, unet=pipe.unet, scheduler=pipe.scheduler,
        tokenizer=g.tokenizer("<|endoftext|>")[0], tokenizer_2=g.tokenizer("!")[0],
    )
    own = dict(force_zeros_for_empty_prompt=True, add_watermarker=False)
    whole = r.picture("whole", g.picture(31, 39, 30))
    hole = r.picture("hole", g.picture(32, 33, 26, "L"))
    follow = r.picture("control_0", g.picture(33, 24, 32))
    words = dict(prompt=g.PROMPT, negative_prompt=g.NEGATIVE, guidance_scale=4.0)
    image = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, **own)
    ask = words | dict(num_inference_steps=5, strength=0.6, seed=22, start="picture")
    r.run("xl_picture", image, None, ask, image=whole)
    size = dict(width=24, height=32)
    paint = diffusers.StableDiffusionXLInpaintPipeline(**parts, **own)
    ask = words | size | dict(num_inference_steps=5, strength=0.75, seed=23, start="inpaint")
    r.run("xl_inpaint", paint, "DDIMScheduler", ask, image=whole, mask_image=hole)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 8, 16))
    trunk = set(pipe.unet.state_dict())
    added = {k: v for k, v in net.state_dict().items() if k not in trunk}
    noise = torch.Generator().manual_seed(24)
    with torch.no_grad():
        for name, p in added.items():
            fan = p[0].numel() if p.ndim > 1 else 20
            p.copy_((torch.randn(p.shape, generator=noise) * (0.6 / fan**0.5)).half().float())
    save_file({k: v.half().contiguous() for k, v in added.items()}, os.path.join(folder, "controlnet_xl.safetensors"))
    net.save_config(os.path.join(folder, "controlnet_xl"))
    two = diffusers.StableDiffusionXLControlNetPipeline(**parts, controlnet=net.eval(), **own)
    control = dict(net="controlnet_xl", picture="control_0", scale=0.8, range=[0.0, 1.0])
    ask = words | size | dict(num_inference_steps=4, seed=25, controls=[control])
    r.run("xl_control", two, "EulerDiscreteScheduler", ask, image=follow, controlnet_conditioning_scale=0.8)
    for run in r.runs[-3:]:
        run["base"] = "pipeline_xl"


if __name__ == "__main__":
    folder = os.path.join(OUT, "pipeline_more")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    record = g.Record(folder)
    sd2(record)
    xl(record, folder)
    record.write()
