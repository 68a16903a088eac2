"""The ControlNet: depth maps drive the trained model, beside its guiders or instead of them."""

import torch
from torch import nn

from batches import Batches, stratified
from common import Clips, Trainer, alphas_cumprod, arguments, noised, save_sheet
from latents import Latents
from networks import CONTROL, control_net, denoise
from sampling import load, truth


def main():
    p = arguments(__doc__, steps=800, batch=4, lr=5e-4, warmup=100, ema=0.998)
    p.add_argument("--frames", type=int, default=3, help="frames for each reference of a batch")
    p.add_argument("--test", type=__import__("pathlib").Path, help="held-out clips for the contact sheets")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    clips = Clips(args.data)
    latents = Latents(args, clips)
    held = Clips(args.test) if args.test else clips
    model, _ = load(args, ("stage1",))
    net = control_net(args.size, model.unet).to(args.device)
    trainer = Trainer(args, nn.ModuleDict(dict(controlnet=net)), "controlnet")
    batches, table = Batches(clips, latents, args.device), alphas_cumprod()

    def control(x, t, context, picture):
        out = net(x, t, context, picture, return_dict=False)
        return out[0], out[1]

    def loss_of(g):
        x0, z, seen, flat = batches.draw(g, args.batch, args.frames, neighbours=False)
        noise = torch.randn(x0.shape, generator=g).to(args.device)
        t = stratified(g, len(x0), 1)
        x, v, weight = noised(x0, noise, t, table)
        with torch.no_grad():
            context = model.context(seen.clip)
            bank = model.bank(z, context)
            # Most of the time the guiders are silent: then the control must do all.
            pose = model.pose(batches.guidance(flat), seen.carried) if torch.rand(1, generator=g) < 0.3 else None
        each = context.repeat_interleave(args.frames, 0)
        residuals = control(x, t.to(args.device), each, batches.guidance(flat, [CONTROL])[CONTROL])
        out = denoise(model.unet, x, t.to(args.device), each, pose, bank, residuals=residuals)
        error = ((out - v) ** 2).mean((1, 2, 3))
        return (weight.to(args.device) * error).mean(), {}

    def sheet(step):
        from common import clip_pixels, ddim, pixels

        rows = []
        for i in range(min(4, len(held))):
            reference, _, frames = truth(held, i)
            k = [0, len(frames) // 2]
            picture = pixels(torch.from_numpy(held.get(CONTROL, i)[k])).to(args.device)
            seen = torch.from_numpy(held.get("reference", i).copy())[None]
            e = model.context(clip_pixels(seen).to(args.device))
            z = latents.vae.encode(pixels(seen).to(args.device) * 2 - 1).latent_dist.mode() * latents.scale
            bank, each = model.bank(z, e), e.expand(len(k), -1, -1)

            def predict(x, t, each=each, bank=bank, picture=picture):
                t = torch.tensor([t], device=args.device)
                return denoise(model.unet, x, t, each, bank=bank, residuals=control(x, t, each, picture))

            noise = torch.randn(len(k), *z.shape[1:], generator=torch.Generator().manual_seed(i)).to(args.device)
            made = latents.decode(ddim(predict, noise, table, 10)).cpu()
            rows.append([reference] + [p[j] for j in range(len(k)) for p in (picture.cpu(), made, frames[k])])
        save_sheet(args.out / f"controlnet_{step:06d}.png", rows)

    trainer.run(loss_of, sheet)


if __name__ == "__main__":
    main()
