//! What a person does: a pose for every moment. A pure function of a number.
//!
//! A motion is steps (what legs, pelvis and spine do) and gestures (what arms, hands and head do). Gestures change from one to
//! another in the course of it. All is periodic in the tempo of the motion, with amplitudes and phases of its own.

mod gesture;
mod steps;

pub use gesture::Gesture;
pub use steps::Steps;

use crate::identity::Build;
use crate::math::{TURN, degrees, sin, smoothstep};
use crate::pose::Pose;
use crate::random::{Random, derive};

/// Which of two disjoint worlds something belongs to. Nothing of `Test` may be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// Held out.
    Test,
}

impl Split {
    /// The split of a name: `train` or `test`.
    pub fn named(name: &str) -> Option<Split> {
        match name {
            "train" => Some(Split::Train),
            "test" => Some(Split::Test),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
        }
    }
}

/// What a person does.
#[derive(Clone, Debug)]
pub struct Motion {
    /// The number it is made from.
    pub id: u64,
    /// What the legs do.
    pub steps: Steps,
    /// What the arms do, in turn.
    pub gestures: [Gesture; 2],
    /// Seconds of a cycle.
    pub period: f32,
    /// Where in a cycle it begins.
    pub phase: f32,
    /// How large: 1 on average.
    pub size: f32,
    /// Whether the person turns to the left (1) or to the right (−1), or leads with that side.
    pub lead: f32,
    /// Where the person faces in the beginning.
    pub heading: f32,
    /// When the gesture changes, in seconds.
    change: f32,
    /// Phases of slow movements.
    drift: [f32; 4],
    /// How the person looks round: amplitude.
    look: f32,
}

impl Motion {
    /// The motion of a number.
    pub fn new(id: u64) -> Motion {
        let r = &mut Random::new(derive(id, 0x0407));
        let steps = r.pick(&Steps::ALL);
        let gestures =
            [(); 2].map(|()| if steps.is_walk() && r.chance(0.5) { Gesture::Swing } else { r.pick(&Gesture::ALL) });
        let lead = if r.chance(0.5) { 1.0 } else { -1.0 };
        Motion {
            id,
            steps,
            gestures,
            period: steps.period() * r.range(0.85, 1.2),
            phase: r.unit(),
            size: r.range(0.75, 1.2),
            lead,
            heading: degrees(38.0) * r.bell() + if r.chance(0.06) { degrees(180.0) } else { 0.0 },
            change: r.range(0.4, 3.0),
            drift: [(); 4].map(|()| r.unit()),
            look: degrees(r.range(2.0, 16.0)),
        }
    }

    /// Which split the motion belongs to: that of its combination of steps and gestures, every fifth of which is held out.
    pub fn split(&self) -> Split {
        let held = |g: Gesture| (self.steps as usize * 3 + g as usize * 2).is_multiple_of(5);
        if self.gestures.iter().any(|g| held(*g)) { Split::Test } else { Split::Train }
    }

    /// The first motion of a split at or after a number.
    pub fn of_split(mut id: u64, split: Split) -> Motion {
        loop {
            let motion = Motion::new(id);
            if motion.split() == split {
                return motion;
            }
            id = id.wrapping_add(0x9E37_79B9);
        }
    }

    /// A few words: `walk, wave`.
    pub fn name(&self) -> String {
        let [a, b] = self.gestures.map(Gesture::name);
        if a == b { format!("{}, {a}", self.steps.name()) } else { format!("{}, {a} to {b}", self.steps.name()) }
    }

    /// Seconds to cycles.
    fn cycles(&self, time: f32) -> f32 {
        time / self.period + self.phase
    }

    /// A slow oscillation in −1 to 1.
    fn sway(&self, i: usize, time: f32, period: f32) -> f32 {
        sin(TURN * (time / period + self.drift[i]))
    }

    /// The pose of a body after so many seconds.
    pub fn pose(&self, build: &Build, time: f32) -> Pose {
        let mut pose = steps::pose(self, build, time);
        // Breath and balance: nobody is a statue.
        pose.spine.x += degrees(1.2) * self.sway(0, time, 3.4);
        pose.hips.z += degrees(0.8) * self.sway(1, time, 4.3);
        pose.head.y += self.look * self.sway(2, time, 4.1) - 0.35 * pose.spine.y;
        pose.head.x += degrees(4.0) * self.sway(3, time, 3.1);
        let mut other = pose;
        self.gestures[0].apply(self, &mut pose, time);
        if self.gestures[1] != self.gestures[0] {
            self.gestures[1].apply(self, &mut other, time);
            pose = pose.mix(&other, smoothstep(self.change, self.change + 0.7, time));
        }
        pose
    }

    /// The pose of a reference picture: facing the camera, at ease, with the arms in one of a few positions.
    pub fn reference(build: &Build, seed: u64) -> Pose {
        let r = &mut Random::new(derive(seed, 0x4EF));
        let mut pose = Pose::standing(build);
        pose.heading = degrees(14.0) * r.bell();
        pose.head.y = -0.5 * pose.heading;
        let open = r.unit();
        for arm in &mut pose.arms {
            arm.spread = degrees(12.0 + 38.0 * open);
            arm.elbow = degrees(r.range(5.0, 24.0));
            arm.fan = 0.5;
            arm.curl = [0.1, 0.08, 0.1, 0.12, 0.15];
        }
        pose
    }
}
