//! Where on the body each pixel is: normalised object coordinates (NOCS; Wang et al., 2019), those of a person who stands with arms and
//! legs spread. Two pictures of somebody show the same place where their coordinates are the same.

use crate::identity::{BottomCut, Build, Identity};
use crate::math::{Axes, Frame, Vec3, degrees, smoothstep, vec3};
use crate::pose::{ArmPose, FootPose, Pose, Skeleton, side};
use crate::shape::{Material, Part, Shape};

/// Heights of a person along each side of the cube of coordinates: spread arms must fit.
const CUBE: f32 = 1.3;

/// Coordinates of a person's surface.
pub struct Coordinates<'a> {
    who: &'a Identity,
    bones: &'a Skeleton,
    spread: Skeleton,
}

impl Coordinates<'_> {
    /// Of a person whose bones lie like this.
    pub fn new<'a>(who: &'a Identity, bones: &'a Skeleton) -> Coordinates<'a> {
        Coordinates { who, bones, spread: Skeleton::new(&who.build, &spread(&who.build)) }
    }

    /// Where a point on a shape lies in the cube, each coordinate in [0, 1]: x to the person's left, y up, z to the front.
    pub fn at(&self, shape: &Shape, p: Vec3) -> Vec3 {
        let skirt = shape.material == Material::Bottom && self.who.bottom_cut == BottomCut::Skirt;
        let q = match shape.part {
            Part::Chest => self.spread.pelvis.out(on_torso(&self.who.build, self.bones, p)),
            // Its cloth hangs from the hips, whatever the legs do.
            _ if skirt => self.spread.pelvis.out(self.bones.pelvis.local(p)),
            part => bone(&self.spread, part).out(bone(self.bones, part).local(p)),
        };
        q / (CUBE * self.who.build.height) + vec3(0.5, 0.05, 0.5)
    }
}

/// Arms straight to the sides, legs apart: no two parts touch.
fn spread(build: &Build) -> Pose {
    let arm = ArmPose { spread: degrees(85.0), ..ArmPose::default() };
    let foot = |i| {
        let at = vec3(side(i) * (build.hips + 0.1 * build.height), 0.0, 0.0);
        FootPose { at, ..FootPose::default() }
    };
    Pose { pelvis: vec3(0.0, 1.0, 0.0), arms: [arm; 2], feet: [foot(0), foot(1)], ..Pose::default() }
}

/// The frame that carries a part's cloth and skin.
fn bone(bones: &Skeleton, part: Part) -> Frame {
    let i = usize::from(matches!(
        part,
        Part::RightUpperArm
            | Part::RightForearm
            | Part::RightHand
            | Part::RightThigh
            | Part::RightCalf
            | Part::RightFoot
    ));
    let (arm, leg) = (&bones.arms[i], &bones.legs[i]);
    // Prints on limbs turn with the upper bone, as the shapes do that they are painted on.
    let lower = |from: Vec3, to: Vec3, upper: &Frame| Frame { at: from, axes: Axes::along(from - to, upper.axes.z) };
    match part {
        Part::Head => bones.head,
        Part::Neck => bones.neck,
        Part::Chest => bones.chest,
        Part::Hips => bones.pelvis,
        Part::LeftUpperArm | Part::RightUpperArm => arm.upper,
        Part::LeftForearm | Part::RightForearm => lower(arm.lower.at, arm.hand.at, &arm.upper),
        Part::LeftHand | Part::RightHand => arm.hand,
        Part::LeftThigh | Part::RightThigh => leg.upper,
        Part::LeftCalf | Part::RightCalf => lower(leg.lower.at, leg.foot.at, &leg.upper),
        Part::LeftFoot | Part::RightFoot => leg.foot,
    }
}

/// Place on the torso, as if the person stood upright: metres from the pelvis.
pub fn on_torso(build: &Build, bones: &Skeleton, p: Vec3) -> Vec3 {
    let h = build.height;
    let low = bones.pelvis.local(p);
    let high = bones.chest.local(p) + vec3(0.0, 0.30 * h, 0.0);
    low.mix(high, smoothstep(0.02 * h, 0.26 * h, low.y))
}
