"""The networks that are timed, from torch alone: UNets of Stable Diffusion 1.5 and XL, ControlNet, and the VAE's decoder.

They have the operations, the shapes and the number of parameters of the published ones, and random weights: speed depends on
nothing else.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Resnet(nn.Module):
    def __init__(self, cin, cout, time, eps=1e-5):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, cin, eps=eps), nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(time, cout) if time else None
        self.norm2, self.conv2 = nn.GroupNorm(32, cout, eps=eps), nn.Conv2d(cout, cout, 3, padding=1)
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x, t=None):
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(F.silu(t))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, width, context, heads, bias=False):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.k, self.v = nn.Linear(context, width, bias=bias), nn.Linear(context, width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x, context=None):
        context = x if context is None else context
        split = lambda v: v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(context)), split(self.v(context)))
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, context, heads)
        self.norm3, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        value, gate = self.up(self.norm3(x)).chunk(2, -1)
        return x + self.down(value * F.gelu(gate))


class Transformer(nn.Module):
    def __init__(self, width, context, heads, depth):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.into, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, context, heads) for _ in range(depth))

    def forward(self, x, context):
        b, c, h, w = x.shape
        y = self.into(self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c))
        for block in self.blocks:
            y = block(y, context)
        return x + self.out(y).reshape(b, h, w, c).permute(0, 3, 1, 2)


class Level(nn.Module):
    """Resnets of one resolution, each with a transformer where `depth` is not 0."""

    def __init__(self, widths, cout, time, context, heads, depth):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(cin, cout, time) for cin in widths)
        one = lambda: Transformer(cout, context, heads, depth)
        self.transformers = nn.ModuleList(one() for _ in widths) if depth else None

    def step(self, i, x, t, context):
        x = self.resnets[i](x, t)
        return x if self.transformers is None else self.transformers[i](x, context)


SD15 = dict(channels=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), middle=1, heads=(8, 8, 8, 8), context=768, added=0)
SDXL = dict(channels=(320, 640, 1280), depths=(0, 2, 10), middle=10, heads=(5, 10, 20), context=2048, added=2816)
TINY = dict(channels=(32, 64), depths=(1, 0), middle=1, heads=(2, 2), context=24, added=0)


class Trunk(nn.Module):
    """Embedding of the time, the way down and the middle: what a UNet and a ControlNet share."""

    def __init__(self, channels, depths, middle, heads, context, added):
        super().__init__()
        first, last, self.time = channels[0], channels[-1], 4 * channels[0]
        embedding = lambda n: nn.Sequential(nn.Linear(n, self.time), nn.SiLU(), nn.Linear(self.time, self.time))
        self.embed, self.embed_added = embedding(first), embedding(added) if added else None
        self.conv_in = nn.Conv2d(4, first, 3, padding=1)
        self.down, self.halve, self.skips = nn.ModuleList(), nn.ModuleList(), [first]
        before = first
        for i, (c, depth, n) in enumerate(zip(channels, depths, heads)):
            self.down.append(Level((before, c), c, self.time, context, n, depth))
            self.skips += [c, c]
            before = c
            if i + 1 < len(channels):
                self.halve.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                self.skips.append(c)
        self.middle = Level((last, last), last, self.time, context, heads[-1], 0)
        self.attention = Transformer(last, context, heads[-1], middle)

    def times(self, timestep, added):
        half = self.embed[0].in_features // 2
        scale = torch.exp(torch.arange(half, device=timestep.device) * (-9.210340371976184 / half))
        angles = timestep[:, None].float() * scale
        t = self.embed(torch.cat([angles.cos(), angles.sin()], -1).to(self.conv_in.weight.dtype))
        return t if self.embed_added is None else t + self.embed_added(added)

    def forward(self, x, t, context, hint=None):
        x = self.conv_in(x)
        x = x if hint is None else x + hint
        skips = [x]
        for i, level in enumerate(self.down):
            for k in range(2):
                x = level.step(k, x, t, context)
                skips.append(x)
            if i < len(self.halve):
                x = self.halve[i](x)
                skips.append(x)
        x = self.middle.step(0, x, t, context)
        return self.middle.step(1, self.attention(x, context), t, context), skips


class Unet(nn.Module):
    def __init__(self, channels, depths, middle, heads, context, added):
        super().__init__()
        self.trunk = Trunk(channels, depths, middle, heads, context, added)
        self.up, self.enlarge, skips, before = nn.ModuleList(), nn.ModuleList(), list(self.trunk.skips), channels[-1]
        for i in reversed(range(len(channels))):
            widths = []
            for _ in range(3):
                widths.append(before + skips.pop())
                before = channels[i]
            self.up.append(Level(widths, channels[i], self.trunk.time, context, heads[i], depths[i]))
            if i:
                self.enlarge.append(nn.Conv2d(channels[i], channels[i], 3, padding=1))
        self.norm, self.conv_out = nn.GroupNorm(32, channels[0]), nn.Conv2d(channels[0], 4, 3, padding=1)

    def forward(self, x, timestep, context, added=None, residuals=None):
        t = self.trunk.times(timestep, added)
        x, skips = self.trunk(x, t, context)
        if residuals is not None:
            x, skips = x + residuals[-1], [s + r for s, r in zip(skips, residuals)]
        for i, level in enumerate(self.up):
            for k in range(3):
                x = level.step(k, torch.cat([x, skips.pop()], 1), t, context)
            if i < len(self.enlarge):
                x = self.enlarge[i](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm(x)))


class ControlNet(nn.Module):
    def __init__(self, **config):
        super().__init__()
        self.trunk = Trunk(**config)
        widths = (3, 16, 16, 32, 32, 96, 96, 256)
        strides = (1, 1, 2, 1, 2, 1, 2)
        conv = lambda a, b, s: nn.Conv2d(a, b, 3, stride=s, padding=1)
        self.hint = nn.ModuleList(conv(a, b, s) for a, b, s in zip(widths, widths[1:], strides))
        self.hint_out = conv(widths[-1], config["channels"][0], 1)
        self.zero = nn.ModuleList(nn.Conv2d(c, c, 1) for c in [*self.trunk.skips, config["channels"][-1]])

    def forward(self, x, timestep, context, image):
        for layer in self.hint:
            image = F.silu(layer(image))
        x, skips = self.trunk(x, self.trunk.times(timestep, None), context, self.hint_out(image))
        return [zero(v) for zero, v in zip(self.zero, [*skips, x])]


class Steered(nn.Module):
    """A UNet and the ControlNet that steers it."""

    def __init__(self, **config):
        super().__init__()
        self.unet, self.control = Unet(**config), ControlNet(**config)

    def forward(self, x, timestep, context, image):
        return self.unet(x, timestep, context, residuals=self.control(x, timestep, context, image))


class Decoder(nn.Module):
    """The decoder of the VAE: latents to pixels."""

    def __init__(self, channels=(128, 256, 512, 512)):
        super().__init__()
        last = channels[-1]
        self.post, self.conv_in = nn.Conv2d(4, 4, 1), nn.Conv2d(4, last, 3, padding=1)
        self.middle = nn.ModuleList(Resnet(last, last, 0, 1e-6) for _ in range(2))
        self.norm_attention, self.attention = nn.GroupNorm(32, last, eps=1e-6), Attention(last, last, 1, bias=True)
        self.up, self.enlarge, before = nn.ModuleList(), nn.ModuleList(), last
        for i, c in enumerate(reversed(channels)):
            self.up.append(nn.ModuleList(Resnet(before if k == 0 else c, c, 0, 1e-6) for k in range(3)))
            before = c
            if i + 1 < len(channels):
                self.enlarge.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm, self.conv_out = nn.GroupNorm(32, before, eps=1e-6), nn.Conv2d(before, 3, 3, padding=1)

    def forward(self, x):
        x = self.middle[0](self.conv_in(self.post(x)))
        b, c, h, w = x.shape
        y = self.attention(self.norm_attention(x).permute(0, 2, 3, 1).reshape(b, h * w, c))
        x = self.middle[1](x + y.reshape(b, h, w, c).permute(0, 3, 1, 2))
        for i, level in enumerate(self.up):
            for resnet in level:
                x = resnet(x)
            if i < len(self.enlarge):
                x = self.enlarge[i](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm(x)))


STEERED = "sd15-unet+sd15-controlnet"

# Parameters of the published networks.
PUBLISHED = {"sd15-unet": 859_520_964, "sdxl-unet": 2_567_463_684, "sd15-controlnet": 361_279_120, "sd-vae": 49_490_199}
PUBLISHED[STEERED] = PUBLISHED["sd15-unet"] + PUBLISHED["sd15-controlnet"]


def build(name, tiny=False):
    """The network of this name; a very small one of the same kind where `tiny`."""
    if name == "sd-vae":
        return Decoder((32, 64)) if tiny else Decoder()
    config = TINY if tiny else SDXL if name == "sdxl-unet" else SD15
    return {"sd15-controlnet": ControlNet, STEERED: Steered}.get(name, Unet)(**config)


if __name__ == "__main__":
    for name, want in PUBLISHED.items():
        with torch.device("meta"):
            got = sum(p.numel() for p in build(name).parameters())
        print(f"{name}: {got} parameters, published {want}")
        assert got == want, name
