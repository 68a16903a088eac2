"""Records the cases `option_*` with diffusers: small networks for every option that a configuration can hold.

    python generate.py [folder]        (torch, diffusers, safetensors; runs on the CPU in about a minute)

Weights are seeded and drawn anew where the library starts them at zero, so that every path matters; they are rounded to
f16 and stored so. Each output is stored in f32 with its tolerance: twenty times the distance between f32 and f64, and the
errors of PyTorch itself in f16 and bf16.
"""

import copy
import json
import math
import os
import sys

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import save_file

logging.set_verbosity_error()

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
LOW = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def redraw(model, seed):
    """Weights that leave nothing at zero, keep activations of order one, and spread the scores of attention."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "norm" in name:
                value = 1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise
            elif p.ndim < 2:
                value = 0.1 * noise
            else:
                fan_in = math.prod(p.shape[1:])
                value = noise * (1.5 if ".to_q" in name or ".to_k" in name else 1.0) / math.sqrt(fan_in)
            p.copy_(value.half().float())
    return model.eval()


def tensor(g, *shape, kind="normal"):
    if kind == "unit":
        return torch.rand(shape, generator=g)
    return torch.randn(shape, generator=g)


class Case:
    # What else than f32 is recorded, and the least part of an output's rms that is its tolerance.
    low, floor = LOW, 0.0

    def __init__(self, name, kind, note):
        self.name, self.kind, self.note = name, kind, note
        self.components, self.files, self.calls, self.inputs, self.expected = {}, {}, [], {}, {}

    def component(self, name, model, rename=lambda name, value: (name, value)):
        sub = f"{name}/" if name else ""
        os.makedirs(os.path.join(OUT, self.name, sub), exist_ok=True)
        self.components[name] = {
            "class": type(model).__name__,
            "config": f"{sub}config.json",
            "weights": {"float16": f"{sub}model.safetensors"},
        }
        config = dict(model.config)
        config = {k: v for k, v in config.items() if not k.startswith("_") and k != "decay"}
        config["_class_name"] = type(model).__name__
        self.files[f"{sub}config.json"] = json.dumps(config, indent=1, sort_keys=True)
        weights = dict(rename(k, v.half().contiguous()) for k, v in model.state_dict().items())
        save_file(weights, os.path.join(OUT, self.name, f"{sub}model.safetensors"))

    def call(self, name, op, args, inputs, run):
        """`run(dtype, inputs)` gives the outputs by name."""
        record = {"name": name, "op": op, "args": args, "inputs": {}, "outputs": {}}
        for key, value in inputs.items():
            self.inputs[f"{name}.{key}"] = value.contiguous()
            dtype = str(value.dtype).removeprefix("torch.")
            record["inputs"][key] = {"key": f"{name}.{key}", "shape": list(value.shape), "dtype": dtype}
        with torch.no_grad():
            wide, exact = run(torch.float32, inputs), run(torch.float64, inputs)
            low = {k: run(v, inputs) for k, v in self.low.items()}
        for key, value in wide.items():
            ref = exact[key]
            error = (value.double() - ref).abs().max().item()
            rms = ref.square().mean().sqrt().item()
            atol = max(20 * error, self.floor * rms)
            assert torch.isfinite(ref).all() and atol > 0, (self.name, name, key)
            entry = {"key": f"{name}.{key}", "shape": list(value.shape), "f32_vs_f64_max": error, "atol_f32": atol}
            entry["rms"] = rms
            entry["torch_low"] = {
                k: {"rel_rms": ((v[key].double() - ref).square().mean() / ref.square().mean()).sqrt().item()}
                for k, v in low.items()
            }
            self.expected[f"{name}.{key}"] = value.float().contiguous()
            record["outputs"][key] = entry
        self.calls.append(record)

    def write(self):
        folder = os.path.join(OUT, self.name)
        case = {"format": 1, "name": self.name, "kind": self.kind, "note": self.note}
        case |= {"components": self.components, "calls": self.calls}
        self.files["case.json"] = json.dumps(case, indent=1)
        for path, text in self.files.items():
            with open(os.path.join(folder, path), "w") as f:
                f.write(text + "\n")
        save_file(self.inputs, os.path.join(folder, "inputs.safetensors"))
        save_file(self.expected, os.path.join(folder, "expected.safetensors"))
        print(self.name, [round(o["rms"], 3) for c in self.calls for o in c["outputs"].values() if "rms" in o])


def in_dtype(model, dtype):
    return copy.deepcopy(model).to(dtype)


def cast(x, dtype):
    return x.to(dtype) if x.is_floating_point() else x


def run_unet(model, args):
    def run(dtype, i):
        added = {k: cast(i[k], dtype) for k in ("text_embeds", "time_ids") if k in i}
        more = {}
        down = [i[k] for k in sorted((k for k in i if k.startswith("down_")), key=lambda k: int(k.split(".")[1]))]
        if down:
            more["down_block_additional_residuals"] = [cast(d, dtype) for d in down]
            more["mid_block_additional_residual"] = cast(i["mid_residual"], dtype)
        for key in ("encoder_attention_mask", "class_labels", "timestep_cond"):
            if key in i:
                more[key] = cast(i[key], dtype)
        t = i.get("timestep", args.get("timestep"))
        out = in_dtype(model, dtype)(
            cast(i["sample"], dtype), t, cast(i["encoder_hidden_states"], dtype), added_cond_kwargs=added, **more
        )
        return {"sample": out.sample}

    return run


def run_controlnet(model, args):
    def run(dtype, i):
        more = {k: cast(i[k], dtype) for k in ("class_labels",) if k in i}
        more["added_cond_kwargs"] = {k: cast(i[k], dtype) for k in ("text_embeds", "time_ids") if k in i}
        down, mid = in_dtype(model, dtype)(
            cast(i["sample"], dtype),
            args["timestep"],
            cast(i["encoder_hidden_states"], dtype),
            cast(i["controlnet_cond"], dtype),
            conditioning_scale=args.get("conditioning_scale", 1.0),
            guess_mode=args.get("guess_mode", False),
            return_dict=False,
            **more,
        )
        return {f"down.{n}": d for n, d in enumerate(down)} | {"mid": mid}

    return run


SMALL = dict(
    block_out_channels=(8, 12),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=10,
    attention_head_dim=2,
    norm_num_groups=4,
    sample_size=8,
)
HALF = {k: v for k, v in SMALL.items() if k not in ("up_block_types", "sample_size")}


def unet_case(name, note, calls, seed, **options):
    """`calls`: name → (batch, height, width, tokens, args, further inputs by name → a function of a generator)."""
    model = redraw(UNet2DConditionModel(**(SMALL | options)), seed)
    case = Case(name, "unet2d", note)
    case.component("", model)
    width = model.config.encoder_hid_dim or model.config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    for n, (call, (b, h, w, m, args, more)) in enumerate(calls.items()):
        g = torch.Generator().manual_seed(1000 * seed + n)
        inputs = {"sample": tensor(g, b, model.config.in_channels, h, w), "encoder_hidden_states": tensor(g, b, m, width)}
        inputs |= {k: f(g) for k, f in more.items()}
        case.call(call, "forward", args, inputs, run_unet(model, args))
    case.write()


def unets():
    unet_case(
        "option_ends", "kernels of the ends, widths, centring, sines first, activations gelu, mish and silu; 3 heads of 4 channels",
        {"even": (2, 8, 12, 5, {"timestep": 37}, {}), "odd": (1, 7, 9, 3, {"timestep": 0.5}, {})}, 11,
        in_channels=5, out_channels=3, center_input_sample=True, flip_sin_to_cos=False, freq_shift=1, act_fn="gelu",
        conv_in_kernel=5, conv_out_kernel=1, time_embedding_dim=20, timestep_post_act="mish", time_embedding_act_fn="silu",
        block_out_channels=(16, 12), attention_head_dim=3, norm_eps=1e-3, resnet_out_scale_factor=3.0,
        resnet_skip_time_act=True, use_linear_projection=True,
    )
    unet_case(
        "option_class_table", "a table of classes, activation mish",
        {"b3": (3, 8, 6, 4, {"timestep": 500}, {"class_labels": lambda g: torch.tensor([4, 0, 6])})}, 12,
        num_class_embeds=7, act_fn="mish",
    )
    unet_case(
        "option_class_timestep", "classes embedded as times are, beside the time; activation relu; scale and shift",
        {"b2": (2, 8, 6, 4, {"timestep": 10}, {"class_labels": lambda g: torch.tensor([3.0, 250.0])})}, 13,
        class_embed_type="timestep", class_embeddings_concat=True, act_fn="relu", resnet_time_scale_shift="scale_shift",
    )
    unet_case(
        "option_class_projection", "classes by two layers, and sizes and pooled text",
        {"b2": (2, 8, 6, 4, {"timestep": 10}, {
            "class_labels": lambda g: tensor(g, 2, 30), "text_embeds": lambda g: tensor(g, 2, 6),
            "time_ids": lambda g: torch.tensor([[512., 640., 0., 8., 512., 640.], [64., 96., 3., 0., 1024., 768.]]),
        })}, 14,
        class_embed_type="projection", projection_class_embeddings_input_dim=30, addition_embed_type="text_time",
        addition_time_embed_dim=4, timestep_post_act="silu",
    )
    unet_case(
        "option_class_simple", "classes by one layer",
        {"b1": (1, 8, 10, 4, {"timestep": 10}, {"class_labels": lambda g: tensor(g, 1, 9)})}, 15,
        class_embed_type="simple_projection", projection_class_embeddings_input_dim=9, act_fn="swish",
    )
    unet_case(
        "option_class_identity", "classes that are embedded already",
        {"b2": (2, 8, 6, 4, {"timestep": 10}, {"class_labels": lambda g: tensor(g, 2, 32)})}, 16,
        class_embed_type="identity",
    )
    unet_case(
        "option_guidance", "a guidance embedding added to the sinusoids (distilled models)",
        {"with": (2, 8, 6, 4, {"timestep": 10}, {"timestep_cond": lambda g: tensor(g, 2, 14)}),
         "without": (2, 8, 6, 4, {"timestep": 10}, {})}, 17,
        time_cond_proj_dim=14,
    )
    mask = lambda rows: lambda g: torch.tensor(rows, dtype=torch.float32)
    unet_case(
        "option_cross", "cross-attention in place of self-attention, a projected context, heads by level, a mask",
        {"masked": (2, 8, 12, 5, {"timestep": 700}, {"encoder_attention_mask": mask([[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]])}),
         "plain": (1, 8, 8, 9, {"timestep": 700}, {})}, 18,
        only_cross_attention=[True, False], encoder_hid_dim=6, attention_head_dim=[2, 4],
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )
    unet_case(
        "option_depths", "layers and depths by level and layer, a middle without attention, dividing middle, three levels",
        {"odd": (1, 13, 10, 3, {"timestep": 999}, {})}, 19,
        block_out_channels=(8, 8, 12), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=[2, 1, 1],
        transformer_layers_per_block=[[1, 2], 1, [2]], reverse_transformer_layers_per_block=[[1, 0], 1, [2, 1, 1]],
        mid_block_type="UNetMidBlock2D", mid_block_scale_factor=1.5, cross_attention_dim=[10, 7, 10],
    )
    unet_case(
        "option_no_middle", "no middle, halving with zeros below and right only, residuals",
        {"even": (1, 8, 12, 3, {"timestep": 1}, {
            "down_residual.0": lambda g: tensor(g, 1, 8, 8, 12), "down_residual.1": lambda g: tensor(g, 1, 8, 8, 12),
            "down_residual.2": lambda g: tensor(g, 1, 8, 4, 6), "down_residual.3": lambda g: tensor(g, 1, 12, 4, 6),
            "mid_residual": lambda g: tensor(g, 1, 12, 4, 6)})}, 20,
        mid_block_type=None, downsample_padding=0,
    )


def controlnet_case(name, note, seed, calls, **options):
    model = redraw(ControlNetModel(**(HALF | options)), seed)
    case = Case(name, "controlnet", note)
    case.component("", model)
    factor = 2 ** (len(model.config.conditioning_embedding_out_channels) - 1)
    for n, (call, (b, h, w, args, more)) in enumerate(calls.items()):
        g = torch.Generator().manual_seed(1000 * seed + n)
        inputs = {
            "sample": tensor(g, b, 4, h, w),
            "encoder_hidden_states": tensor(g, b, 4, 10),
            "controlnet_cond": tensor(g, b, model.config.conditioning_channels, factor * h, factor * w, kind="unit"),
        } | {k: f(g) for k, f in more.items()}
        case.call(call, "forward", args, inputs, run_controlnet(model, args))
    case.write()


def controlnets():
    controlnet_case(
        "option_control_pooled", "residuals averaged over space, guess mode without effect, five channels in the image", 31,
        {"plain": (4, 8, 10, {"timestep": 9, "conditioning_scale": 0.6, "guess_mode": True}, {})},
        global_pool_conditions=True, conditioning_embedding_out_channels=(4, 6), conditioning_channels=5,
    )
    controlnet_case(
        "option_control_classes", "classes, a middle without attention, one width of the embedding, heads by level", 32,
        {"b2": (2, 5, 6, {"timestep": 9, "guess_mode": True}, {"class_labels": lambda g: torch.tensor([1, 2])})},
        num_class_embeds=3, conditioning_embedding_out_channels=(6,), mid_block_type="UNetMidBlock2D",
        num_attention_heads=[4, 2], act_fn="mish", resnet_time_scale_shift="scale_shift",
    )
    controlnet_case(
        "option_control_sizes", "channels of the image backwards, sizes and pooled text, linear projections", 37,
        {"b2": (2, 6, 8, {"timestep": 400, "conditioning_scale": 0.8}, {
            "text_embeds": lambda g: tensor(g, 2, 6),
            "time_ids": lambda g: torch.tensor([[512., 640., 0., 8., 512., 640.], [64., 96., 3., 0., 1024., 768.]]),
        })},
        controlnet_conditioning_channel_order="bgr", addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=30, use_linear_projection=True, conditioning_embedding_out_channels=(4, 6),
        transformer_layers_per_block=[2, 1],
    )
    unet = redraw(UNet2DConditionModel(**SMALL), 33)
    pooled = redraw(ControlNetModel(**HALF, global_pool_conditions=True, conditioning_embedding_out_channels=(4, 6)), 34)
    plain = redraw(ControlNetModel(**HALF, conditioning_embedding_out_channels=(4, 6)), 35)
    case = Case("option_control_sum", "controlnet_chain", "a pooled and a plain ControlNet summed")
    for name, model in (("unet", unet), ("controlnet_a", pooled), ("controlnet_b", plain)):
        case.component(name, model)
    args = {"timestep": 50, "controlnets": ["controlnet_a", "controlnet_b"], "scales": [0.7, 1.2]}
    g = torch.Generator().manual_seed(36)
    inputs = {"latents": tensor(g, 1, 4, 11, 14), "encoder_hidden_states": tensor(g, 1, 4, 10)}
    inputs |= {f"cond.{n}": tensor(g, 1, 3, 22, 28, kind="unit") for n in args["controlnets"]}

    def run(dtype, i):
        total = None
        for name, model, scale in zip(args["controlnets"], (pooled, plain), args["scales"]):
            x, c = cast(i["latents"], dtype), cast(i["encoder_hidden_states"], dtype)
            down, mid = in_dtype(model, dtype)(
                x, 50, c, cast(i[f"cond.{name}"], dtype), conditioning_scale=scale, return_dict=False
            )
            parts = [*down, mid]
            total = parts if total is None else [a + b for a, b in zip(total, parts)]
        sample = in_dtype(unet, dtype)(
            x, 50, c, down_block_additional_residuals=total[:-1], mid_block_additional_residual=total[-1]
        ).sample
        return {"sample": sample}

    case.call("two", "forward", args, inputs, run)
    case.write()


def names_of_2022(name, value):
    rules = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in rules.items():
        if f"attentions.0.{new}." in name:
            return name.replace(new, old), value[:, :, None, None] if value.ndim == 2 else value
    return name, value


def vaes():
    options = dict(
        block_out_channels=(8, 12), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4, latent_channels=3, sample_size=16,
    )
    model = redraw(AutoencoderKL(**options, act_fn="gelu", in_channels=1, out_channels=2, use_quant_conv=False), 41)
    case = Case("option_vae", "vae", "gelu, other channels, one projection only, tiles of eight latents")
    case.component("", model)
    g = torch.Generator().manual_seed(42)

    def encode(dtype, i):
        d = in_dtype(model, dtype).encode(cast(i["pixels"], dtype)).latent_dist
        return {"mean": d.mean, "logvar": d.logvar}

    case.call("encode", "encode", {}, {"pixels": tensor(g, 2, 1, 11, 14)}, encode)
    decode = lambda dtype, i: {"pixels": in_dtype(model, dtype).decode(cast(i["latents"], dtype)).sample}
    case.call("decode", "decode", {}, {"latents": tensor(g, 1, 3, 5, 7)}, decode)

    def tiled(dtype, i):
        m = in_dtype(model, dtype)
        m.enable_tiling()
        return {"pixels": m.decode(cast(i["latents"], dtype)).sample}

    for name, size in (("one_tile", (8, 8)), ("wide", (7, 20)), ("both", (13, 11))):
        case.call(name, "decode_tiled", {"tile": 8}, {"latents": tensor(g, 1, 3, *size)}, tiled)
    case.write()
    old = redraw(AutoencoderKL(**options), 44)
    case = Case("option_vae_2022", "vae", "attention with the names of 2022, stored as convolutions of one point")
    case.component("", old, names_of_2022)
    g = torch.Generator().manual_seed(45)
    old_encode = lambda dtype, i: {"mean": in_dtype(old, dtype).encode(cast(i["pixels"], dtype)).latent_dist.mean}
    case.call("encode", "encode", {}, {"pixels": tensor(g, 1, 3, 10, 15)}, old_encode)

    def sampled(dtype, i):
        d = in_dtype(old, dtype).encode(cast(i["pixels"], dtype)).latent_dist
        return {"latents": (d.mean + d.std * cast(i["noise"], dtype)) * old.config.scaling_factor}

    inputs = {"pixels": tensor(g, 1, 3, 16, 12), "noise": tensor(g, 1, 3, 8, 6)}
    case.call("sample", "encode_sample", {}, inputs, sampled)
    scaled = lambda dtype, i: {
        "pixels": in_dtype(old, dtype).decode(cast(i["latents"], dtype) / old.config.scaling_factor).sample
    }
    case.call("decode", "decode_scaled", {}, {"latents": 0.2 * tensor(g, 2, 3, 5, 6)}, scaled)
    case.write()
    one = redraw(AutoencoderKL(**(options | dict(
        block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        layers_per_block=2, act_fn="silu", use_post_quant_conv=False, mid_block_add_attention=False))), 43)
    case = Case("option_vae_flat", "vae", "one resolution, no attention")
    case.component("", one)
    flat = lambda dtype, i: {"pixels": in_dtype(one, dtype).decode(cast(i["latents"], dtype)).sample}
    case.call("decode", "decode", {}, {"latents": tensor(g, 1, 3, 5, 7)}, flat)
    case.write()


torch.set_num_threads(1)
if __name__ == "__main__":
    unets()
    controlnets()
    vaes()
