//! Arms, hands and head.

use super::Motion;
use crate::math::{TURN, degrees, mix, sin};
use crate::pose::{ArmPose, Pose};

/// What arms do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Gesture {
    Swing,
    Wave,
    WaveBoth,
    Cheer,
    Clap,
    Pump,
    Box,
    Point,
    HandsOnHips,
    Talk,
    Conduct,
    Fly,
}

const FIST: [f32; 5] = [0.75, 0.95, 0.95, 0.95, 0.95];
const FLAT: [f32; 5] = [0.05, 0.02, 0.02, 0.04, 0.06];
const POINTING: [f32; 5] = [0.6, 0.0, 0.9, 0.95, 0.95];
const VICTORY: [f32; 5] = [0.7, 0.02, 0.02, 0.92, 0.92];
const THUMB_UP: [f32; 5] = [0.0, 0.95, 0.95, 0.95, 0.95];
const EASE: [f32; 5] = [0.2, 0.22, 0.28, 0.32, 0.36];

/// An arm from degrees: to the front, to the side, about itself, elbow.
fn arm(raise: f32, spread: f32, twist: f32, elbow: f32) -> ArmPose {
    ArmPose {
        raise: degrees(raise),
        spread: degrees(spread),
        twist: degrees(twist),
        elbow: degrees(elbow),
        curl: EASE,
        ..ArmPose::default()
    }
}

impl Gesture {
    /// All of them.
    pub const ALL: [Gesture; 12] = [
        Gesture::Swing,
        Gesture::Wave,
        Gesture::WaveBoth,
        Gesture::Cheer,
        Gesture::Clap,
        Gesture::Pump,
        Gesture::Box,
        Gesture::Point,
        Gesture::HandsOnHips,
        Gesture::Talk,
        Gesture::Conduct,
        Gesture::Fly,
    ];

    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Gesture::Swing => "swing",
            Gesture::Wave => "wave",
            Gesture::WaveBoth => "wave both",
            Gesture::Cheer => "cheer",
            Gesture::Clap => "clap",
            Gesture::Pump => "pump",
            Gesture::Box => "box",
            Gesture::Point => "point",
            Gesture::HandsOnHips => "hands on hips",
            Gesture::Talk => "talk",
            Gesture::Conduct => "conduct",
            Gesture::Fly => "fly",
        }
    }

    /// Puts the arms of a pose, and its head, where the gesture has them.
    pub(super) fn apply(self, motion: &Motion, pose: &mut Pose, time: f32) {
        let leading = usize::from(motion.lead < 0.0);
        let swing = swing(motion, time);
        pose.arms = swing;
        let arms = [0, 1].map(|i| self.arm(motion, time, i, i == leading).unwrap_or(swing[i]));
        pose.arms = arms;
        if self == Gesture::Cheer {
            pose.head.x -= degrees(10.0);
        }
    }

    fn arm(self, motion: &Motion, time: f32, i: usize, leads: bool) -> Option<ArmPose> {
        // Arms have their own pace, near that of the legs.
        let cycle = time / (0.95 * motion.period).clamp(0.7, 1.5) + motion.drift[1];
        let beat = |shift: f32| sin(TURN * (cycle + shift));
        let other = if leads { 0.0 } else { 0.5 };
        let size = motion.size;
        Some(match self {
            Gesture::Wave if leads => waving(beat(0.0), beat(0.12), size),
            Gesture::WaveBoth => waving(beat(0.0) * if i == 0 { 1.0 } else { -1.0 }, beat(0.12), size),
            Gesture::Cheer => {
                let up = 0.5 + 0.5 * beat(0.0);
                let mut a = arm(0.0, mix(118.0, 158.0, up), 60.0, mix(62.0, 14.0, up));
                a.curl = if motion.drift[2] < 0.5 { FIST } else { FLAT };
                a.fan = 1.0;
                a
            }
            Gesture::Clap => {
                let apart = 0.5 + 0.5 * beat(0.0);
                let mut a = arm(46.0, mix(4.0, 26.0, apart), mix(-26.0, 4.0, apart), 80.0);
                a.curl = FLAT;
                a.pronate = degrees(10.0);
                a
            }
            Gesture::Pump => {
                let up = 0.5 + 0.5 * beat(other);
                let mut a = arm(mix(18.0, 96.0, up), mix(22.0, 40.0, up), 22.0, mix(108.0, 86.0, up));
                a.curl = FIST;
                a
            }
            Gesture::Box => {
                let hit = (beat(other) * 1.3).clamp(-0.2, 1.0).max(0.0);
                let mut a = arm(mix(34.0, 86.0, hit), mix(20.0, 4.0, hit), mix(-14.0, -4.0, hit), mix(132.0, 8.0, hit));
                a.pronate = degrees(70.0 * hit);
                a.curl = FIST;
                a
            }
            Gesture::Point if leads => {
                let mut a = arm(72.0 + 14.0 * beat(0.0), 22.0 + 26.0 * size * beat(0.3), 0.0, 14.0 + 10.0 * beat(0.5));
                a.pronate = degrees(40.0);
                a.curl = POINTING;
                a
            }
            Gesture::HandsOnHips => {
                let mut a = arm(-22.0, 47.0 + 3.0 * beat(0.0), -64.0, 97.0);
                a.wrist = degrees(-38.0);
                a.curl = [0.1, 0.25, 0.3, 0.3, 0.3];
                a
            }
            Gesture::Talk => {
                let shift = if leads { 0.0 } else { 0.3 };
                let mut a = arm(
                    26.0 + 12.0 * beat(shift),
                    18.0 + 8.0 * beat(shift + 0.2),
                    -8.0,
                    84.0 + 20.0 * beat(shift + 0.1),
                );
                a.pronate = degrees(-58.0 + 30.0 * beat(shift + 0.4));
                a.wrist = degrees(14.0 * beat(shift + 0.3));
                let shapes = [FLAT, VICTORY, THUMB_UP, FIST, POINTING];
                a.curl = shapes[(motion.drift[2] * 5.0) as usize % 5];
                a.fan = 0.7;
                a
            }
            Gesture::Conduct => {
                let shift = if i == 0 { 0.0 } else { 0.25 };
                let mut a = arm(
                    52.0 + 26.0 * beat(shift),
                    34.0 + 22.0 * size * beat(shift + 0.25),
                    12.0,
                    62.0 + 22.0 * beat(shift + 0.5),
                );
                a.pronate = degrees(50.0);
                a.wrist = degrees(22.0 * beat(shift + 0.15));
                a.fan = 0.6;
                a
            }
            Gesture::Fly => {
                let up = 0.5 + 0.5 * beat(0.0);
                let mut a = arm(0.0, mix(28.0, 128.0, up) * size.min(1.1), 8.0, mix(10.0, 20.0, 1.0 - up));
                a.wrist = degrees(-20.0 * beat(0.2));
                a.curl = FLAT;
                a.fan = 0.6;
                a
            }
            Gesture::Swing | Gesture::Wave | Gesture::Point => return None,
        })
    }
}

fn waving(beat: f32, late: f32, size: f32) -> ArmPose {
    let mut a = arm(4.0, 82.0 + 8.0 * beat, 86.0, 72.0 + 28.0 * size * beat);
    a.wave = degrees(18.0) * late;
    a.pronate = degrees(-58.0);
    a.curl = FLAT;
    a.fan = 0.9;
    a
}

/// Arms that swing against the legs, more where the motion is fast.
fn swing(motion: &Motion, time: f32) -> [ArmPose; 2] {
    let (reach, bent) = match motion.steps {
        super::Steps::Run => (44.0, 88.0),
        super::Steps::Walk => (26.0, 22.0),
        super::Steps::March => (34.0, 30.0),
        super::Steps::Turn | super::Steps::SideStep | super::Steps::Bounce => (15.0, 30.0),
        super::Steps::Squat => (0.0, 16.0),
        _ => (4.0, 14.0),
    };
    let cycle = motion.cycles(time);
    // The left arm is in front when the right leg is.
    [0.18, 0.68].map(|shift| {
        let beat = sin(TURN * (cycle + shift + 0.25));
        let mut a = arm(-reach * motion.size * beat + 0.12 * bent, 11.0, -6.0, bent - 0.3 * reach * beat);
        if motion.steps == super::Steps::Squat {
            // Arms come up in front for balance.
            let down = 0.5 - 0.5 * sin(TURN * (cycle + 0.25));
            a.raise = degrees(80.0) * down;
        }
        if motion.steps == super::Steps::Run {
            a.curl = [0.5, 0.7, 0.75, 0.75, 0.75];
        }
        a
    })
}
