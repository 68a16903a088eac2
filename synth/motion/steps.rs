//! Legs, pelvis and spine.

use super::Motion;
use crate::identity::Build;
use crate::math::{TURN, clamp01, degrees, fract, mix, sin, sin_cos, smoothstep, vec3};
use crate::pose::{FootPose, Pose, side};

/// What legs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Steps {
    Idle,
    Walk,
    March,
    Run,
    SideStep,
    Squat,
    Turn,
    Bounce,
    Twist,
    Lunge,
}

impl Steps {
    /// All of them.
    pub const ALL: [Steps; 10] = [
        Steps::Idle,
        Steps::Walk,
        Steps::March,
        Steps::Run,
        Steps::SideStep,
        Steps::Squat,
        Steps::Turn,
        Steps::Bounce,
        Steps::Twist,
        Steps::Lunge,
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Steps::Idle => "stand",
            Steps::Walk => "walk",
            Steps::March => "march",
            Steps::Run => "run",
            Steps::SideStep => "side step",
            Steps::Squat => "squat",
            Steps::Turn => "turn",
            Steps::Bounce => "bounce",
            Steps::Twist => "twist",
            Steps::Lunge => "lunge",
        }
    }

    /// Whether arms usually swing with the legs.
    pub(super) fn is_walk(self) -> bool {
        matches!(self, Steps::Walk | Steps::March | Steps::Run)
    }

    /// Seconds of a cycle of two steps.
    pub(super) fn period(self) -> f32 {
        match self {
            Steps::Idle => 3.2,
            Steps::Walk | Steps::March => 1.15,
            Steps::Run => 0.74,
            Steps::SideStep => 2.1,
            Steps::Squat => 2.2,
            Steps::Turn => 1.25,
            Steps::Bounce => 0.95,
            Steps::Twist => 1.3,
            Steps::Lunge => 2.4,
        }
    }
}

/// How feet leave and reach the ground.
struct Gait {
    /// Share of a cycle that a foot is on the ground.
    stance: f32,
    /// How high a foot is lifted, in metres.
    lift: f32,
    /// How far the heel comes up before that, in radians.
    heel: f32,
    /// How far the toes are up when the foot lands.
    toes: f32,
    /// Distance between the tracks of the feet, in hip widths.
    width: f32,
}

/// Where the body is on the ground, and where it faces, at a time.
type Path<'a> = &'a dyn Fn(f32) -> (f32, f32, f32);

impl Gait {
    /// A foot that steps from print to print: it stands still while it is on the ground.
    fn foot(&self, motion: &Motion, build: &Build, path: Path<'_>, time: f32, i: usize) -> FootPose {
        let offset = if i == 0 { 0.0 } else { 0.5 };
        let cycle = motion.cycles(time) + offset;
        let (n, f) = (cycle.floor(), fract(cycle));
        // The body passes over a print in the middle of its stance.
        let print = |n: f32| {
            let (x, z, heading) = path((n + 0.5 * self.stance - offset - motion.phase) * motion.period);
            let (s, c) = sin_cos(heading);
            let out = side(i) * self.width * build.hips;
            FootPose { at: vec3(x + out * c, 0.0, z - out * s), heading: heading + side(i) * degrees(7.0), pitch: 0.0 }
        };
        if f < self.stance {
            let landing = 1.0 - clamp01(f / (0.22 * self.stance));
            let leaving = smoothstep(0.62 * self.stance, self.stance, f);
            return FootPose { pitch: self.heel * leaving - self.toes * landing, ..print(n) };
        }
        let s = (f - self.stance) / (1.0 - self.stance);
        let (from, to) = (print(n), print(n + 1.0));
        let mut foot = FootPose {
            at: from.at.mix(to.at, smoothstep(0.0, 1.0, s)),
            heading: mix(from.heading, to.heading, s),
            pitch: mix(self.heel, -self.toes, smoothstep(0.1, 1.0, s)),
        };
        foot.at.y = self.lift * sin(TURN * 0.5 * s) * (1.0 + 0.3 * sin(TURN * 0.5 * s));
        foot
    }
}

/// A pose without gestures.
pub(super) fn pose(motion: &Motion, build: &Build, time: f32) -> Pose {
    let mut pose = Pose::standing(build);
    pose.heading = motion.heading;
    let cycle = motion.cycles(time);
    let beat = |shift: f32| sin(TURN * (cycle + shift));
    match motion.steps {
        Steps::Walk | Steps::March | Steps::Run | Steps::Turn | Steps::SideStep => {
            stepping(motion, build, time, &mut pose)
        }
        _ => {
            let wide = match motion.steps {
                Steps::Squat => 1.9,
                Steps::Bounce | Steps::Twist => 1.5 + 0.3 * motion.size,
                _ => 1.15 + 0.3 * motion.drift[0],
            };
            stand(motion, build, wide, &mut pose);
        }
    }
    let size = motion.size;
    match motion.steps {
        Steps::Idle => {
            pose.pelvis.x += 0.035 * size * beat(0.0);
            pose.pelvis.y -= 0.012;
            pose.hips.z = degrees(3.0) * beat(0.0);
            pose.spine.z = -degrees(3.5) * beat(0.0);
        }
        Steps::Squat => {
            let down = size.min(1.1) * (0.5 - 0.5 * beat(0.25));
            pose.pelvis.y -= 0.44 * down;
            let (s, c) = sin_cos(pose.heading);
            pose.pelvis.x -= 0.11 * down * s;
            pose.pelvis.z -= 0.11 * down * c;
            pose.hips.x = degrees(32.0) * down;
            pose.spine.x = degrees(12.0) * down;
            pose.head.x = -degrees(26.0) * down;
        }
        Steps::Bounce => {
            pose.pelvis.y -= 0.045 + 0.045 * size * sin(2.0 * TURN * cycle);
            pose.pelvis.x += 0.06 * size * beat(0.0);
            pose.hips.z = degrees(8.0) * size * beat(0.0);
            pose.spine.z = -degrees(11.0) * size * beat(0.02);
            pose.spine.y = degrees(8.0) * size * beat(0.25);
            pose.head.z = degrees(6.0) * size * beat(0.1);
        }
        Steps::Twist => {
            pose.pelvis.y -= 0.07 + 0.02 * sin(2.0 * TURN * cycle);
            pose.hips.y = degrees(24.0) * size * beat(0.0);
            pose.spine.y = -degrees(34.0) * size * beat(0.0);
            pose.hips.z = degrees(4.0) * beat(0.2);
        }
        Steps::Lunge => lunge(motion, build, cycle, &mut pose),
        _ => {}
    }
    pose
}

/// Feet that stay where they are.
fn stand(motion: &Motion, build: &Build, wide: f32, pose: &mut Pose) {
    let (s, c) = sin_cos(motion.heading);
    for i in 0..2 {
        let out = side(i) * wide * build.hips;
        pose.feet[i].at = vec3(out * c, 0.0, -out * s);
        pose.feet[i].heading = motion.heading + side(i) * degrees(7.0 + 5.0 * wide);
    }
}

fn lunge(motion: &Motion, build: &Build, cycle: f32, pose: &mut Pose) {
    let i = usize::from(motion.lead < 0.0);
    let f = fract(cycle);
    // Out, stay, back, stay.
    let out = smoothstep(0.0, 0.22, f) - smoothstep(0.52, 0.76, f);
    let (s, c) = sin_cos(motion.heading);
    let stride = 0.36 * build.height * motion.size.min(1.1) * out;
    pose.feet[i].at.x += stride * s;
    pose.feet[i].at.z += stride * c;
    let moving =
        [(0.0, 0.22), (0.52, 0.76)].iter().map(|(a, b)| clamp01((f - a) / (b - a))).map(|u| sin(TURN * 0.5 * u));
    pose.feet[i].at.y += 0.09 * moving.sum::<f32>();
    pose.feet[1 - i].pitch = degrees(38.0) * out;
    pose.pelvis.x += 0.52 * stride * s;
    pose.pelvis.z += 0.52 * stride * c;
    pose.pelvis.y -= 0.26 * out;
    pose.hips.x = degrees(6.0) * out;
    pose.spine.x = degrees(5.0) * out;
}

fn stepping(motion: &Motion, build: &Build, time: f32, pose: &mut Pose) {
    let (size, lead, h) = (motion.size, motion.lead, build.height);
    let gait = match motion.steps {
        Steps::Run => Gait { stance: 0.40, lift: 0.15 * h * size, heel: degrees(55.0), toes: degrees(6.0), width: 0.5 },
        Steps::March => Gait { stance: 0.55, lift: 0.13 * h * size, heel: degrees(22.0), toes: 0.0, width: 1.0 },
        Steps::Walk => Gait { stance: 0.61, lift: 0.045 * h, heel: degrees(34.0), toes: degrees(16.0), width: 0.75 },
        _ => Gait { stance: 0.62, lift: 0.05 * h, heel: degrees(16.0), toes: 0.0, width: 1.15 },
    };
    let heading = motion.heading;
    let circle = |t: f32, radius: f32, speed: f32, at: f32| {
        // Round a circle whose middle is the middle of the picture.
        let angle = lead * speed * t / radius + at;
        let (s, c) = sin_cos(angle);
        (-lead * radius * c, lead * radius * s, angle)
    };
    let walk = |t: f32| circle(t, 0.34 * h, 0.58 * h * size, heading);
    let run = |t: f32| circle(t, 0.46 * h, 1.05 * h * size, heading);
    let turn = |t: f32| (0.0, 0.0, heading + lead * 1.15 * size * t);
    let to_and_fro = |t: f32| {
        let (s, c) = sin_cos(heading);
        let x = 0.19 * h * size * sin(TURN * 0.5 * (t / motion.period + motion.phase));
        (x * c, -x * s, heading)
    };
    let in_place = |_: f32| (0.0, 0.0, heading);
    // Some walk and run where they are, as on a treadmill.
    let treadmill = motion.drift[0] < 0.35;
    let path: Path<'_> = match motion.steps {
        Steps::Walk if !treadmill => &walk,
        Steps::Run if !treadmill => &run,
        Steps::Turn => &turn,
        Steps::SideStep => &to_and_fro,
        _ => &in_place,
    };
    let (x, z, facing) = path(time);
    pose.heading = facing;
    pose.pelvis = vec3(x, 0.985, z);
    pose.feet = [0, 1].map(|i| gait.foot(motion, build, path, time, i));
    let cycle = motion.cycles(time);
    let beat = |shift: f32| sin(TURN * (cycle + shift));
    // The pelvis turns with the leg that swings forward and drops on its side; the chest turns against it.
    let vigour = if motion.steps == Steps::Run { 1.6 } else { 1.0 } * size;
    pose.hips.y = degrees(6.0) * vigour * beat(0.2);
    pose.spine.y = -degrees(13.0) * vigour * beat(0.2);
    pose.hips.z = degrees(3.0) * vigour * beat(0.95);
    pose.spine.z = -degrees(3.5) * vigour * beat(0.95);
    match motion.steps {
        Steps::Run => {
            pose.pelvis.y = 0.955 + 0.035 * sin(2.0 * TURN * (cycle + 0.02));
            pose.hips.x = degrees(9.0);
            pose.spine.x = degrees(6.0);
            pose.head.x = -degrees(9.0);
        }
        Steps::Walk if treadmill => treadmill_feet(motion, build, time, pose),
        Steps::SideStep => {
            pose.pelvis.y -= 0.02;
            pose.spine.z += degrees(7.0) * size * sin(TURN * 0.5 * (cycle + 0.5));
        }
        _ => {}
    }
}

/// Walking where one is: the ground moves back under the feet.
fn treadmill_feet(motion: &Motion, build: &Build, time: f32, pose: &mut Pose) {
    let (s, c) = sin_cos(motion.heading);
    for i in 0..2 {
        let f = fract(motion.cycles(time) + if i == 0 { 0.0 } else { 0.5 });
        let stride = 0.33 * build.height * motion.size;
        let ahead = if f < 0.61 { 0.5 - f / 0.61 } else { smoothstep(0.61, 1.0, f) - 0.5 };
        pose.feet[i].at.x += stride * ahead * s;
        pose.feet[i].at.z += stride * ahead * c;
    }
}
