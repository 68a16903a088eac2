"""Do chosen synthetic clips help? Fine-tunes the small model on real clips, real + random synthetic ones and real + chosen ones, with
the same steps each, and compares them on held-out real clips. What is real and what is synthetic are two looks of one world.

Data, embeddings, choice, videos and scores are made by the engine; only the fine-tuning is PyTorch. Everything is kept in --work, and
the same command goes on where it stopped.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from batches import Batches, dropped, stratified
from common import Clips, Trainer, alphas_cumprod, noised
from latents import Latents
from networks import Animator, denoise
from sampling import load

CONDITIONS = ("real", "random", "chosen", "bottom")
DRAWS = 2000


class Subset:
    """Some clips of two sets, addressed as one."""

    def __init__(self, folder, parts):
        self.folder, self.places = Path(folder), [(clips, i) for clips, chosen in parts for i in chosen]
        self.frames = self.places[0][0].frames

    def __len__(self):
        return len(self.places)

    def get(self, name, clip, frame=None):
        clips, i = self.places[clip]
        return clips.get(name, i, frame)

    def take(self, name, clips, frames=None):
        pairs = zip(clips, frames) if frames is not None else ((c, None) for c in clips)
        return torch.from_numpy(np.stack([self.get(name, c, f) for c, f in pairs]))


def engine(args, *words):
    line = [str(args.muybridge), *map(str, words)]
    print("$ " + " ".join(line), flush=True)
    done = subprocess.run(line)
    if done.returncode not in (0, 1):  # 1: some clip was left out, which the report says
        raise SystemExit(f"{line[1]}: exit code {done.returncode}")


def lines(path):
    return [json.loads(line) for line in Path(path).open()]


def world(args, name, clips, look, split, seed):
    """The same clips as pictures, which the engine reads, and packed, which training reads; and a manifest of the pictures."""
    of = ["--clips", clips, "--frames", args.frames, "--size", args.pixels, "--look", look, "--split", split, "--seed", seed]
    folder = args.work / name
    engine(args, "synth", folder, *of)
    if split == "train":
        engine(args, "synth", args.work / f"{name}_packed", *of, "--packed", min(64, clips), "--maps", "normal,dwpose,depth,nocs")
    points = lambda who: [p[:2] for p in who["face"]["landmarks"]] if who["face"]["visible"] else None  # noqa: E731
    with (args.work / f"{name}.jsonl").open("w") as out:
        for line in lines(folder / "manifest.jsonl"):
            entry = dict(id=f"{name}-{line['clip']:05d}", path=f"{name}/{line['folder']}/frames")
            entry |= dict(reference=f"{name}/{line['folder']}/reference.png", reference_landmarks=points(line["reference"]))
            out.write(json.dumps(entry | dict(landmarks=[points(f) for f in line["frames"]])) + "\n")


def choose(args, seed):
    """Numbers of the synthetic clips of every condition; those of `random` differ from seed to seed."""
    out = args.work / f"selection_{seed}"
    rule = ["--cover", args.take] if args.rule == "cover" else ["--fraction", args.take / args.pool]
    tables = [args.work / f"{name}_embeddings" for name in ("real", "pool")]
    engine(args, "select", "--real", tables[0], "--synthetic", tables[1], "-o", out, "--seed", seed, *rule, "--device", args.device)
    manifest = lines(out / "manifest.jsonl")
    found = {k: sorted(int(m["id"].rsplit("-", 1)[1]) for m in manifest if m[k]) for k in ("random", "chosen", "bottom")}
    if len(found["chosen"]) != args.take:
        print(f"near-duplicates left {len(found['chosen'])} of {args.take}: the others are as many", flush=True)
    return {k: v[: len(found["chosen"])] for k, v in found.items()} | dict(real=[])


def finetune(args, name, seed, chosen):
    """Steps from the base weights on the real clips and the chosen ones; half of each where there are both."""
    out = args.work / f"run_{name}_{seed}"
    out.mkdir(exist_ok=True)
    for path in [args.base / "vae.pt", *args.base.glob("latents_*")]:
        if not (out / path.name).exists():
            (out / path.name).symlink_to(path.resolve())
    real, pool = Clips(args.work / "real_packed"), Clips(args.work / "pool_packed")
    # Real clips are repeated until they are as many as the synthetic ones, so that a batch is half of each.
    repeated = [i % len(real) for i in range(max(len(real), len(chosen)))]
    clips = Subset(f"{name}_{seed}", [(real, repeated), (pool, chosen)])
    run = argparse.Namespace(
        out=out, size=args.size, device="cpu", steps=args.steps, lr=args.lr, warmup=args.steps // 10, ema=0.99, seed=seed,
        threads=args.threads, save_every=120, sheet_every=10**9, stop_after=0, batch=args.batch, f32=False, begin=None,
    )
    model, stage = load(argparse.Namespace(out=args.base, size=args.size, device="cpu"))
    whole = Latents(argparse.Namespace(out=args.base, size=args.size, device="cpu"), Clips(args.train))
    latents = Latents(run, clips)
    latents.scale = whole.scale
    model.requires_grad_(True).train()
    moving = stage == "stage2"
    model.motion.requires_grad_(moving)
    trainer = Trainer(run, nn.ModuleDict(dict(animator=model)), stage)
    batches, table = Batches(clips, latents, "cpu"), alphas_cumprod()

    def loss_of(g):
        x0, z, seen, flat = batches.draw(g, args.batch, args.window, neighbours=moving)
        x, v, weight = noised(x0, torch.randn(x0.shape, generator=g), t := stratified(g, len(x0), args.window), table)
        plain = dropped(g, args.batch)
        context = model.context(seen.clip)
        context = torch.cat([torch.zeros_like(context[:plain]), context[plain:]])
        bank = model.bank(z[plain:], context[plain:]) if plain < args.batch else None
        each, pose = context.repeat_interleave(args.window, 0), model.pose(batches.guidance(flat), seen.carried)
        motion = (model.motion, args.window) if moving else ()
        return (weight * ((denoise(model.unet, x, t, each, pose, bank, plain * args.window, *motion) - v) ** 2).mean((1, 2, 3))).mean(), {}

    trainer.run(loss_of)
    if trainer.step < args.steps:
        raise SystemExit(f"{out}: stopped at step {trainer.step}; the same command goes on")
    words = ["--train", args.train, "--out", out, "--model", out / "model", "--size", args.size, "--limit", 10**9]
    subprocess.run([sys.executable, Path(__file__).with_name("export.py"), *map(str, words)], check=True)
    return out


def score(args, name, seed, out):
    """Videos of the held-out clips, and what `evaluate` says of them: the means of each clip."""
    made = out / "videos"
    made.mkdir(exist_ok=True)
    truth = lines(args.work / "test.jsonl")
    with (out / "videos.jsonl").open("w") as manifest:
        for clip in truth:
            source = (args.work / clip["path"]).parent
            if not (made / clip["id"]).exists():
                size = ["--size", f"{args.pixels}x{args.pixels}", "--frames", args.frames]
                engine(args, "animate", "--model", out / "model", "--reference", source / "reference.png", "--motion", source,
                       "--reference-nocs", source / "reference_nocs.png", "-o", made / clip["id"], *size, "--steps", args.sampling,
                       "--guidance", 1, "--seed", args.seed, "--device", args.device)
            paths = dict(path=f"videos/{clip['id']}", reference=str((args.work / clip["reference"]).resolve()))
            manifest.write(json.dumps(clip | paths) + "\n")
    extra = [w for k in ("lpips", "i3d", "faces", "tower") if (v := getattr(args, k)) for w in ("--clip" if k == "tower" else f"--{k}", v)]
    engine(args, "evaluate", args.work / "test.jsonl", out / "videos.jsonl", "-o", out / "scores", "--frames", args.frames,
           "--device", args.device, *extra)
    report = json.loads((out / "scores" / "report.json").read_text())
    fvd = (report["fvd"] or {}).get("distance")
    return dict(condition=name, seed=seed, fvd=fvd, clips={c["id"]: c["means"] for c in report["clips"] if not c["error"]})


def interval(draw, seed=0):
    """95 % of the draws of a statistic."""
    g = random.Random(seed)
    values = sorted(draw(g) for _ in range(DRAWS))
    return values[DRAWS * 25 // 1000], values[DRAWS * 975 // 1000 - 1]


def compare(runs, metric):
    """For each condition the mean over seeds and clips, and its difference from `real` on the same seeds and clips, with intervals of the
    bootstrap over both."""
    table = {}
    for run in runs:
        for clip, means in run["clips"].items():
            if metric in means:
                table.setdefault(run["condition"], {}).setdefault(run["seed"], {})[clip] = means[metric]
    rows = {}
    for name, seeds in table.items():
        base = table.get("real", {})
        shared = {s: [c for c in v if c in base.get(s, {})] for s, v in seeds.items() if s in base}
        shared = {s: c for s, c in shared.items() if c}

        def draw(g, value, of):
            picked = g.choices(sorted(of), k=len(of))
            return sum(sum(value(s, c) for c in g.choices(of[s], k=len(of[s]))) / len(of[s]) for s in picked) / len(picked)

        def mean(value, of):
            return sum(sum(value(s, c) for c in of[s]) / len(of[s]) for s in of) / len(of)

        own = {s: list(v) for s, v in seeds.items()}
        value = lambda s, c: seeds[s][c]  # noqa: E731
        change = lambda s, c: seeds[s][c] - base[s][c]  # noqa: E731
        rows[name] = dict(mean=mean(value, own), interval=interval(lambda g: draw(g, value, own)))
        if name != "real" and shared:
            rows[name] |= dict(difference=mean(change, shared), difference_interval=interval(lambda g: draw(g, change, shared)))
    return rows


def report(args, runs):
    metrics = sorted({m for run in runs for means in run["clips"].values() for m in means})
    found = {m: compare(runs, m) for m in metrics}
    fvd = {n: [r["fvd"] for r in runs if r["condition"] == n and r["fvd"] is not None] for n in CONDITIONS}
    options = {k: str(v) for k, v in vars(args).items()}
    (args.work / "results.json").write_text(json.dumps(dict(options=options, metrics=found, fvd_by_seed=fvd, runs=runs), indent=1))
    text = ["| metric | set | mean | 95 % | less real only | 95 % |", "|---|---|---|---|---|---|"]
    both = lambda v: f"{v[0]:.4f} .. {v[1]:.4f}"  # noqa: E731
    for m, rows in found.items():
        for n in (n for n in CONDITIONS if n in rows):
            r = rows[n]
            last = (f"{r['difference']:+.4f}", both(r["difference_interval"])) if "difference" in r else ("", "")
            text.append(f"| {m} | {n} | {r['mean']:.4f} | {both(r['interval'])} | {last[0]} | {last[1]} |")
    (args.work / "results.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    print(f"FVD by seed: {fvd}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--muybridge", type=Path, required=True, help="the engine's program")
    p.add_argument("--base", type=Path, required=True, help="folder of the base checkpoints (vae.pt, stage1.pt or stage2.pt)")
    p.add_argument("--train", type=Path, required=True, help="packed clips that the base was trained on, for the scale of its latents")
    p.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    p.add_argument("--tower", type=Path, required=True, help="CLIP picture tower for embeddings, such as the exported image_encoder")
    p.add_argument("--lpips", type=Path)
    p.add_argument("--i3d", type=Path)
    p.add_argument("--faces", type=Path)
    p.add_argument("--conditions", nargs="+", default=["real", "random", "chosen"], choices=CONDITIONS)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--real", type=int, default=48, help="real clips to fine-tune on")
    p.add_argument("--pool", type=int, default=512, help="synthetic clips to choose from")
    p.add_argument("--take", type=int, default=48, help="synthetic clips to add")
    p.add_argument("--rule", default="cover", choices=["cover", "fraction"])
    p.add_argument("--held-out", type=int, default=32, help="real clips to score on")
    p.add_argument("--frames", type=int, default=16)
    p.add_argument("--pixels", type=int, default=128)
    p.add_argument("--steps", type=int, default=400, help="of fine-tuning, the same for every condition")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--window", type=int, default=8, help="frames of each clip of a batch")
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--sampling", type=int, default=4, help="denoising steps of the videos")
    p.add_argument("--size", default="small", choices=["small", "tiny"])
    p.add_argument("--seed", type=int, default=1000, help="of the data and of the videos' noise")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="auto", help="of the engine")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    world(args, "real", args.real, "real", "train", args.seed)
    world(args, "pool", args.pool, "synthetic", "train", args.seed + 1)
    world(args, "test", args.held_out, "real", "test", args.seed + 2)
    for name in ("real", "pool"):
        engine(args, "embed", args.work / f"{name}.jsonl", "--clip", args.tower, "-o", args.work / f"{name}_embeddings", "--device", args.device)
    runs = []
    for seed in range(args.seeds):
        sets = choose(args, seed)
        for name in args.conditions:
            runs.append(score(args, name, seed, finetune(args, name, seed, sets[name])))
            report(args, runs)


if __name__ == "__main__":
    main()
