"""Records the cases `option_motion_*` with diffusers: small networks for clips, whole and joined from two files.

    python generate_motion.py [folder]        (as generate.py, whose manner it shares)
"""

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from generate import Case, cast, in_dtype, redraw, tensor


def drawn(model, seed):
    model = redraw(model, seed)
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.copy_(buffer.half().float())  # position tables, as they are stored
    return model


def run_motion(model, args):
    def run(dtype, i):
        more = {}
        if "time_ids" in i:
            more["added_cond_kwargs"] = {k: cast(i[k], dtype) for k in ("text_embeds", "time_ids")}
        if "timestep_cond" in i:
            more["timestep_cond"] = cast(i["timestep_cond"], dtype)
        sample, states = cast(i["sample"], dtype), cast(i["encoder_hidden_states"], dtype)
        states = states.repeat_interleave(sample.shape[2], dim=0)  # as the pipeline does
        return {"sample": in_dtype(model, dtype)(sample, args["timestep"], states, **more).sample}

    return run


def whole():
    options = dict(
        block_out_channels=(16, 24), layers_per_block=(1, 2), norm_num_groups=4, cross_attention_dim=20,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), act_fn="mish", in_channels=5, out_channels=3,
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), num_attention_heads=(2, 3), mid_block_layers=2,
        transformer_layers_per_mid_block=(1, 2), temporal_transformer_layers_per_mid_block=(2, 1),
        temporal_transformer_layers_per_block=((2,), (1, 2)), motion_num_attention_heads=(4, 6),
        reverse_temporal_transformer_layers_per_block=((1, 2, 1), (2, 1)), motion_max_seq_length=9,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=34,
        time_cond_proj_dim=6, use_linear_projection=True, norm_eps=1e-4, downsample_padding=0,
    )
    model = drawn(UNetMotionModel(**options), 51)
    case = Case("option_motion_whole", "unet_motion_whole", "depths, heads and layers by block; sizes and guidance embedded")
    case.component("", model)
    g = torch.Generator().manual_seed(52)
    for name, (b, f, h, w) in {"clip": (1, 9, 6, 4), "pair": (2, 2, 5, 7)}.items():
        inputs = {
            "sample": tensor(g, b, 5, f, h, w), "encoder_hidden_states": tensor(g, b, 3, 20),
            "text_embeds": tensor(g, b, 10), "time_ids": 50 * tensor(g, b, 6, kind="unit"),
            "timestep_cond": tensor(g, b, 6),
        }
        case.call(name, "forward", {"timestep": 321}, inputs, run_motion(model, {"timestep": 321}))
    case.write()


def joined():
    unet = drawn(UNet2DConditionModel(
        block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4, 8),
        flip_sin_to_cos=True,
    ), 53)
    adapter = drawn(MotionAdapter(
        block_out_channels=(8, 16, 16), motion_layers_per_block=1, motion_num_attention_heads=(2, 4, 8),
        motion_norm_num_groups=4, use_motion_mid_block=False, motion_max_seq_length=6,
        motion_transformer_layers_per_block=2,
    ), 54)
    model = UNetMotionModel.from_unet2d(unet, adapter).eval()
    case = Case("option_motion_joined", "unet_motion", "no motion in the middle, heads by block, two temporal layers")
    case.component("unet", unet)
    case.component("motion_adapter", adapter)
    g = torch.Generator().manual_seed(55)
    for name, (b, f, h, w) in {"one_frame": (1, 1, 4, 8), "odd": (2, 6, 7, 5)}.items():
        inputs = {"sample": tensor(g, b, 4, f, h, w), "encoder_hidden_states": tensor(g, b, 4, 24)}
        case.call(name, "forward", {"timestep": 77}, inputs, run_motion(model, {"timestep": 77}))
    single = {"sample": tensor(g, 1, 4, 3, 4, 4), "encoder_hidden_states": tensor(g, 1, 1, 24)}
    case.call("one_token", "forward", {"timestep": 5}, single, run_motion(model, {"timestep": 5}))
    case.write()


torch.set_num_threads(1)
if __name__ == "__main__":
    whole()
    joined()
