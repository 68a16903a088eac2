//! Arithmetic that algebra spares: what published implementations of reference-guided video compute at every step, and this
//! engine once per clip, or never.

use crate::stages::UnetShape;
use crate::unet::Unet;

/// Work of one step that is not done, in FLOP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spared {
    /// The unconditional half's attention with the reference's tokens behind its own, whose result is thrown away.
    pub discarded: u64,
    /// Keys and values of the reference, which are the same in every frame and step.
    pub reference_keys: u64,
    /// Cross-attention to a single token: a constant.
    pub single_token: u64,
}

impl Spared {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.discarded + self.reference_keys + self.single_token
    }
}

impl Unet {
    /// What a step of this shape spares against the published implementation.
    pub fn spared(&self, shape: &UnetShape) -> Spared {
        let mut spared = Spared::default();
        let c = &self.config().trunk;
        let tokens = |height: usize, width: usize, level: usize| {
            let [h, w] = [height, width].map(|n| (0..level).fold(n, |n, _| c.halved(n)));
            (h * w) as u64
        };
        let blocks = shape.reference.map_or_else(Default::default, |r| r.blocks);
        for (level, attention) in self.self_attentions(blocks) {
            let width = attention.width() as u64;
            let own = tokens(shape.height, shape.width, level);
            if let Some(r) = shape.reference {
                let reference = tokens(r.height, r.width, level);
                let maps = |clips: usize| (clips * shape.frames) as u64;
                let (without, with) = (maps(r.first_clip), maps(shape.batch.saturating_sub(r.first_clip)));
                // Queries, keys, values and the output of the own tokens; keys and values of the others.
                let linear = (8 * own + 4 * reference) * width * width;
                spared.discarded += without * (linear + 4 * own * (own + reference) * width);
                spared.reference_keys += with * 4 * reference * width * width;
            }
            if shape.context == 1 && !shape.mask {
                spared.single_token += shape.items() as u64 * 4 * own * width * (width + 1);
            }
        }
        spared
    }
}
