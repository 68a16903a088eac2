"""Makes the tables of this folder: what diffusers makes of checkpoints in LDM's names.

    python make.py          (diffusers 0.42.1, transformers, PyTorch)

Each line is a name and shape in LDM, and the name that diffusers gives to it (three of them where it cuts a tensor in three;
with its shape where that is another one), or nothing where it leaves it out. Networks are built without memory; every tensor is one number of its own, by which it is
found again.
"""
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as oracle
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = Path(__file__).parent
RESNET = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"),
          ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")]
TOP = [("conv_in", "input_blocks.0.0"), ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
       ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"), ("conv_norm_out", "out.0"),
       ("conv_out", "out.2"), ("mid_block.attentions.0", "middle_block.1"), ("controlnet_mid_block", "middle_block_out.0"),
       ("controlnet_cond_embedding.conv_in", "input_hint_block.0"), ("controlnet_cond_embedding.conv_out", "input_hint_block.14")]


def first(name, rules):
    for new, old in rules:
        if name == new or name.startswith(new + "."):
            return old + name[len(new):]
    return None


def unet_name(name, layers, crossed):
    """LDM's name for a name of diffusers' UNet or ControlNet; `crossed` tells which upward blocks have attention."""
    if (top := first(name, TOP)) is not None:
        return top
    if m := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", name):
        return f"zero_convs.{m[1]}.0.{m[2]}"
    if m := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.*)", name):
        return f"input_hint_block.{2 * int(m[1]) + 2}.{m[2]}"
    if m := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(m[1])}.{first(m[2], RESNET)}"
    way, block, kind, place, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
    block, place = int(block), int(place)
    at = block * (layers + 1) + place
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{at + 1}.0.{first(rest, RESNET)}" if kind == "resnets" else f"input_blocks.{at + 1}.1.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if crossed[block] else 1}.{rest}"
    return f"output_blocks.{at}.0.{first(rest, RESNET)}" if kind == "resnets" else f"output_blocks.{at}.1.{rest}"


def vae_name(name, levels):
    rules = [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if m := re.match(r"(\w+)\.mid_block\.attentions\.0\.(.*)", name):
        return f"{m[1]}.mid.attn_1.{first(m[2], rules)}"
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    return re.sub(r"(down|up)samplers\.0\.", r"\1sample.", re.sub(r"resnets\.(\d)", r"block.\1", name))


def numbered(shapes):
    """A tensor for each name that is one number all over, without memory."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def table(name, stored, converted):
    """Finds each tensor again by its number."""
    found = {}
    for target, tensor in converted.items():
        found.setdefault(int(tensor.flatten()[0]), []).append((target, list(tensor.shape)))
    with open(HERE / f"{name}.tsv", "w") as out:
        for i, (source, tensor) in enumerate(stored.items()):
            shape = list(tensor.shape)
            form = lambda s: "" if s == shape else ":" + "x".join(map(str, s))
            print(source, "x".join(map(str, shape)), " ".join(t + form(s) for t, s in found.get(i, [])), sep="\t", file=out)


def unet(name, prefix, extra=(), **config):
    with torch.device("meta"):
        net = UNet2DConditionModel(**config)
    layers, crossed = net.config.layers_per_block, ["Cross" in k for k in net.config.up_block_types]
    shapes = {prefix + unet_name(k, layers, crossed): v.shape for k, v in net.state_dict().items()}
    stored = numbered({**shapes, **dict(extra)})
    converted = oracle.convert_ldm_unet_checkpoint(dict(stored), dict(net.config))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in net.state_dict().items()}
    table(name, stored, converted)


def controlnet(name, prefix, **config):
    with torch.device("meta"):
        net = ControlNetModel(**config)
    stored = numbered({prefix + unet_name(k, net.config.layers_per_block, []): v.shape for k, v in net.state_dict().items()})
    converted = oracle.convert_controlnet_checkpoint(dict(stored), dict(net.config))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in net.state_dict().items()}
    table(name, stored, converted)


def vae(name, prefix, **config):
    with torch.device("meta"):
        net = AutoencoderKL(**config)
    levels = len(net.config.block_out_channels)
    square = lambda k, s: (*s, 1, 1) if ".mid.attn_1." in k and len(s) == 2 else s
    shapes = {vae_name(k, levels): v.shape for k, v in net.state_dict().items()}
    stored = numbered({prefix + k: square(k, s) for k, s in shapes.items()})
    converted = oracle.convert_ldm_vae_checkpoint(dict(stored), dict(net.config))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in net.state_dict().items()}
    table(name, stored, converted)


def open_clip(name, prefix, layers, width, cls):
    shapes = {"positional_embedding": (77, width), "token_embedding.weight": (49408, width), "ln_final.weight": (width,),
              "ln_final.bias": (width,), "text_projection": (width, width), "logit_scale": ()}
    for i in range(layers):
        at = f"transformer.resblocks.{i}."
        shapes |= {at + "attn.in_proj_weight": (3 * width, width), at + "attn.in_proj_bias": (3 * width,),
                   at + "attn.out_proj.weight": (width, width), at + "attn.out_proj.bias": (width,),
                   at + "mlp.c_fc.weight": (4 * width, width), at + "mlp.c_fc.bias": (4 * width,),
                   at + "mlp.c_proj.weight": (width, 4 * width), at + "mlp.c_proj.bias": (width,)}
        shapes |= {at + f"{n}.{e}": (width,) for n in ["ln_1", "ln_2"] for e in ["weight", "bias"]}
    stored = numbered({prefix + k: s for k, s in shapes.items()})
    kept = layers - 1 if cls is CLIPTextModel else layers
    with torch.device("meta"):
        net = cls(CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=kept,
                                 num_attention_heads=width // 64, projection_dim=width, vocab_size=49408))
    converted = oracle.convert_open_clip_checkpoint(net, dict(stored), prefix=prefix)
    table(name, stored, converted)


def clip(name, prefix):
    with torch.device("meta"):
        net = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                           num_attention_heads=12, vocab_size=49408))
    keys = {k if k.startswith("text_model.") else f"text_model.{k}": v.shape for k, v in net.state_dict().items()}
    stored = numbered({prefix + k: s for k, s in keys.items()})
    table(name, stored, oracle.convert_ldm_clip_checkpoint(dict(stored)))


def main():
    prefix = "model.diffusion_model."
    unet("sd15_unet", prefix, cross_attention_dim=768)
    unet("sdxl_unet", prefix, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
         down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
         up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
         use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
         projection_class_embeddings_input_dim=2816)
    controlnet("sd15_controlnet", "control_model.", cross_attention_dim=768)
    vae("sd_vae", "first_stage_model.", block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    clip("sd15_text", "cond_stage_model.transformer.")
    open_clip("sd21_text", "cond_stage_model.model.", 24, 1024, CLIPTextModel)
    open_clip("sdxl_text_2", "conditioner.embedders.1.model.", 32, 1280, CLIPTextModelWithProjection)


main()
