//! How a ControlNet steers: what it follows, how strongly, and when.

use crate::resize::Picture;

/// What a ControlNet beside the guiders of an animation follows.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlInput {
    /// A picture for each frame of the motion, RGB, or one for all.
    pub pictures: Vec<Picture>,
    /// Strength, 1 being as trained.
    pub scale: f32,
    /// Shares of the run at which it begins and ends, from 0 to 1.
    pub range: [f32; 2],
}

/// The strength of a ControlNet in step `i` of `steps`: none outside its range.
pub(super) fn strength(scale: f32, range: [f32; 2], i: usize, steps: usize) -> f32 {
    // In f32, so that a share like 0.2 is the same number from either side.
    let share = |i: usize| (i as f64 / steps as f64) as f32;
    let outside = share(i) < range[0] || share(i + 1) > range[1];
    if outside { 0.0 } else { scale }
}

/// Whether a strength is a number, and a range goes from one share of the run to a later one.
pub(super) fn sound(scale: f32, range: [f32; 2]) -> bool {
    let unit = |v: f32| (0.0..=1.0).contains(&v);
    scale.is_finite() && unit(range[0]) && unit(range[1]) && range[0] <= range[1]
}

/// Why a ControlNet is refused that is not [`sound`].
pub(super) const UNSOUND: &str =
    "a ControlNet's scale is no number, or its range does not go from one share of the run to a later one";
