"""The small model: sizes, and the networks that diffusers has no class for.

Spatial layers are diffusers' own `UNet2DConditionModel`; `denoise` walks through its blocks so that pose features, reference
features and motion modules enter where the published networks have them. All names of tensors are the published ones.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import FeedForward
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

# Guidance that the denoising network sees, and what the ControlNet sees.
GUIDANCE = ("normal", "dwpose")
CONTROL = "depth"
# A guider that sees the reference itself, carried along with the body (carry.py) where its coordinates are known, else the same for
# every frame: the reference network's features tell no place finer than 2x2 latents.
SCENE = "reference"
CONTEXT = 32

# Few groups in the norms: two channels a group, as eight would make of 16, keep no colour of an even wall but its sign.
VAE = dict(
    in_channels=3,
    out_channels=3,
    block_out_channels=[16, 32, 48],
    down_block_types=["DownEncoderBlock2D"] * 3,
    up_block_types=["UpDecoderBlock2D"] * 3,
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=2,
    mid_block_add_attention=False,
    force_upcast=False,
    sample_size=128,
)
# Attention at a half of the latents' resolution, where a token covers 2x2 latents, and in the middle. The coarsest level lets every
# place know where it is: zeros round the convolutions are all the position there is.
UNET = dict(
    sample_size=32,
    in_channels=4,
    out_channels=4,
    block_out_channels=[32, 64, 64],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=CONTEXT,
    norm_num_groups=4,
)
# Modules on the way up at a quarter (`4`) and at full resolution (`2`: the published code counts from four levels), and in the middle.
MOTION = dict(
    use_motion_module=True,
    motion_module_resolutions=[2, 4],
    motion_module_mid_block=True,
    motion_module_decoder_only=True,
    motion_module_type="Vanilla",
    motion_module_kwargs=dict(
        num_attention_heads=4,
        num_transformer_block=1,
        attention_block_types=["Temporal_Self"],
        temporal_position_encoding=True,
        temporal_position_encoding_max_len=32,
        temporal_attention_dim_div=1,
    ),
)
GUIDER = dict(guidance_input_channels=3, guidance_embedding_channels=32, block_out_channels=[8, 16, 32])
SCENE_GUIDER = GUIDER | dict(block_out_channels=[16, 32, 32])
IMAGE_ENCODER = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=224,
    patch_size=16,
    projection_dim=CONTEXT,
    hidden_act="quick_gelu",
)
CONTROLNET = dict(
    in_channels=4,
    block_out_channels=UNET["block_out_channels"],
    down_block_types=UNET["down_block_types"],
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=CONTEXT,
    norm_num_groups=4,
    conditioning_embedding_out_channels=[8, 16, 32],
)
# For trying the scripts in seconds; every layout is that of the real sizes.
TINY = dict(
    vae=VAE | dict(block_out_channels=[8, 8, 8]),
    unet=UNET | dict(block_out_channels=[32, 32, 32]),
    guider=GUIDER | dict(guidance_embedding_channels=32, block_out_channels=[8, 8, 32]),
    scene_guider=SCENE_GUIDER | dict(block_out_channels=[8, 8, 32]),
    image_encoder=IMAGE_ENCODER | dict(num_hidden_layers=1, patch_size=32),
    controlnet=CONTROLNET | dict(block_out_channels=[32, 32, 32], conditioning_embedding_out_channels=[8, 8, 16]),
)
SIZES = dict(
    small=dict(vae=VAE, unet=UNET, guider=GUIDER, scene_guider=SCENE_GUIDER, image_encoder=IMAGE_ENCODER, controlnet=CONTROLNET),
    tiny=TINY,
)


class SelfAttention(nn.Module):
    """Self-attention without biases but the last: `x [B,L,C]` to `[B,L,C]`."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        return self.to_out[0](attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


def attend(q, k, v, heads):
    def split(t):
        return t.unflatten(-1, (heads, -1)).transpose(-3, -2)

    return F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(-3, -2).flatten(-2)


class PositionalEncoding(nn.Module):
    def __init__(self, channels, length):
        super().__init__()
        at = torch.arange(length, dtype=torch.float64)[:, None]
        rate = torch.exp(torch.arange(0, channels, 2, dtype=torch.float64) * (-math.log(10000.0) / channels))
        pe = torch.zeros(1, length, channels)
        pe[0, :, 0::2], pe[0, :, 1::2] = (at * rate).sin().float(), (at * rate).cos().float()
        self.register_buffer("pe", pe)


class TemporalAttention(SelfAttention):
    def __init__(self, channels, heads, length):
        super().__init__(channels, heads)
        self.pos_encoder = PositionalEncoding(channels, length)


class TemporalBlock(nn.Module):
    def __init__(self, channels, heads, attentions, length):
        super().__init__()
        self.attention_blocks = nn.ModuleList([TemporalAttention(channels, heads, length) for _ in range(attentions)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(attentions)])
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x, frames):
        tokens = x.shape[1]
        # [B*F,L,C] to [B*L,F,C] and back: only frames see each other.
        x = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        for norm, attention in zip(self.norms, self.attention_blocks):
            x = x + attention(norm(x) + attention.pos_encoder.pe[:, :frames])
        x = x + self.ff(self.ff_norm(x))
        return x.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)


class TemporalTransformer(nn.Module):
    def __init__(self, channels, heads, attentions, length):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, heads, attentions, length)])
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)


class MotionModule(nn.Module):
    """`x [B*F,C,H,W]` to the same, every place attending over its frames. The identity before training."""

    def __init__(self, channels, kwargs):
        super().__init__()
        heads, types = kwargs["num_attention_heads"], kwargs["attention_block_types"]
        length = kwargs["temporal_position_encoding_max_len"]
        self.temporal_transformer = TemporalTransformer(channels, heads, len(types), length)

    def forward(self, x, frames):
        t = self.temporal_transformer
        height, width = x.shape[-2:]
        h = t.proj_in(t.norm(x).flatten(2).transpose(1, 2))
        for block in t.transformer_blocks:
            h = block(h, frames)
        return x + t.proj_out(h).transpose(1, 2).unflatten(2, (height, width))


def motion_modules(unet):
    """Motion modules by the path of the block they stand in, as `MOTION` places them."""
    channels, modules = unet["block_out_channels"], nn.ModuleDict()
    kwargs = MOTION["motion_module_kwargs"]
    if MOTION["motion_module_mid_block"]:
        modules["mid_block"] = nn.ModuleList([MotionModule(channels[-1], kwargs)])
    for i, width in enumerate(reversed(channels)):
        if 2 ** (3 - i) in MOTION["motion_module_resolutions"]:
            layers = unet["layers_per_block"] + 1
            modules[f"up_blocks/{i}"] = nn.ModuleList([MotionModule(width, kwargs) for _ in range(layers)])
    assert MOTION["motion_module_decoder_only"]
    return modules


class GuidanceEncoder(nn.Module):
    """Champ's without its transformers: pictures `[N,3,H,W]` in [0,1] to features `[N,C,H/4,W/4]`."""

    def __init__(self, guidance_input_channels, guidance_embedding_channels, block_out_channels):
        super().__init__()
        widths = block_out_channels
        self.conv_in = nn.Conv2d(guidance_input_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for a, b in zip(widths, widths[1:]):
            self.blocks.append(nn.Conv2d(a, a, 3, padding=1))
            self.blocks.append(nn.Conv2d(a, b, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], guidance_embedding_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.bias)
        nn.init.normal_(self.conv_out.weight, std=0.01)

    def forward(self, x):
        h = F.silu(self.conv_in(x))
        for block in self.blocks:
            h = F.silu(block(h))
        return self.conv_out(h)


def transformers(block):
    """Transformers of a block, or as many times nothing."""
    return getattr(block, "attentions", None) or [None] * len(block.resnets)


def spatial(transformer, x, context, bank, path, writes, plain):
    """A transformer with one block. `writes` takes the tokens that enter its self-attention; `bank` gives those of the
    reference `[B,L,C]`, read behind the own ones by all rows but the first `plain`."""
    height, width = x.shape[-2:]
    block = transformer.transformer_blocks[0]
    h = transformer.proj_in(transformer.norm(x)).flatten(2).transpose(1, 2)
    n = block.norm1(h)
    if writes is not None:
        writes[path] = n
    a = block.attn1
    q, k, v = a.to_q(n), a.to_k(n), a.to_v(n)
    if bank is None:
        mixed = attend(q, k, v, a.heads)
    else:
        seen = bank[path]
        rows = (len(n) - plain) // len(seen)
        behind = [t.repeat_interleave(rows, 0) for t in (a.to_k(seen), a.to_v(seen))]
        mixed = attend(q[plain:], torch.cat([k[plain:], behind[0]], 1), torch.cat([v[plain:], behind[1]], 1), a.heads)
        if plain:
            mixed = torch.cat([attend(q[:plain], k[:plain], v[:plain], a.heads), mixed])
    h = h + a.to_out[0](mixed)
    # One token of context: softmax over one key is 1.
    a = block.attn2
    h = h + a.to_out[0](a.to_v(context))
    h = h + block.ff(block.norm3(h))
    return x + transformer.proj_out(h.transpose(1, 2).unflatten(2, (height, width)))


def denoise(unet, x, t, context, pose=None, bank=None, plain=0, motion=None, frames=1, residuals=None, writes=None):
    """The UNet over frames folded into the batch.

    `x [N,4,h,w]`, `t [N]`, `context [N,1,D]`, `pose [N,C,h,w]`; `bank` from `writes` of a reference; `motion` as
    `motion_modules`, over `frames` neighbours in the batch; `residuals` of a ControlNet. Returns `[N,4,h,w]`, or nothing
    where features are only written.
    """
    emb = unet.time_embedding(unet.time_proj(t).to(x.dtype))
    emb = emb.expand(len(x), -1)
    h = unet.conv_in(x)
    if pose is not None:
        h = h + pose
    skips = [h]

    def layers(block, name, h, taken=None):
        modules = motion[name] if motion is not None and name in motion else None
        for j, (resnet, transformer) in enumerate(zip(block.resnets, transformers(block))):
            h = resnet(h if taken is None else torch.cat([h, taken.pop()], 1), emb)
            if transformer is not None:
                h = spatial(transformer, h, context, bank, f"{name}/{j}", writes, plain)
            if modules is not None:
                h = modules[j](h, frames)
            yield h

    for i, block in enumerate(unet.down_blocks):
        for h in layers(block, f"down_blocks/{i}", h):
            skips.append(h)
        for down in block.downsamplers or []:
            h = down(h)
            skips.append(h)
    mid = unet.mid_block
    h = spatial(mid.attentions[0], mid.resnets[0](h, emb), context, bank, "mid_block/0", writes, plain)
    if motion is not None and "mid_block" in motion:
        h = motion["mid_block"][0](h, frames)
    h = mid.resnets[1](h, emb)
    if residuals is not None:
        skips = [s + r for s, r in zip(skips, residuals[0])]
        h = h + residuals[1]
    last = max(i for i, b in enumerate(unet.up_blocks) if transformers(b)[0] is not None)
    for i, block in enumerate(unet.up_blocks):
        for h in layers(block, f"up_blocks/{i}", h, skips):
            pass
        if writes is not None and i == last:
            return None
        for up in block.upsamplers or []:
            h = up(h)
    return unet.conv_out(F.silu(unet.conv_norm_out(h)))


class Animator(nn.Module):
    """Everything but the VAE and the ControlNet."""

    def __init__(self, size):
        super().__init__()
        size = SIZES[size]
        self.unet = UNet2DConditionModel(**size["unet"])
        self.reference = UNet2DConditionModel(**size["unet"])
        self.guiders = nn.ModuleDict({name: GuidanceEncoder(**size["guider"]) for name in GUIDANCE})
        self.guiders[SCENE] = GuidanceEncoder(**size["scene_guider"])
        self.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**size["image_encoder"]))
        self.motion = motion_modules(size["unet"])
        # The last layers of the reference network have no effect: what is kept of them is constant.
        for name, p in self.reference.named_parameters():
            if dead(name, size["unet"]):
                p.requires_grad_(False)

    def context(self, pixels):
        """A reference `[B,3,224,224]`, normalised as CLIP wants it, to `[B,1,D]`."""
        return self.image_encoder(pixels).image_embeds[:, None]

    def bank(self, latents, context):
        """Features of references `[B,4,h,w]`."""
        writes = {}
        zero = torch.zeros(len(latents), device=latents.device)
        denoise(self.reference, latents, zero, context, writes=writes)
        return writes

    def pose(self, guidance, scene):
        """The sum of the guiders' features: name to pictures `[B*F,3,H,W]`, and the references as they are carried along
        `[B*F,3,H,W]`, all in [0,1]."""
        return sum(self.guiders[name](guidance[name]) for name in GUIDANCE) + self.guiders[SCENE](scene)


def dead(name, unet):
    """Whether a tensor of the reference network has no effect: it comes after the last self-attention that is read."""
    last = max(i for i, kind in enumerate(unet["up_block_types"]) if kind.startswith("CrossAttn"))
    after = [f"up_blocks.{i}." for i in range(last + 1, len(unet["up_block_types"]))]
    after += [f"up_blocks.{last}.upsamplers", "conv_norm_out", "conv_out"]
    block = f"up_blocks.{last}.attentions.{unet['layers_per_block']}."
    after += [block + "proj_out", block + "transformer_blocks.0.norm2", block + "transformer_blocks.0.norm3"]
    after += [block + "transformer_blocks.0.attn", block + "transformer_blocks.0.ff"]
    return any(name.startswith(a) for a in after)


def control_net(size, unet=None):
    """The ControlNet, its trunk that of a trained UNet."""
    net = ControlNetModel(**SIZES[size]["controlnet"])
    if unet is not None:
        own = net.state_dict()
        net.load_state_dict(own | {k: v for k, v in unet.state_dict().items() if k in own})
    return net


def autoencoder(size):
    return AutoencoderKL(**SIZES[size]["vae"])


def weigh(modules):
    """Numbers of each network."""
    return {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}
