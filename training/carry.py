"""The reference carried along with the body: what it shows of each place of a person's surface, drawn where that place is in a frame.

Places are normalised object coordinates (NOCS; Wang et al., 2019) in three bytes, black where nobody is.
"""

import torch
from scipy.spatial import cKDTree

# How far two places may lie apart, in steps of a byte, and still be one: gaps between pixels close, hidden sides stay open.
REACH = 8


def carry(reference, place, places):
    """`reference [H,W,3]` with its coordinates `place [H,W,3]`, and the coordinates of frames `places [F,H,W,3]`, all bytes, to
    `[F,H,W,3]`. A pixel of the person takes the colour of the nearest place that the reference shows; one beside the person stays
    what it was there; and what the reference does not show, hidden sides and the wall behind its person, is black.
    """
    there, body = place.bool().any(-1), places.bool().any(-1)
    still = torch.where(there[..., None], 0, reference)
    out = still.expand(len(places), *still.shape).clone()
    if not there.any():
        out[body] = 0
        return out
    # The tree answers with one behind the last where nothing is near.
    colours = torch.cat([reference[there], torch.zeros(1, 3, dtype=reference.dtype)])
    _, nearest = cKDTree(place[there].numpy()).query(places[body].numpy(), distance_upper_bound=REACH + 1e-6)
    out[body] = colours[torch.from_numpy(nearest)]
    return out
