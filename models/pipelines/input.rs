//! What an animation starts from.

use muybridge_runtime::HostTensor;

use super::control::ControlInput;
use crate::resize::Picture;

/// Pictures of the motion, of one kind: `pose`, or Champ's `depth`, `normal`, `semantic_map`, `dwpose`.
#[derive(Clone, Debug)]
pub struct Motion {
    /// The kind.
    pub kind: String,
    /// A picture for each frame, of any size.
    pub frames: Vec<Picture>,
}

/// Where a run that was interrupted goes on.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Steps that were taken.
    pub steps: usize,
    /// The latents after them, `[F,h,w,C]`, in f32.
    pub latents: HostTensor,
    /// Frames that were decoded after the last step.
    pub frames: usize,
}

/// What a run starts from.
#[derive(Clone, Debug)]
pub struct AnimateInput {
    /// The person.
    pub reference: Picture,
    /// The motion, of every kind that there is a guider for, or of some of them.
    pub motion: Vec<Motion>,
    /// The reference carried along the motion ([`crate::carry::carry`]), a picture for each frame: what the guider of the reference
    /// sees, where the components have one. Empty: it sees the reference itself, the same for every frame.
    pub carried: Vec<Picture>,
    /// What each ControlNet of the components follows, in their order.
    pub controls: Vec<ControlInput>,
    /// Noise `[F,h,w,C]` instead of that of the seed.
    pub latents: Option<HostTensor>,
    /// The steps that were taken already.
    pub resume: Option<Checkpoint>,
}

impl AnimateInput {
    /// A person and a motion, with nothing else given.
    pub fn new(reference: Picture, motion: Vec<Motion>) -> AnimateInput {
        AnimateInput { reference, motion, carried: Vec::new(), controls: Vec::new(), latents: None, resume: None }
    }
}
