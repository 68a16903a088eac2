//! How a person stands: joint angles and where the feet are, and the skeleton that follows from them.
//!
//! Arms, spine and head turn joint by joint; legs reach for their feet (two-bone inverse kinematics), so that a foot that is
//! put on the ground stays there. A person looks along z and has the left arm on the side of x.

use crate::identity::Build;
use crate::math::{Axes, Frame, Vec3, degrees, mix, sin_cos, vec3};

/// An arm: angles in radians, all 0 where it hangs at the side with the palm to the thigh.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArmPose {
    /// Swung to the front.
    pub raise: f32,
    /// Lifted to the side.
    pub spread: f32,
    /// Turned about itself: at a quarter turn a bent elbow points the lower arm up when the upper arm is lifted to the side.
    pub twist: f32,
    /// Bent at the elbow.
    pub elbow: f32,
    /// The lower arm turned about itself: palm down.
    pub pronate: f32,
    /// The hand bent to the palm.
    pub wrist: f32,
    /// The hand turned sideways, to the thumb.
    pub wave: f32,
    /// Fingers from the thumb to the little finger: 0 straight, 1 closed.
    pub curl: [f32; 5],
    /// Fingers apart: 0 to 1.
    pub fan: f32,
}

/// A foot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FootPose {
    /// The place of the ankle over the ground, in the world.
    pub at: Vec3,
    /// Where the toes point: 0 is along z.
    pub heading: f32,
    /// Toes down, about the ball of the foot.
    pub pitch: f32,
}

/// A whole pose.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pose {
    /// The pelvis over the ground; its height in lengths of straight legs (1 is upright).
    pub pelvis: Vec3,
    /// Where the pelvis faces: 0 is along z.
    pub heading: f32,
    /// The pelvis forward, turned, to the side.
    pub hips: Vec3,
    /// The spine forward, turned, to the side, against the pelvis.
    pub spine: Vec3,
    /// The head forward, turned, to the side, against the chest.
    pub head: Vec3,
    /// Left and right.
    pub arms: [ArmPose; 2],
    /// Left and right.
    pub feet: [FootPose; 2],
}

/// An arm in the world.
#[derive(Clone, Copy, Debug)]
pub struct Arm {
    /// At the shoulder: −y points to the elbow.
    pub upper: Frame,
    /// At the elbow: −y points to the wrist.
    pub lower: Frame,
    /// At the wrist: −y points to the finger tips, z to the thumb.
    pub hand: Frame,
    /// From the thumb: root, middle joint, joint near the tip, tip.
    pub fingers: [[Vec3; 4]; 5],
}

/// A leg in the world.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// At the hip: −y points to the knee.
    pub upper: Frame,
    /// At the knee: −y points to the ankle.
    pub lower: Frame,
    /// At the ankle: z points to the toes, y up.
    pub foot: Frame,
    /// Tip of the foot.
    pub toe: Vec3,
}

/// A body in the world.
#[derive(Clone, Copy, Debug)]
pub struct Skeleton {
    /// Between the hip joints.
    pub pelvis: Frame,
    /// At the waist.
    pub waist: Frame,
    /// Between the shoulder joints.
    pub chest: Frame,
    /// At the root of the neck.
    pub neck: Frame,
    /// In the middle of the head.
    pub head: Frame,
    /// Left and right.
    pub arms: [Arm; 2],
    /// Left and right.
    pub legs: [Leg; 2],
}

/// 1 for the left, −1 for the right.
pub fn side(i: usize) -> f32 {
    if i == 0 { 1.0 } else { -1.0 }
}

fn turned(v: Vec3) -> Axes {
    Axes::turn_y(v.y).then(Axes::turn_z(v.z)).then(Axes::turn_x(v.x))
}

impl Pose {
    /// Upright, feet apart by the hips, arms a little off the body.
    pub fn standing(build: &Build) -> Pose {
        let arm = ArmPose { spread: degrees(9.0), elbow: degrees(12.0), curl: [0.25; 5], ..ArmPose::default() };
        let foot = |i| FootPose {
            at: vec3(side(i) * build.hips * 1.15, 0.0, 0.0),
            heading: side(i) * degrees(9.0),
            pitch: 0.0,
        };
        Pose { pelvis: vec3(0.0, 1.0, 0.0), arms: [arm; 2], feet: [foot(0), foot(1)], ..Pose::default() }
    }

    /// `self` at 0, `other` at 1.
    pub fn mix(&self, other: &Pose, t: f32) -> Pose {
        Pose {
            pelvis: self.pelvis.mix(other.pelvis, t),
            heading: mix(self.heading, other.heading, t),
            hips: self.hips.mix(other.hips, t),
            spine: self.spine.mix(other.spine, t),
            head: self.head.mix(other.head, t),
            arms: [0, 1].map(|i| self.arms[i].mix(&other.arms[i], t)),
            feet: [0, 1].map(|i| self.feet[i].mix(&other.feet[i], t)),
        }
    }
}

impl ArmPose {
    /// `self` at 0, `other` at 1.
    pub fn mix(&self, other: &ArmPose, t: f32) -> ArmPose {
        ArmPose {
            raise: mix(self.raise, other.raise, t),
            spread: mix(self.spread, other.spread, t),
            twist: mix(self.twist, other.twist, t),
            elbow: mix(self.elbow, other.elbow, t),
            pronate: mix(self.pronate, other.pronate, t),
            wrist: mix(self.wrist, other.wrist, t),
            wave: mix(self.wave, other.wave, t),
            curl: [0, 1, 2, 3, 4].map(|i| mix(self.curl[i], other.curl[i], t)),
            fan: mix(self.fan, other.fan, t),
        }
    }

    /// Within what joints allow.
    fn limited(&self) -> ArmPose {
        let within = |v: f32, low: f32, high: f32| v.clamp(degrees(low), degrees(high));
        ArmPose {
            raise: within(self.raise, -55.0, 178.0),
            spread: within(self.spread, -20.0, 172.0),
            twist: within(self.twist, -90.0, 100.0),
            elbow: within(self.elbow, 0.0, 148.0),
            pronate: within(self.pronate, -90.0, 90.0),
            wrist: within(self.wrist, -65.0, 75.0),
            wave: within(self.wave, -30.0, 25.0),
            curl: self.curl.map(|c| c.clamp(-0.08, 1.0)),
            fan: self.fan.clamp(0.0, 1.0),
        }
    }
}

impl FootPose {
    fn mix(&self, other: &FootPose, t: f32) -> FootPose {
        FootPose {
            at: self.at.mix(other.at, t),
            heading: mix(self.heading, other.heading, t),
            pitch: mix(self.pitch, other.pitch, t),
        }
    }

    /// The ankle, and the foot's axes: the ball of the foot stays where it is while the heel comes up.
    fn frame(&self, build: &Build) -> Frame {
        let (s, c) = sin_cos(self.heading);
        let forward = vec3(s, 0.0, c);
        let flat = Axes { x: vec3(c, 0.0, -s), y: Vec3::UP, z: forward };
        let axes = flat.then(Axes::turn_x(self.pitch));
        let ball = vec3(0.0, -build.ankle, 0.62 * build.foot);
        let heel = vec3(0.0, -build.ankle, -0.22 * build.foot);
        // Toes down turn about the ball, toes up about the heel.
        let pivot = if self.pitch >= 0.0 { ball } else { heel };
        let rest = vec3(self.at.x, self.at.y + build.ankle, self.at.z);
        Frame { at: rest + flat.out(pivot) - axes.out(pivot), axes }
    }
}

impl Skeleton {
    /// The skeleton of a person in a pose.
    pub fn new(build: &Build, pose: &Pose) -> Skeleton {
        let feet = [0, 1].map(|i| pose.feet[i].frame(build));
        let legs_length = build.leg[0] + build.leg[1];
        let axes = Axes::turn_y(pose.heading).then(turned(pose.hips));
        let mut at = vec3(pose.pelvis.x, pose.pelvis.y * legs_length + build.ankle, pose.pelvis.z);
        // Both feet must be in reach: the pelvis sinks where a stride is long.
        for (i, foot) in feet.iter().enumerate() {
            let hip = at + axes.out(vec3(side(i) * build.hips, 0.0, 0.0));
            let (dx, dz) = (foot.at.x - hip.x, foot.at.z - hip.z);
            let reach = 0.992 * legs_length;
            let highest = (reach * reach - dx * dx - dz * dz).max(0.04).sqrt() + foot.at.y;
            at.y -= (hip.y - highest).max(0.0);
        }
        let pelvis = Frame { at, axes };
        let h = build.height;
        let third = turned(pose.spine * 0.5);
        let waist = Frame { at: pelvis.out(vec3(0.0, 0.085 * h, 0.0)), axes: axes.then(third) };
        let chest = Frame { at: waist.out(vec3(0.0, 0.215 * h, 0.0)), axes: waist.axes.then(third) };
        let neck =
            Frame { at: chest.out(vec3(0.0, 0.018 * h, -0.004 * h)), axes: chest.axes.then(turned(pose.head * 0.4)) };
        let rise = 0.045 * h + 0.95 * build.head;
        let base = neck.out(vec3(0.0, 0.5 * rise, 0.006 * h));
        let axes = neck.axes.then(turned(pose.head * 0.6));
        let head = Frame { at: base + axes.out(vec3(0.0, 0.5 * rise, 0.006 * h)), axes };
        Skeleton {
            pelvis,
            waist,
            chest,
            neck,
            head,
            arms: [0, 1].map(|i| Arm::new(build, &chest, &pose.arms[i].limited(), i)),
            legs: [0, 1].map(|i| Leg::new(build, &pelvis, feet[i], i)),
        }
    }
}

impl Arm {
    fn new(build: &Build, chest: &Frame, pose: &ArmPose, i: usize) -> Arm {
        let s = side(i);
        // A raised arm takes its shoulder along.
        let lift = 0.35 * (pose.spread.max(pose.raise) - 1.2).clamp(0.0, 1.6) * 0.05 * build.height;
        let shoulder = chest.out(vec3(s * (build.shoulders - 0.4 * lift), lift - 0.004 * build.height, 0.0));
        let turn = Axes::turn_z(s * pose.spread).then(Axes::turn_x(-pose.raise)).then(Axes::turn_y(s * pose.twist));
        let upper = Frame { at: shoulder, axes: chest.axes.then(turn) };
        let bend = Axes::turn_x(-pose.elbow).then(Axes::turn_y(s * pose.pronate));
        let lower = Frame { at: upper.out(vec3(0.0, -build.arm[0], 0.0)), axes: upper.axes.then(bend) };
        let bend = Axes::turn_z(-s * pose.wrist).then(Axes::turn_x(-pose.wave));
        let hand = Frame { at: lower.out(vec3(0.0, -build.arm[1], 0.0)), axes: lower.axes.then(bend) };
        Arm { upper, lower, hand, fingers: [0, 1, 2, 3, 4].map(|f| finger(build, &hand, pose, s, f)) }
    }
}

/// Joints of a finger. Lengths are shares of the hand's.
fn finger(build: &Build, hand: &Frame, pose: &ArmPose, s: f32, f: usize) -> [Vec3; 4] {
    let l = build.hand;
    let curl = pose.curl[f];
    // Root, direction to the thumb's side, length.
    let (root, fan, length) = match f {
        0 => (vec3(-0.06 * s, -0.16, 0.16), 0.95 + 0.25 * pose.fan, 0.42),
        1 => (vec3(0.0, -0.50, 0.165), 0.03 + 0.22 * pose.fan, 0.44),
        2 => (vec3(0.0, -0.53, 0.055), 0.07 * pose.fan, 0.48),
        3 => (vec3(0.0, -0.51, -0.055), -0.02 - 0.1 * pose.fan, 0.44),
        _ => (vec3(0.0, -0.46, -0.155), -0.06 - 0.28 * pose.fan, 0.36),
    };
    let mut joints = [hand.out(root * l); 4];
    let mut axes = hand.axes.then(Axes::turn_x(-fan));
    let shares = if f == 0 { [0.42, 0.32, 0.26] } else { [0.44, 0.31, 0.25] };
    let bends = if f == 0 { [0.55, 0.7, 0.7] } else { [1.35, 1.65, 1.1] };
    for j in 0..3 {
        let thumb_in = if f == 0 { Axes::turn_x(0.5 * curl * shares[j]) } else { Axes::WORLD };
        axes = axes.then(Axes::turn_z(-s * curl * bends[j])).then(thumb_in);
        joints[j + 1] = joints[j] + axes.out(vec3(0.0, -l * length * shares[j], 0.0));
    }
    joints
}

impl Leg {
    fn new(build: &Build, pelvis: &Frame, foot: Frame, i: usize) -> Leg {
        let [a, b] = build.leg;
        let hip = pelvis.out(vec3(side(i) * build.hips, 0.0, 0.0));
        let v = foot.at - hip;
        let d = v.length().clamp((a - b).abs() + 0.12, (a + b) * 0.9995);
        let along = v.normalized();
        // The law of cosines gives how far along the knee is, and how far out.
        let x = (a * a - b * b + d * d) / (2.0 * d);
        let y = (a * a - x * x).max(0.0).sqrt();
        let flat = vec3(foot.axes.z.x, 0.0, foot.axes.z.z).normalized();
        let ahead = (pelvis.axes.z + flat * 1.4 + pelvis.axes.x * (0.12 * side(i))).normalized();
        let out = (ahead - along * ahead.dot(along)).normalized();
        let knee = hip + along * x + out * y;
        let ankle = hip + along * d;
        let upper = Axes::along(hip - knee, out);
        let lower = Axes::along(knee - ankle, out.mix(flat, 0.5));
        let foot = Frame { at: ankle, axes: foot.axes };
        Leg {
            upper: Frame { at: hip, axes: upper },
            lower: Frame { at: knee, axes: lower },
            foot,
            toe: foot.out(vec3(0.0, -0.75 * build.ankle, 0.76 * build.foot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn bones_keep_their_length_and_feet_their_place() {
        let build = Identity::new(7).build;
        let mut pose = Pose::standing(&build);
        pose.pelvis.y = 0.7;
        pose.feet[0].at = vec3(0.3, 0.0, 0.2);
        pose.arms[1] = ArmPose { raise: 1.0, spread: 0.5, twist: 0.3, elbow: 1.2, ..ArmPose::default() };
        let s = Skeleton::new(&build, &pose);
        for i in 0..2 {
            let (leg, arm) = (s.legs[i], s.arms[i]);
            assert!(((leg.upper.at - leg.lower.at).length() - build.leg[0]).abs() < 1e-4);
            assert!(((leg.lower.at - leg.foot.at).length() - build.leg[1]).abs() < 1e-4);
            assert!(((arm.upper.at - arm.lower.at).length() - build.arm[0]).abs() < 1e-4);
            assert!((leg.foot.at - pose.feet[i].at - vec3(0.0, build.ankle, 0.0)).length() < 1e-4);
        }
    }
}
