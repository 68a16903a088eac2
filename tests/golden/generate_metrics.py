"""Records cases of the metrics: the networks that they look through, CLIP's picture tower, and the formulas.

    python generate_metrics.py [folder]        (as generate.py, whose manner it shares; also transformers, tokenizers,
                                               lpips, torchvision, scikit-image, scipy, torchmetrics; seconds on a CPU)
    python generate_metrics.py --prove FOLDER  (records nothing: runs what is below on the cases in a folder, and says
                                               how near it comes to what they recorded)

LPIPS, the picture tower and most formulas are the packages' own. IResNet and I3D are restated (metric_networks.py).
Large filters and pictures follow the procedural rule, so that the files stay small.
"""

import hashlib
import json
import math
import os
import sys
import warnings

import lpips
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.linalg import LinAlgWarning
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from generate import LOW, OUT, Case, cast, in_dtype, tensor
from generate_clip import TINY, clip_case
from metric_formulas import FORMULAS
from metric_networks import I3d, IResNet

# Roots of singular products are what some sets are here for, and lpips asks torchvision in an old way.
warnings.simplefilter("ignore", LinAlgWarning)
warnings.filterwarnings("ignore", module="torchvision")


class Rule:
    """A tensor that a seed stands for."""

    def __init__(self, name, shape, amp):
        self.shape, self.amp = list(shape), float(np.float32(amp))
        self.seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")

    @staticmethod
    def of(record):
        rule = Rule("", record["shape"], record["amp"])
        rule.seed = int(record["seed"])
        return rule

    def record(self):
        # Many readers of JSON keep only 53 bits of a number.
        return {"shape": self.shape, "seed": str(self.seed), "amp": self.amp}

    def tensor(self):
        step, mask = 0x9E3779B97F4A7C15, 2**64 - 1
        z = np.arange(1, math.prod(self.shape) + 1, dtype=np.uint64) * np.uint64(step) + np.uint64(self.seed & mask)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        u = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64)
        unit = (u * 2.0**-23 - 1).astype(np.float32)
        return torch.from_numpy(unit * np.float32(self.amp)).reshape(self.shape)


def constant(name):
    """What a network has from its code: counters of training, and LPIPS's scale of pixels, which f16 does not hold."""
    return name.endswith("num_batches_tracked") or name.startswith("scaling_layer")


class Recorder(Case):
    # A distance is one number, whose error in f32 may happen to be nothing: the least tolerance is this part of it.
    floor = 2e-5

    def network(self, model, rules):
        kept = {k: v for k, v in model.state_dict().items() if k not in rules and not constant(k)}
        shell = type(model.config["_class_name"], (), {"config": model.config, "state_dict": lambda _: kept})()
        self.component("", shell)
        if rules:
            self.components[""]["procedural"] = True
            lines = [f" {json.dumps(k)}: {json.dumps(r.record())}" for k, r in rules.items()]
            self.files["weights_spec.json"] = "{\n" + ",\n".join(lines) + "\n}"

    def forward(self, name, args, inputs, run, judged=()):
        """`judged`: the outputs that are long enough for an error in half precision to mean anything."""
        self.low = LOW if judged else {}
        given = {k: v.tensor() if isinstance(v, Rule) else v for k, v in inputs.items()}
        self.call(name, "forward", args, given, run)
        record = self.calls[-1]
        for key, value in inputs.items():
            if isinstance(value, Rule):
                del self.inputs[f"{name}.{key}"]
                record["inputs"][key] |= {"key": None, "procedural": value.record()}
        for key, entry in record["outputs"].items():
            if key not in judged:
                del entry["torch_low"]


# ---- networks ----


def distance(net, **_):
    """LPIPS without any of its files: no trunk that a classifier was, no weights of taps."""
    model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    model.config = {"_class_name": "LPIPS", "net": net}
    # It holds its taps twice, under two names.
    del model.lins
    return model


def run_faces(model, args):
    def run(dtype, i):
        embedding = in_dtype(model, dtype)(cast(i["images"], dtype))
        normalized = F.normalize(embedding)
        return {"embedding": embedding, "normalized": normalized, "cosine_to_first": normalized @ normalized[:1].T}

    return run


def run_clips(model, args):
    def run(dtype, i):
        logits, features = in_dtype(model, dtype)(cast(i["video"], dtype))
        return {"logits": logits, "features": features}

    return run


def run_distance(model, args):
    def run(dtype, i):
        m = in_dtype(model, dtype)
        m.lins = [getattr(m, f"lin{n}") for n in range(m.L)]
        pair = [cast(i[k], dtype) for k in ("in0", "in1")]
        total, layers = m(*pair, retPerLayer=True, normalize=args.get("normalize", False))
        return {f"layer.{n}": v for n, v in enumerate(layers)} | {"distance": total}

    return run


NETWORKS = {"iresnet": (IResNet, run_faces), "i3d": (I3d, run_clips), "lpips": (distance, run_distance)}


def drawn(model, case, large, gain=1.0):
    """Seeded weights in f16, and a rule for every filter of more than `large` numbers: those rules by name."""
    g, rules = torch.Generator().manual_seed(sum(case.encode())), {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            last = name.rpartition(".")[2]
            if name.startswith("lin"):
                new = noise.abs()
            elif "prelu" in name:
                new = 0.25 + 0.1 * noise
            elif p.ndim == 1:
                norm = "bn" in name or "downsample.1" in name
                new = 1 + 0.2 * noise if norm and last == "weight" else 0.1 * noise
                # insightface does not train this scale.
                new = torch.ones_like(new) if name == "features.weight" else new
            else:
                fan_in = math.prod(p.shape[1:])
                if p.numel() > large:
                    rules[name] = Rule(f"{case}/{name}", p.shape, gain * math.sqrt(3 / fan_in))
                    p.copy_(rules[name].tensor())
                    continue
                new = noise * gain / math.sqrt(fan_in)
            p.copy_(new.half().float())
    return model.eval(), rules


def calibrated(model, sample, seed):
    """Norms that have seen a batch, and then drifted a little from it."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(sample)
        g = torch.Generator().manual_seed(seed)
        for norm in norms:
            mean, var = norm.running_mean, norm.running_var
            mean += 0.1 * var.sqrt() * torch.randn(mean.shape, generator=g)
            var *= 0.7 + 0.6 * torch.rand(var.shape, generator=g)
            norm.running_mean, norm.running_var = mean.half().float(), var.half().float()
    return model.eval()


def faces():
    for name, arch, width, features, batches, note in [
        ("option_iresnet34", "iresnet34", 3, 20, (1, 4), "34 layers, 3 channels at first, 20 features; one face"),
        ("option_iresnet100", "iresnet100", 2, 33, (5,), "100 layers, 2 channels at first, 33 features"),
    ]:
        model, rules = drawn(IResNet(arch, features, width), name, 400)
        calibrated(model, Rule(f"{name}/calibration", (12, 3, 112, 112), 1.0).tensor(), 1)
        case = Recorder(name, "iresnet", note)
        case.network(model, rules)
        for b in batches:
            images = Rule(f"{name}/b{b}", (b, 3, 112, 112), 1.0)
            # The twenty numbers of one face in so narrow a network say little about half precision.
            judged = ("embedding", "normalized") if b > 1 else ()
            case.forward(f"b{b}", {}, {"images": images}, run_faces(model, {}), judged)
        case.write()


def clips():
    for name, source, divide, classes, shapes, note in [
        ("option_i3d_piergiaj", "piergiaj", 16, 13, {"t9": (2, 3, 9, 193, 198)},
         "norms with TensorFlow's epsilon; nine frames, the fewest; two clips, other heights than widths"),
        ("option_i3d_stretches", "videogpt", 16, 9, {"t24": (1, 3, 24, 199, 193)},
         "24 frames, which leave two stretches of time to average; widths that the divisor does not divide"),
    ]:
        model, rules = drawn(I3d(source, divide, classes), name, 1500)
        calibrated(model, Rule(f"{name}/calibration", (2, 3, 17, 193, 193), 1.0).tensor(), 2)
        case = Recorder(name, "i3d", note)
        case.network(model, rules)
        for call, shape in shapes.items():
            video = Rule(f"{name}/{call}", shape, 1.0)
            case.forward(call, {}, {"video": video}, run_clips(model, {}), ("logits", "features"))
        case.write()


def pictures(g, shape, unit):
    """Pairs near each other, and the last, where there are more, twice the same."""
    a = torch.rand(shape, generator=g) if unit else 2 * torch.rand(shape, generator=g) - 1
    b = (a + 0.3 * torch.randn(shape, generator=g)).clamp(0 if unit else -1, 1)
    if shape[0] > 1:
        b[-1] = a[-1]
    # A patch of one colour, where features may all be zero.
    b[0, :, :9, :9] = 0
    return {"in0": a, "in1": b}


def distances():
    unit = {"normalize": True}
    for name, net, calls, note in [
        ("option_lpips_alex", "alex", {"least": ((2, 3, 31, 31), {}), "unit": ((1, 3, 35, 47), unit)},
         "the smallest pictures that leave a cell, odd ones in [0, 1]; an equal pair"),
        ("option_lpips_vgg", "vgg", {"odd": ((1, 3, 37, 29), unit), "least": ((2, 3, 16, 17), {})},
         "odd pictures in [0, 1], and the smallest; an equal pair"),
        ("option_lpips_squeeze", "squeeze", {"odd": ((2, 3, 33, 38), unit), "least": ((1, 3, 17, 19), {})},
         "windows that reach over the edge; an equal pair; pictures in [0, 1]"),
    ]:
        # ReLU halves the power of what a filter sees.
        model, rules = drawn(distance(net), name, 500, math.sqrt(2))
        case = Recorder(name, "lpips", note)
        case.network(model, rules)
        for n, (call, (shape, args)) in enumerate(calls.items()):
            g = torch.Generator().manual_seed(71 + n)
            case.forward(call, args, pictures(g, shape, bool(args)), run_distance(model, args))
        case.write()


def towers():
    g = torch.Generator().manual_seed(81)
    small = TINY | dict(hidden_size=24, intermediate_size=40)
    pixels = lambda b, c, n: {"pixel_values": tensor(g, b, c, n, n)}
    for seed, name, kind, batches, options, note in [
        (82, "option_clip_vision_quick", CLIPVisionModelWithProjection, (1, 3),
         dict(hidden_act="quick_gelu", image_size=28, patch_size=14, num_attention_heads=3, num_hidden_layers=3,
              projection_dim=37, layer_norm_eps=1e-3),
         "quick GELU, four patches, three heads of eight channels, a projection to 37, another epsilon"),
        (83, "option_clip_vision_one_patch", CLIPVisionModelWithProjection, (5,),
         dict(hidden_act="gelu", image_size=6, patch_size=6, num_attention_heads=1, num_hidden_layers=1,
              projection_dim=50),
         "one patch, one head, one layer; GELU; a projection that is wider than the tower"),
        (84, "option_clip_vision_bare", CLIPVisionModel, (2,),
         dict(hidden_act="silu", image_size=20, patch_size=4, num_attention_heads=8, num_channels=1),
         "no projection, grey pictures, SiLU, heads of three channels"),
    ]:
        model = kind(CLIPVisionConfig(**(small | options)))
        calls = {f"b{b}": pixels(b, model.config.num_channels, model.config.image_size) for b in batches}
        clip_case(name, "clip_vision", note, model, calls, seed)


# ---- formulas ----


def formula_case(name, note, calls):
    """`calls`: name → (op, args, inputs)."""
    case = Recorder(name, "formulas", note)
    os.makedirs(os.path.join(OUT, name), exist_ok=True)
    case.components[""] = {"class": "none", "config": "config.json", "weights": {}}
    case.files["config.json"] = "{}"
    for call, (op, args, inputs) in calls.items():
        record = {"name": call, "op": op, "args": args, "inputs": {}, "outputs": {}}
        for key, value in inputs.items():
            case.inputs[f"{call}.{key}"] = value.contiguous()
            dtype = str(value.dtype).removeprefix("torch.")
            record["inputs"][key] = {"key": f"{call}.{key}", "shape": list(value.shape), "dtype": dtype}
        # A Fréchet distance is a difference of traces, and its error is theirs.
        spread = lambda v: v.double().var(0).sum().item() if len(v) > 1 else 0.0
        least = 1e-6 * sum(map(spread, inputs.values())) if op == "frechet" else 2e-8
        for key, value in FORMULAS[op](args, inputs).items():
            value = torch.from_numpy(np.atleast_1d(np.asarray(value)))
            case.expected[f"{call}.{key}"] = value
            rms = value.double().square().mean().sqrt().item()
            entry = {"key": f"{call}.{key}", "shape": list(value.shape)}
            if math.isfinite(rms):
                entry |= {"rms": rms, "atol_f32": max(case.floor * rms, least)}
            else:
                # The ratio of equal pictures.
                entry["exact"] = True
            record["outputs"][key] = entry
        case.calls.append(record)
    case.write()


def formulas():
    rng = np.random.default_rng(91)
    u8 = lambda v: torch.from_numpy(np.clip(np.rint(v), 0, 255).astype(np.uint8))
    noise = lambda h, w: rng.uniform(0, 255, (h, w, 3))
    ramp = lambda h, w: np.broadcast_to(np.linspace(0, 255, w)[None, :, None], (h, w, 3))
    near = lambda v, s: v + rng.normal(0, s, v.shape)
    flat = lambda h, w, *colour: np.broadcast_to(np.array(colour, dtype=float), (h, w, 3))
    grey = np.repeat(rng.uniform(0, 255, (19, 15, 1)), 3, 2)
    pair = lambda a, b: ("image", {}, {"a": u8(a), "b": u8(b)})
    same_one = noise(13, 17)
    formula_case("option_formulas_image", "pictures of one window, equal, flat, grey, of noise, and opposite", {
        "window": pair(noise(11, 11), noise(11, 11)),
        "narrow": pair(*(lambda v: (v, near(v, 9)))(ramp(29, 12))),
        "equal": pair(same_one, same_one),
        "flat": pair(flat(14, 12, 40, 90, 200), flat(14, 12, 41, 90, 190)),
        "black_and_white": pair(flat(12, 12, 0, 0, 0), flat(12, 12, 255, 255, 255)),
        "grey": pair(grey, near(grey, 3)),
        "noise": pair(noise(23, 31), noise(23, 31)),
        "negative": pair(ramp(16, 40), 255 - ramp(16, 40)),
        "one_step": pair(same_one, np.where(np.indices((13, 17)).sum(0)[..., None] == 0, same_one + 1, same_one)),
    })
    f32 = lambda v: torch.from_numpy(np.asarray(v, dtype=np.float32))
    rows = lambda n, d: rng.normal(size=(n, d))
    sets = lambda a, b: ("frechet", {}, {"f1": f32(a), "f2": f32(b)})
    base, axes = rows(30, 3), rows(3, 20)
    alike = rows(9, 6)
    ones, others = [*alike, alike[0], alike[1]], [*rows(9, 6), -7 * alike[0], 0 * alike[1]]
    note = "few rows, equal sets, planes in many dimensions, other scales, one column; cosines; clips of other sizes"
    formula_case("option_formulas_frechet", note, {
        "pair": sets(rows(2, 7), rows(2, 7) + 1),
        "single": sets(rows(1, 5), rows(1, 5)),
        "one_and_many": sets(rows(1, 5), rows(8, 5)),
        "uneven": sets(rows(3, 10), 2 * rows(40, 10)),
        "equal": sets(alike, alike),
        "equal_few": sets(alike[:4], alike[:4]),
        "plane": sets(base @ axes, rows(25, 3) @ axes + 0.5),
        "planes": sets(base @ axes, rows(25, 4) @ rows(4, 20)),
        "constant_columns": sets(rows(12, 8) * (np.arange(8) > 4), rows(15, 8) * (np.arange(8) < 6)),
        "large": sets(1000 * rows(20, 6) + 5000, 3000 * rows(25, 6) + 5000),
        "small": sets(1e-3 * rows(20, 6), 2e-3 * rows(25, 6)),
        "mixed": sets(rows(30, 8) * 10.0 ** np.arange(-4, 4), rows(30, 8) * 10.0 ** np.arange(-4, 4)),
        "column": sets(rows(10, 1), 3 * rows(12, 1) - 1),
        "cos": ("cosine", {}, {"e1": f32(ones), "e2": f32(others)}),
        "prep_tall": ("i3d_preprocess", {"resolution": 9}, {"video": f32(rng.uniform(size=(2, 3, 3, 23, 16)))}),
        "prep_larger": ("i3d_preprocess", {"resolution": 20}, {"video": f32(rng.uniform(size=(1, 3, 1, 7, 11)))}),
        "prep_square": ("i3d_preprocess", {"resolution": 8}, {"video": f32(rng.uniform(size=(1, 3, 2, 8, 8)))}),
    })


# ---- a proof of what is restated here ----


def prove(folder):
    far = 0
    for name in sorted(os.listdir(folder)):
        at = lambda *path: os.path.join(folder, name, *path)
        if not os.path.exists(at("case.json")):
            continue
        with open(at("case.json")) as f:
            case = json.load(f)
        if case["kind"] not in (*NETWORKS, "formulas"):
            continue
        inputs, expected = load_file(at("inputs.safetensors")), load_file(at("expected.safetensors"))
        model = None
        if case["kind"] in NETWORKS:
            make, runner = NETWORKS[case["kind"]]
            with open(at("config.json")) as f:
                model = make(**{k: v for k, v in json.load(f).items() if not k.startswith("_")}).eval()
            (file,) = set(case["components"][""]["weights"].values())
            weights = {k: v.float() for k, v in load_file(at(file)).items()}
            if case["components"][""].get("procedural"):
                with open(at("weights_spec.json")) as f:
                    weights |= {k: Rule.of(r).tensor() for k, r in json.load(f).items()}
            missing, unknown = model.load_state_dict(weights, strict=False)
            missing = [k for k in missing if not constant(k)]
            assert not missing and not unknown, (name, missing, unknown)
        for call in case["calls"]:
            given = {
                k: Rule.of(r["procedural"]).tensor() if r.get("procedural") else inputs[r["key"]]
                for k, r in call["inputs"].items()
            }
            with torch.no_grad():
                if model is None:
                    found = FORMULAS[call["op"]](call["args"], given)
                else:
                    found = runner(model, call["args"])(torch.float32, given)
            for key, entry in call["outputs"].items():
                want = expected.get(entry["key"] + ".f64", expected[entry["key"]]).double()
                value = torch.as_tensor(np.atleast_1d(found[key])).double()
                error = torch.where(value == want, 0.0, (value - want).abs()).max().item()
                bound = 0.0 if entry.get("exact") else entry["atol_f32"]
                far += not error <= bound
                mark = "" if error <= bound else "FAR"
                print(f"{name:<26} {call['name']:<16} {key:<28} {error:.2e} of {bound:.2e} {mark}".rstrip())
    print("all near" if far == 0 else f"{far} are too far")
    return far == 0


torch.set_num_threads(1)
if __name__ == "__main__":
    if sys.argv[1:2] == ["--prove"]:
        sys.exit(0 if prove(sys.argv[2]) else 1)
    torch.use_deterministic_algorithms(True)
    faces()
    clips()
    distances()
    towers()
    formulas()
