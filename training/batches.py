"""Batches for the diffusion model: references, frames of the same person, guidance."""

import torch

from carry import carry
from common import clip_pixels, pixels
from networks import GUIDANCE


# How often a reference comes without coordinates: the model must do with the picture alone, too.
UNPLACED = 0.15


class Seen:
    """References as pictures: as the image encoder sees them `[B,3,224,224]`, and as they are carried along `[B*F,3,H,W]` in
    [0,1]."""

    def __init__(self, bytes_hwc, carried, device):
        self.clip, self.carried = clip_pixels(bytes_hwc).to(device), pixels(carried).to(device)


class Batches:
    """Draws clips and frames, and gathers what the networks read."""

    def __init__(self, clips, latents, device):
        self.clips, self.latents, self.device = clips, latents, device

    def draw(self, g, references, frames, neighbours):
        """`references` clips with `frames` of each: in a row if `neighbours`, anywhere else. `x0` `[B*F,4,h,w]`, reference latents
        `[B,4,h,w]`, the references as pictures, and which clips and frames they are."""
        n, length = len(self.clips), self.clips.frames
        which = torch.randint(n, (references,), generator=g).tolist()
        if neighbours:
            starts = torch.randint(length - frames + 1, (references,), generator=g).tolist()
            picked = [list(range(s, s + frames)) for s in starts]
        else:
            picked = [torch.randperm(length, generator=g)[:frames].tolist() for _ in which]
        flat = [(c, f) for c, fs in zip(which, picked) for f in fs]
        # Mostly the reference picture; sometimes another frame, so that backs and sides are learnt as references too.
        other = torch.randint(length, (references,), generator=g).tolist()
        own = torch.rand(references, generator=g) < 0.7
        z = self.latents.of_references(which)
        seen, place = self.clips.take("reference", which), self.clips.take("reference_nocs", which)
        for i in range(references):
            if not own[i]:
                z[i] = self.latents.of_frames([which[i]], [other[i]])[0]
                seen[i] = self.clips.take("frames", [which[i]], [other[i]])[0]
                place[i] = self.clips.take("nocs", [which[i]], [other[i]])[0]
        unplaced = torch.rand(references, generator=g) < UNPLACED
        carried = torch.cat([self.carried(*r) for r in zip(seen, place, which, picked, unplaced)])
        x0 = self.latents.of_frames([c for c, _ in flat], [f for _, f in flat])
        return x0.to(self.device), z.to(self.device), Seen(seen, carried, self.device), flat

    def carried(self, seen, place, clip, frames, unplaced):
        """A reference carried along the frames of a clip, or as it is for each of them."""
        if unplaced:
            return seen.expand(len(frames), *seen.shape)
        return carry(seen, place, self.clips.take("nocs", [clip] * len(frames), frames))

    def guidance(self, flat, names=GUIDANCE):
        """Pictures of the guidance `[N,3,H,W]` by name."""
        cs, fs = [c for c, _ in flat], [f for _, f in flat]
        return {name: pixels(self.clips.take(name, cs, fs)).to(self.device) for name in names}


def stratified(g, items, per_reference):
    """Timesteps spread evenly over the schedule, one for each item, or the same for all frames of a reference."""
    n = items // per_reference
    u = (torch.randperm(n, generator=g) + torch.rand(n, generator=g)) / n
    return (u * 1000).long().clamp(max=999).repeat_interleave(per_reference)


def dropped(g, references, probability=0.1):
    """How many references of a batch are left out, for guidance without a classifier: those come first in it."""
    return int((torch.rand(references, generator=g) < probability).sum())
