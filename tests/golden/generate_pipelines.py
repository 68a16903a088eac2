"""Records whole runs of diffusers' pipelines over small random networks: `pipeline_sd`, `pipeline_xl`, `pipeline_motion`.

    python generate_pipelines.py [folder]        (torch, diffusers, transformers, Pillow, safetensors; a minute on a CPU)

Each folder is a pipeline's directory in the layout of diffusers, with `controlnet*` and `unet_inpaint` beside its components,
and `runs.json`: what was asked, and the keys of `expected.safetensors` for the latents after every step and the picture.
The vocabulary is that of `tokenizer_clip`. Noise comes from seeded generators, so that its order is part of the record.
"""

import json
import os
import shutil
import sys

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from generate import OUT, redraw

SEEDS = iter(range(900, 1000))


def made(model):
    """Numbers that f16 holds, so that the files are small and say exactly what was run."""
    redraw(model, next(SEEDS))
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Predictions of order one: with strong guidance the samples stay in the range that decoders know.
            scale = 0.4 if name.startswith(("conv_out", "controlnet_")) and "weight" in name else 1.0
            p.copy_((p * scale).half().float())
    return model


def tokenizer(pad):
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer_clip")
    vocab = json.load(open(os.path.join(folder, "vocab.json"), encoding="utf-8"))
    merges = [tuple(l.split()) for l in open(os.path.join(folder, "merges.txt"), encoding="utf-8").read().split("\n")[1:] if l]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=12, pad_token=pad), len(vocab)


def text(vocabulary, projected, width):
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=width,
        eos_token_id=2,
        hidden_act="gelu" if projected else "quick_gelu",
    )
    return made((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


UNET = dict(
    sample_size=8,
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
)
UP = dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))


def vae():
    return made(
        AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=32,
        )
    )


def picture(seed, height, width, mode="RGB"):
    """Smooth enough that resizing it keeps its contrast."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3) if mode == "RGB" else (5, 5), dtype=np.uint8)
    return Image.fromarray(small, mode).resize((width, height), Image.BICUBIC)


# The folder whose scheduler is read.
SCHEDULERS = [None]


def save(folder, pipe):
    SCHEDULERS[0] = folder
    shutil.rmtree(folder, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(folder)
    pipe.to(torch.float32)
    # The same vocabulary as elsewhere, in the two files that published checkpoints have.
    for sub in ("tokenizer", "tokenizer_2"):
        path = os.path.join(folder, sub)
        if not os.path.isdir(path):
            continue
        pad = getattr(pipe, sub).pad_token
        shutil.rmtree(path)
        os.makedirs(path)
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer_clip")
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(os.path.join(source, name), path)
        with open(os.path.join(path, "special_tokens_map.json"), "w") as f:
            json.dump({"pad_token": pad}, f)
        with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
            json.dump({"model_max_length": 12}, f)


class Lora:
    """Low-rank additions under the names of a style; diffusers needs peft to read them, so they are merged here."""

    def __init__(self, seed):
        self.g, self.tensors, self.deltas = torch.Generator().manual_seed(seed), {}, []

    def add(self, module, weight, rank, names, alpha=None):
        down_name, up_name, alpha_name = (f"{module}{n}" for n in names)
        rows, columns = weight.shape[0], weight[0].numel()
        down = (torch.randn(rank, columns, generator=self.g) * columns**-0.5).half()
        up = (torch.randn(rows, rank, generator=self.g) * rank**-0.5).half()
        self.tensors[down_name] = down.reshape(rank, *weight.shape[1:]).contiguous()
        self.tensors[up_name] = up.reshape(rows, rank, *[1] * (weight.ndim - 2)).contiguous()
        if alpha is not None:
            self.tensors[alpha_name] = torch.tensor(float(alpha))
        self.deltas.append((weight, (alpha or rank) / rank * (up.double() @ down.double()).reshape(weight.shape)))

    def merge(self, scale):
        with torch.no_grad():
            for weight, delta in self.deltas:
                weight.copy_((weight.double() + scale * delta).half().float())


KOHYA = (".lora_down.weight", ".lora_up.weight", ".alpha")
PEFT = (".lora_A.weight", ".lora_B.weight", ".alpha")
PROCESSOR = ("_lora.down.weight", "_lora.up.weight", ".alpha")


class Record:
    def __init__(self, folder):
        self.folder, self.runs, self.tensors, self.pictures = folder, [], {}, {}

    def picture(self, name, image):
        self.tensors[f"picture.{name}"] = torch.from_numpy(np.array(image)).contiguous()
        return image

    def run(self, name, pipe, scheduler, ask, **more):
        """`ask` is what the record says; `more` is what only diffusers needs to be told."""
        if scheduler:
            # From the file: a configuration in memory would leave out what was never said.
            pipe.scheduler = getattr(diffusers, scheduler).from_pretrained(SCHEDULERS[0], subfolder="scheduler")
        seen = []

        def look(pipe, i, t, tensors):
            seen.append(tensors["latents"].clone())
            return {}

        known = {k: v for k, v in ask.items() if k not in ("seed", "controls", "start", "scheduler", "unet", "loras")}
        pipe.set_progress_bar_config(disable=True)
        result = pipe(
            **known,
            **more,
            generator=torch.Generator("cpu").manual_seed(ask["seed"]),
            callback_on_step_end=look,
            output_type="np",
        )
        images = result.images[0] if hasattr(result, "images") else result.frames[0]
        image = (images * 255).round().astype(np.uint8)
        self.tensors[f"{name}.latents"] = torch.stack(seen).contiguous()
        self.tensors[f"{name}.picture"] = torch.from_numpy(image).contiguous()
        self.runs.append({"name": name, "scheduler": scheduler, **ask})
        print(self.folder, name, len(seen), f"{seen[-1].abs().max().item():.2f}", image.std().round(1))

    def write(self):
        with open(os.path.join(self.folder, "runs.json"), "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(r) for r in self.runs) + "\n]\n")
        save_file(self.tensors, os.path.join(self.folder, "expected.safetensors"))


PROMPT = "a photo of a cat riding a horse"
NEGATIVE = "rain, don't stop!"


def sd():
    folder = os.path.join(OUT, "pipeline_sd")
    tokens, vocabulary = tokenizer("<|endoftext|>")
    unet = made(UNet2DConditionModel(**UNET, **UP, cross_attention_dim=24))
    painting = made(UNet2DConditionModel(**UNET, **UP, cross_attention_dim=24, in_channels=9))
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    # As in the published file: what another scheduler reads from it.
    scheduler.register_to_config(clip_sample=False)
    parts = dict(
        vae=vae(),
        text_encoder=text(vocabulary, False, 24),
        tokenizer=tokens,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
    )
    pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    save(folder, pipe)
    painting.half().save_pretrained(os.path.join(folder, "unet_inpaint"))
    painting.float()
    # Halved twice, as the pictures of this small autoencoder are.
    nets = [
        made(
            ControlNetModel(
                **{k: v for k, v in UNET.items() if k != "sample_size"},
                cross_attention_dim=24,
                conditioning_embedding_out_channels=(8, 8, 16),
            )
        )
        for _ in range(2)
    ]
    for i, net in enumerate(nets):
        net.half().save_pretrained(os.path.join(folder, f"controlnet_{i}"))
        net.float()
    # diffusers looks for the name that transformers gave the tower before version 5.
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    r = Record(folder)
    whole = r.picture("whole", picture(1, 39, 30))
    hole = r.picture("hole", picture(2, 33, 26, "L"))
    control = [r.picture("control_0", picture(3, 24, 32)), r.picture("control_1", picture(4, 40, 50))]
    both = dict(prompt=PROMPT, negative_prompt=NEGATIVE)
    size = dict(width=24, height=32)

    r.run("pndm", pipe, None, both | size | dict(num_inference_steps=5, guidance_scale=7.5, seed=3))
    r.run("plain_words", pipe, "EulerAncestralDiscreteScheduler", dict(prompt=PROMPT, num_inference_steps=4, guidance_scale=1.0, clip_skip=1, seed=4))
    rescaled = dict(num_inference_steps=4, guidance_scale=5.0, guidance_rescale=0.7, eta=0.3, clip_skip=2, seed=5)
    r.run("ddim", pipe, "DDIMScheduler", dict(prompt=PROMPT) | size | rescaled)

    image = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    ask = both | dict(num_inference_steps=6, guidance_scale=4.0, strength=0.6, seed=6, start="picture")
    for scheduler in ("DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "LCMScheduler"):
        r.run(f"picture_{scheduler.lower()[:4]}", image, scheduler, ask, image=whole)

    paint = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    ask = both | size | dict(num_inference_steps=5, guidance_scale=4.0, seed=7, start="inpaint")
    given = dict(image=whole, mask_image=hole)
    r.run("inpaint_blend", paint, "EulerDiscreteScheduler", ask | dict(strength=1.0), **given)
    r.run("inpaint_blend_part", paint, "DDIMScheduler", ask | dict(strength=0.75), **given)
    paint = diffusers.StableDiffusionInpaintPipeline(**parts | dict(unet=painting), requires_safety_checker=False)
    ask |= dict(unet="unet_inpaint")
    r.run("inpaint_network", paint, "EulerDiscreteScheduler", ask | dict(strength=1.0), **given)
    r.run("inpaint_network_part", paint, "UniPCMultistepScheduler", ask | dict(strength=0.75), **given)

    named = lambda i, scale, a, b: dict(net=f"controlnet_{i}", picture=f"control_{i}", scale=scale, range=[a, b])
    two = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=nets, requires_safety_checker=False)
    ask = both | size | dict(num_inference_steps=5, guidance_scale=6.0, seed=8)
    controls = [named(0, 0.8, 0.0, 0.6), named(1, 1.1, 0.2, 0.8)]
    given = dict(
        image=control,
        controlnet_conditioning_scale=[0.8, 1.1],
        control_guidance_start=[0.0, 0.2],
        control_guidance_end=[0.6, 0.8],
    )
    r.run("controls", two, "UniPCMultistepScheduler", ask | dict(controls=controls), **given)
    one = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=nets[1], requires_safety_checker=False)
    given = dict(image=control[1], controlnet_conditioning_scale=0.9)
    guess = ask | dict(guess_mode=True, controls=[named(1, 0.9, 0.0, 1.0)])
    r.run("controls_guess", one, "DDIMScheduler", guess, **given)
    mixed = diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts, controlnet=nets[1], requires_safety_checker=False)
    ask = both | size | dict(num_inference_steps=6, guidance_scale=3.0, strength=0.5, seed=9, start="picture")
    given = dict(image=whole.resize((24, 32), Image.LANCZOS), control_image=control[1], controlnet_conditioning_scale=0.9)
    r.run("controls_picture", mixed, "DDIMScheduler", ask | dict(controls=[named(1, 0.9, 0.0, 1.0)]), **given)

    # The weights are changed from here on.
    weights = dict(unet.named_parameters())
    texts = {n.removeprefix("text_model."): p for n, p in pipe.text_encoder.named_parameters()}
    kohya, peft = Lora(71), Lora(72)
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    for i, name in enumerate(
        [f"{block}.attn1.to_q", f"{block}.attn2.to_out.0", f"{block}.ff.net.0.proj", "mid_block.resnets.0.conv1", "conv_in"]
        + ["down_blocks.0.attentions.0.proj_in", "up_blocks.1.resnets.0.conv_shortcut", "time_embedding.linear_1"]
    ):
        kohya.add("lora_unet_" + name.replace(".", "_"), weights[f"{name}.weight"], 2 + i % 3, KOHYA, 1.5 if i % 2 else None)
    name = "encoder.layers.1.self_attn.v_proj"
    kohya.add("lora_te_text_model_" + name.replace(".", "_"), texts[f"{name}.weight"], 4, KOHYA, 2)
    peft.add(f"unet.{block}.attn1.to_q", weights[f"{block}.attn1.to_q.weight"], 3, PEFT)
    peft.add("unet.down_blocks.0.downsamplers.0.conv", weights["down_blocks.0.downsamplers.0.conv.weight"], 3, PEFT)
    peft.add("text_encoder.text_model.encoder.layers.0.mlp.fc1", texts["encoder.layers.0.mlp.fc1.weight"], 2, PEFT)
    peft.add(f"unet.{block}.attn2.processor.to_k", weights[f"{block}.attn2.to_k.weight"], 2, PROCESSOR)
    peft.add(f"unet.{block}.attn1.processor.to_out", weights[f"{block}.attn1.to_out.0.weight"], 2, PROCESSOR)
    used = [["lora_kohya.safetensors", 0.8], ["lora_peft.safetensors", -0.5]]
    for lora, (file, scale) in zip((kohya, peft), used):
        save_file(lora.tensors, os.path.join(folder, file))
        lora.merge(scale)
    r.run("loras", pipe, "DDIMScheduler", both | size | dict(num_inference_steps=3, guidance_scale=4.0, seed=12, loras=used))
    r.write()


def xl():
    folder = os.path.join(OUT, "pipeline_xl")
    tokens, vocabulary = tokenizer("<|endoftext|>")
    tokens_2, _ = tokenizer("!")
    unet = made(
        UNet2DConditionModel(
            **UNET,
            **UP,
            cross_attention_dim=40,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            use_linear_projection=True,
        )
    )
    parts = dict(
        vae=vae(),
        text_encoder=text(vocabulary, False, 16),
        text_encoder_2=text(vocabulary, True, 24),
        tokenizer=tokens,
        tokenizer_2=tokens_2,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
        ),
    )
    pipe = diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True, add_watermarker=False)
    save(folder, pipe)
    r = Record(folder)
    size = dict(width=24, height=32)
    ask = size | dict(num_inference_steps=4, guidance_scale=5.0, seed=11)
    r.run("zeros", pipe, None, dict(prompt=PROMPT) | ask)
    words = dict(prompt=PROMPT + "!", negative_prompt=NEGATIVE, clip_skip=1)
    r.run("words", pipe, "DPMSolverMultistepScheduler", words | ask)

    # Names after the original code; the library's own translation of them must agree.
    weights, lora = dict(unet.named_parameters()), Lora(73)
    names = {
        "input_blocks_1_1_transformer_blocks_0_attn1_to_v": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v",
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks_3_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
        "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
        "output_blocks_0_0_emb_layers_1": "up_blocks.0.resnets.0.time_emb_proj",
        "output_blocks_1_1_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_3_1_transformer_blocks_0_ff_net_2": "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.2",
    }
    for original, own in names.items():
        lora.add(f"lora_unet_{original}", weights[f"{own}.weight"], 2, KOHYA, 1)
    config = type("Config", (), dict(layers_per_block=1))()
    known = {f"lora_unet_{k}.alpha": torch.tensor(1.0) for k in names if k.startswith(("input", "middle", "output"))}
    told = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers(dict(known), config)
    for ours, theirs in zip(names.values(), told):
        # Blocks and layers by number; the rest of a name is translated elsewhere.
        number = lambda name: [c for c in name if c.isdigit()][: 1 if "mid" in name else 2]
        assert "sampler" in ours or number(ours) == number(theirs), (ours, theirs)
    texts = dict(pipe.text_encoder_2.named_parameters())
    name = "encoder.layers.2.mlp.fc2"
    found = next(p for n, p in texts.items() if n.endswith(f"{name}.weight"))
    lora.add("lora_te2_text_model_" + name.replace(".", "_"), found, 2, KOHYA, 1)
    save_file(lora.tensors, os.path.join(folder, "lora_original.safetensors"))
    lora.merge(0.7)
    r.run("lora", pipe, "EulerDiscreteScheduler", words | ask | dict(loras=[["lora_original.safetensors", 0.7]]))
    r.write()


def motion():
    """Components are those of `pipeline_sd`, where nothing else is said."""
    folder, base = os.path.join(OUT, "pipeline_motion"), os.path.join(OUT, "pipeline_sd")
    SCHEDULERS[0] = base
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32, safety_checker=None)
    adapter = made(
        diffusers.MotionAdapter(
            block_out_channels=(16, 32),
            motion_layers_per_block=1,
            motion_mid_block_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=8,
            motion_max_seq_length=8,
        )
    )
    adapter.half().save_pretrained(os.path.join(folder, "motion_adapter"))
    adapter.float()
    parts = dict(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=tokenizer("<|endoftext|>")[0], unet=pipe.unet,
        motion_adapter=adapter, scheduler=pipe.scheduler, feature_extractor=None, image_encoder=None,
    )
    r = Record(folder)
    ask = dict(prompt=PROMPT, negative_prompt=NEGATIVE, width=24, height=32, num_inference_steps=3, guidance_scale=5.0)
    ask |= dict(num_frames=5, seed=13)
    clip = diffusers.AnimateDiffPipeline(**parts)
    r.run("clip", clip, "DDIMScheduler", ask)
    r.run("unguided", clip, "EulerDiscreteScheduler", ask | dict(guidance_scale=1.0, num_frames=8))
    del parts["image_encoder"]
    net = ControlNetModel.from_pretrained(os.path.join(base, "controlnet_0"), torch_dtype=torch.float32)
    parts.pop("image_encoder", None)
    controlled = diffusers.AnimateDiffControlNetPipeline(**parts, controlnet=net)
    frames = [r.picture(f"frame_{i}", picture(80 + i, 24, 32)) for i in range(5)]
    control = dict(net="controlnet_0", picture="frame", scale=0.9, range=[0.0, 0.7])
    given = dict(conditioning_frames=frames, controlnet_conditioning_scale=0.9, control_guidance_end=0.7)
    r.run("controlled", controlled, "DDIMScheduler", ask | dict(controls=[control]), **given)
    r.write()


if __name__ == "__main__":
    sd()
    xl()
    motion()
    print("written to", os.path.relpath(OUT), file=sys.stderr)
