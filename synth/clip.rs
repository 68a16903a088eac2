//! Clips: a person, a motion and a scene, and frames of them.

use rayon::prelude::*;

use crate::draw::dwpose;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::landmarks::Landmarks;
use crate::motion::{Motion, Split};
use crate::pose::{Pose, Skeleton};
use crate::random::derive;
use crate::render::{Backdrop, Picture, Shot};
use crate::scene::{Camera, Look, Scene};

/// What clips are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipOptions {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames of a clip.
    pub frames: usize,
    /// Frames a second.
    pub rate: f32,
    /// The look; none where both take turns.
    pub look: Option<Look>,
    /// The split.
    pub split: Split,
    /// The seed of everything.
    pub seed: u64,
    /// How many persons there are; none where each clip has one of its own.
    pub identities: Option<usize>,
    /// Whether the camera of the real look sways and drifts. No map shows that it does, so nobody who is given the reference and the
    /// maps can tell where the background will be.
    pub moving_camera: bool,
}

impl Default for ClipOptions {
    fn default() -> ClipOptions {
        ClipOptions {
            width: 128,
            height: 128,
            frames: 16,
            rate: 12.0,
            look: Some(Look::Real),
            split: Split::Train,
            seed: 0,
            identities: None,
            moving_camera: false,
        }
    }
}

impl ClipOptions {
    /// Most pixels of all frames that are held at a time: six pictures of them take about 5 GB.
    pub const MOST_PIXELS: u64 = 1 << 28;

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`Error::Options`] with the option's name.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str, range: &str| Err(Error::Options(format!("{what} must be from {range}")));
        if !(16..=2048).contains(&self.width) || !(16..=2048).contains(&self.height) {
            return bad("width and height", "16 to 2048 pixels");
        }
        if !(1..=100_000).contains(&self.frames) {
            return bad("frames", "1 to 100000");
        }
        self.check_pixels(1)?;
        if !(1.0..=240.0).contains(&self.rate) {
            return bad("rate", "1 to 240 frames a second");
        }
        if self.identities == Some(0) {
            return bad("identities", "1");
        }
        Ok(())
    }

    /// Whether so many clips can be held at a time.
    pub(crate) fn check_pixels(&self, clips: usize) -> Result<()> {
        let ClipOptions { width, height, frames, .. } = *self;
        let pixels = [width, height, frames].iter().fold(clips as u64, |n, extent| n.saturating_mul(*extent as u64));
        if pixels <= ClipOptions::MOST_PIXELS {
            return Ok(());
        }
        let most = ClipOptions::MOST_PIXELS;
        let clips = if clips == 1 { "a clip".into() } else { format!("{clips} clips packed together") };
        Err(Error::Options(format!("{clips} of {frames} frames of {width}x{height} has more than {most} pixels")))
    }
}

/// Who does what, where, and seen how.
#[derive(Clone, Debug)]
pub struct Clip {
    /// Its number.
    pub index: u64,
    /// The person.
    pub identity: Identity,
    /// What the person does.
    pub motion: Motion,
    /// The look.
    pub look: Look,
    /// Seed of scene and noise.
    pub seed: u64,
    options: ClipOptions,
    scene: Scene,
    /// Seconds into the motion at the first frame.
    start: f32,
}

/// A frame's pictures, and what is true of it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The picture.
    pub colour: Picture,
    /// Normals towards the camera (x right, y up, z to the spectator) as `n/2 + 1/2`, on black.
    pub normal: Picture,
    /// Nearness within the frame, on black.
    pub depth: Picture,
    /// Parts of the body in the colours of [`crate::Part`].
    pub semantic_map: Picture,
    /// Places on the body, as colours: normalised object coordinates, x to the person's left, y up, z to the front, those of one
    /// who stands with arms and legs spread.
    pub nocs: Picture,
    /// The skeleton as DWPose's renderer draws it.
    pub dwpose: Picture,
    /// Points in pixels.
    pub landmarks: Landmarks,
}

impl Identity {
    /// Which split a person belongs to: every eighth is held out, by the person's own number.
    pub fn split(&self) -> Split {
        if derive(self.id, 0x5917).is_multiple_of(8) { Split::Test } else { Split::Train }
    }

    /// The `n`th person of a split.
    pub fn of_split(seed: u64, n: u64, split: Split) -> Identity {
        let mut k = 0x1D00;
        loop {
            let who = Identity::new(derive(derive(seed, n), k));
            if who.split() == split {
                return who;
            }
            k += 1;
        }
    }
}

impl Clip {
    /// The clip of a number.
    pub fn new(options: &ClipOptions, index: u64) -> Clip {
        let seed = derive(derive(options.seed, 0xC11F), index);
        let person = options.identities.map_or(index, |n| derive(seed, 1) % n as u64);
        let identity = Identity::of_split(options.seed, person, options.split);
        let motion = Motion::of_split(derive(seed, 2), options.split);
        let turn = if index.is_multiple_of(2) { Look::Real } else { Look::Synthetic };
        let look = options.look.unwrap_or(turn);
        let mut scene = Scene::new(derive(seed, 3), look, &identity);
        if !options.moving_camera {
            scene.hold_still();
        }
        let start = (derive(seed, 4) % 4096) as f32 / 4096.0 * 3.0;
        Clip { index, identity, motion, look, seed, options: options.clone(), scene, start }
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClipOptions {
        &self.options
    }

    fn time(&self, frame: usize) -> f32 {
        frame as f32 / self.options.rate
    }

    fn show(&self, pose: &Pose, camera: Camera, noise: u64, backdrop: Option<&Backdrop>) -> Frame {
        let bones = Skeleton::new(&self.identity.build, pose);
        let (width, height) = (self.options.width, self.options.height);
        let shot = Shot { who: &self.identity, bones: &bones, scene: &self.scene, camera, noise };
        let maps = match backdrop {
            Some(backdrop) => shot.render(backdrop),
            None => shot.render(&shot.backdrop(width, height)),
        };
        let landmarks = Landmarks::new(&self.identity, &bones, &camera, (width, height), &maps.distance);
        Frame {
            dwpose: dwpose(&landmarks, width, height),
            colour: maps.colour,
            normal: maps.normal,
            depth: maps.depth,
            semantic_map: maps.semantic_map,
            nocs: maps.nocs,
            landmarks,
        }
    }

    fn still_backdrop(&self) -> Option<Backdrop> {
        let bones = Skeleton::new(&self.identity.build, &Pose::standing(&self.identity.build));
        let camera = self.scene.camera(0.0);
        let shot = Shot { who: &self.identity, bones: &bones, scene: &self.scene, camera, noise: 0 };
        self.scene.is_still().then(|| shot.backdrop(self.options.width, self.options.height))
    }

    /// The reference picture: the person at ease, facing the camera, in the scene.
    pub fn reference(&self) -> Frame {
        self.reference_before(self.still_backdrop().as_ref())
    }

    fn reference_before(&self, backdrop: Option<&Backdrop>) -> Frame {
        let pose = Motion::reference(&self.identity.build, self.seed);
        self.show(&pose, self.scene.camera(0.0), derive(self.seed, 5), backdrop)
    }

    /// One frame.
    pub fn frame(&self, i: usize) -> Frame {
        self.frame_before(i, self.still_backdrop().as_ref())
    }

    fn frame_before(&self, i: usize, backdrop: Option<&Backdrop>) -> Frame {
        let time = self.time(i);
        let pose = self.motion.pose(&self.identity.build, self.start + time);
        self.show(&pose, self.scene.camera(time), derive(self.seed, 0x1000 + i as u64), backdrop)
    }

    /// The reference picture and all frames, in parallel.
    pub fn render(&self) -> (Frame, Vec<Frame>) {
        let backdrop = self.still_backdrop();
        let frames =
            || (0..self.options.frames).into_par_iter().map(|i| self.frame_before(i, backdrop.as_ref())).collect();
        rayon::join(|| self.reference_before(backdrop.as_ref()), frames)
    }
}
