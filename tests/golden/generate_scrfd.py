"""Records the cases `scrfd_*` with PyTorch: SCRFD restated from its paper and its published configurations, narrowed.

    python generate_scrfd.py [folder]        (as generate.py, whose manner it shares)

Names of tensors are those of insightface's training code. Two networks: basic blocks with heads of their own for each stride and
norms everywhere (scrfd_2.5g_bnkps, scrfd_10g_bnkps); and bottlenecks with one head for all strides, separate towers for boxes,
and norms folded into the convolutions, which therefore have biases.
"""

import os

import torch
import torch.nn.functional as F
from torch import nn

from generate import Case, cast, in_dtype, tensor

ANCHORS = 2


class Layer(nn.Module):
    """A convolution named `conv`, with a norm named `bn` and ReLU where asked for."""

    def __init__(self, cin, cout, kernel=3, stride=1, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(cout) if norm else None

    def forward(self, x):
        return F.relu(self.bn(self.conv(x))) if self.bn else self.conv(x)


class Block(nn.Module):
    def __init__(self, cin, planes, stride, bottleneck):
        super().__init__()
        cout = planes * 4 if bottleneck else planes
        shapes = [(cin, planes, 1, 1), (planes, planes, 3, stride), (planes, cout, 1, 1)]
        shapes = shapes if bottleneck else [(cin, planes, 3, stride), (planes, planes, 3, 1)]
        self.count = len(shapes)
        for i, (a, b, k, s) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or cin != cout:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        h = x
        for i in range(1, self.count + 1):
            h = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(h))
            h = F.relu(h) if i < self.count else h
        return F.relu(h + (self.downsample(x) if self.downsample else x))


class Backbone(nn.Module):
    def __init__(self, base, blocks, planes, bottleneck):
        super().__init__()
        stem = []
        for cin, cout, stride in [(3, base // 2, 2), (base // 2, base // 2, 1), (base // 2, base, 1)]:
            stem += [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        cin = base
        for i, (count, width) in enumerate(zip(blocks, planes)):
            layer = []
            for b in range(count):
                layer.append(Block(cin, width, 2 if i > 0 and b == 0 else 1, bottleneck))
                cin = width * 4 if bottleneck else width
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 2, 2)
        maps = []
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        return maps


class Neck(nn.Module):
    def __init__(self, widths, out):
        super().__init__()
        plain = lambda cin, k=3, s=1: Layer(cin, out, k, s, norm=False)
        self.lateral_convs = nn.ModuleList(plain(w, 1) for w in widths)
        self.fpn_convs = nn.ModuleList(plain(out) for _ in widths)
        self.downsample_convs = nn.ModuleList(plain(out, 3, 2) for _ in widths[1:])
        self.pafpn_convs = nn.ModuleList(plain(out) for _ in widths[1:])

    def forward(self, maps):
        lateral = [conv(m) for conv, m in zip(self.lateral_convs, maps)]
        for i in range(len(lateral) - 1, 0, -1):
            lateral[i - 1] = lateral[i - 1] + F.interpolate(lateral[i], size=lateral[i - 1].shape[2:], mode="nearest")
        inner = [conv(m) for conv, m in zip(self.fpn_convs, lateral)]
        for i, conv in enumerate(self.downsample_convs):
            inner[i + 1] = inner[i + 1] + conv(inner[i])
        return [inner[0]] + [conv(m) for conv, m in zip(self.pafpn_convs, inner[1:])]


class Scale(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))


class Head(nn.Module):
    def __init__(self, cin, width, depth, shared, separate):
        super().__init__()
        self.strides, self.shared, self.separate = [8, 16, 32], shared, separate
        keys = ["0"] if shared else [str((s, s)) for s in self.strides]
        tower = lambda: nn.ModuleList(Layer(cin if i == 0 else width, width) for i in range(depth))
        last = lambda n: nn.ModuleDict({k: nn.Conv2d(width, n * ANCHORS, 3, padding=1) for k in keys})
        self.cls_stride_convs = nn.ModuleDict({k: tower() for k in keys})
        self.reg_stride_convs = nn.ModuleDict({k: tower() if separate else nn.ModuleList() for k in keys})
        self.stride_cls, self.stride_reg, self.stride_kps = last(1), last(4), last(10)
        self.scales = nn.ModuleList(Scale(1.0 + 0.25 * i) for i in range(3))

    def forward(self, maps):
        out = {}
        for x, scale, s in zip(maps, self.scales, self.strides):
            key = "0" if self.shared else str((s, s))
            h = x
            for layer in self.cls_stride_convs[key]:
                h = layer(h)
            out[f"score.{s}"] = self.stride_cls[key](h)
            if self.separate:
                h = x
                for layer in self.reg_stride_convs[key]:
                    h = layer(h)
            # The scale of a level is applied where boxes are read.
            out[f"bounds.{s}"] = self.stride_reg[key](h)
            out[f"points.{s}"] = self.stride_kps[key](h)
        return out


class Scrfd(nn.Module):
    def __init__(self, base, blocks, planes, bottleneck, out, width, depth, shared, separate):
        super().__init__()
        self.config = dict(base=base, stage_blocks=blocks, stage_planes=planes, bottleneck=bottleneck, neck=out, head=width,
                           stacked_convs=depth, strides_share=shared, cls_reg_share=not separate)
        self.backbone = Backbone(base, blocks, planes, bottleneck)
        self.neck = Neck([p * 4 if bottleneck else p for p in planes[1:]], out)
        self.bbox_head = Head(out, width, depth, shared, separate)

    def forward(self, images):
        return self.bbox_head(self.neck(self.backbone(images)[1:]))


def drawn(model, seed):
    """Weights that keep maps of order one, and norms with statistics of their own."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=g)
            if name.endswith("num_batches_tracked") or name.endswith(".scale"):
                continue
            if name.endswith("running_var"):
                new = 0.5 + torch.rand(value.shape, generator=g)
            elif value.ndim == 1:
                new = 1 + 0.2 * noise if ".bn" in name and name.endswith("weight") else 0.2 * noise
                new = new if value.mean() != 1 else 1 + 0.2 * noise
            else:
                new = noise * (1.4 / value[0].numel() ** 0.5)
            value.copy_(new.half().float())
    return model.eval()


def folded(weights):
    """The same network without norms: a scale and an offset for each channel are part of the filters."""
    out = dict(weights)
    for name in [n for n in weights if n.endswith("running_mean")]:
        norm = name.removesuffix(".running_mean")
        head, _, last = norm.rpartition(".")
        before = {"bn": "conv"}.get(last) or (last.replace("bn", "conv") if last.startswith("bn") else str(int(last) - 1))
        part = lambda k: out.pop(f"{norm}.{k}").double()
        scale = part("weight") / (part("running_var") + 1e-5).sqrt()
        bias = part("bias") - part("running_mean") * scale
        out.pop(f"{norm}.num_batches_tracked")
        conv = f"{head}.{before}"
        out[f"{conv}.weight"] = (weights[f"{conv}.weight"].double() * scale[:, None, None, None]).float()
        out[f"{conv}.bias"] = bias.float()
    return out


class Folded(Scrfd):
    """A network that is saved without its norms, and is what it saves."""

    def settle(self):
        whole = folded(super().state_dict())
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())
                elif isinstance(child, nn.Conv2d) and child.bias is None:
                    child.bias = nn.Parameter(torch.zeros(child.out_channels))
        self.load_state_dict({k: v.half().float() for k, v in whole.items()})
        return self.eval()


def run(model):
    def one(dtype, i):
        return in_dtype(model, dtype)(cast(i["images"], dtype))

    return one


def record(name, note, model, seed, calls):
    case = Case(name, "scrfd", note)
    model.config["_class_name"] = "SCRFD"
    case.component("", model)
    for n, (call, shape) in enumerate(calls.items()):
        g = torch.Generator().manual_seed(1000 * seed + n)
        images = (tensor(g, *shape) * 0.5).clamp(-1, 1)
        case.call(call, "forward", {}, {"images": images}, run(model))
    case.write()


def tables():
    """Names and shapes of the published sizes, for tests/keys."""
    sizes = {
        "scrfd_2.5g_bnkps": (24, (3, 5, 3, 2), (24, 48, 48, 80), False, 24, 64, 2),
        "scrfd_10g_bnkps": (56, (3, 4, 2, 3), (56, 88, 88, 224), False, 56, 80, 3),
    }
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "keys")
    for name, size in sizes.items():
        model = Scrfd(*size, shared=False, separate=False)
        with open(os.path.join(folder, f"{name}.tsv"), "w") as f:
            f.write("# SCRFD by its published configuration: tests/golden/generate_scrfd.py\n")
            for key, value in sorted(model.state_dict().items()):
                f.write(key + "\t" + ("x".join(map(str, value.shape)) or "scalar") + "\n")
        print(name, sum(p.numel() for p in model.parameters()), "numbers")


def main():
    tables()
    plain = Scrfd(8, (2, 1, 2, 1), (8, 12, 12, 16), False, 10, 12, 2, shared=False, separate=False)
    record("scrfd_basic", "basic blocks, a head for each stride, norms", drawn(plain, 61), 61,
           {"b2": (2, 3, 64, 96), "square": (1, 3, 160, 160)})
    other = Folded(6, (1, 2, 1, 1), (3, 4, 4, 5), True, 8, 6, 1, shared=True, separate=True)
    record("scrfd_bottleneck", "bottlenecks, one head for all strides, towers of their own for boxes, norms folded",
           drawn(other, 62).settle(), 62, {"b1": (1, 3, 96, 64)})


if __name__ == "__main__":
    main()
