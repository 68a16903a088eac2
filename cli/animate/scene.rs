//! What is animated: what the files say, and a synthetic person for what they do not.

use std::path::Path;

use muybridge::carry::carry;
use muybridge::loaders::{FrameRate, Frames, Guidance, Picture};
use muybridge::pipelines::{AnimateInput, Components, Motion};

use super::Args;
use super::person::Person;
use crate::Failure;

/// The map that says where on the body each pixel is.
const NOCS: &str = "nocs";

/// What is animated.
pub struct Scene {
    pub input: AnimateInput,
    pub rate: FrameRate,
    /// What the video should be, where that is known.
    pub truth: Option<Vec<Picture>>,
}

impl Scene {
    /// What the options ask for; of a synthetic motion so many frames.
    pub fn of(args: &Args, components: &Components, size: [usize; 2], frames: usize) -> Result<Scene, Failure> {
        let kinds = components.kinds();
        let synthetic = args.reference.is_none() || args.motion.is_none();
        let person = synthetic.then(|| Person::draw(args.person, size, frames)).transpose()?;
        let drawn = || person.as_ref().ok_or_else(|| Failure("neither given nor drawn".into()));
        let reference = match &args.reference {
            Some(file) => Picture::open(file)?,
            None => drawn()?.reference(),
        };
        let (motion, rate) = match &args.motion {
            Some(path) => read_motion(path, args, &kinds)?,
            None => (drawn()?.motion(&kinds), named_rate(Person::RATE)?),
        };
        let mut input = AnimateInput::new(reference, motion);
        if components.guided_by_reference() {
            let place = match &args.reference {
                Some(_) => args.reference_nocs.as_ref().map(Picture::open).transpose()?.map(Picture::rgb),
                None => Some(drawn()?.reference_nocs()),
            };
            let places = match &args.motion {
                Some(path) => read_places(path, args)?,
                None => Some(drawn()?.nocs()),
            };
            input.carried = match (place, places) {
                (Some(place), Some(places)) => carry(&input.reference, &place, &places)?,
                (Some(_), None) if args.reference_nocs.is_some() => {
                    return Err(Failure("--reference-nocs: the motion has no pictures nocs".into()));
                }
                _ => Vec::new(),
            };
        } else if args.reference_nocs.is_some() {
            return Err(Failure("--reference-nocs: the model has no guidance_encoder_reference to see it with".into()));
        }
        // Frames between frames have no truth.
        let known = args.reference.is_none() && args.motion.is_none() && args.interpolate <= 1;
        let truth = person.filter(|_| known).map(|person| person.truth());
        Ok(Scene { input, rate, truth })
    }
}

fn named_rate(fps: u32) -> Result<FrameRate, Failure> {
    FrameRate::new(fps, 1).ok_or_else(|| Failure(format!("--fps {fps}: no such rate")))
}

/// Pictures of every kind that the model reads, and their rate.
fn read_motion(path: &Path, args: &Args, kinds: &[String]) -> Result<(Vec<Motion>, FrameRate), Failure> {
    let most = args.frames.unwrap_or(usize::MAX);
    let named = named_rate(args.fps)?;
    if kinds.iter().any(|k| k == "pose") {
        let stream = Frames::open(path)?;
        let rate = stream.rate().unwrap_or(named);
        let frames = stream.take(most).collect::<Result<Vec<_>, _>>()?;
        return Ok((vec![Motion { kind: "pose".into(), frames }], rate));
    }
    let there: Vec<String> = Guidance::open(path, &[] as &[&str])?.types().to_vec();
    let wanted: Vec<&String> = kinds.iter().filter(|k| there.contains(k)).collect();
    if wanted.is_empty() {
        let (has, reads) = (there.join(", "), kinds.join(", "));
        return Err(Failure(format!("{}: has {has}, where the model reads {reads}", path.display())));
    }
    let stream = Guidance::open(path, &wanted)?;
    let rate = stream.rate().unwrap_or(named);
    let mut motion: Vec<Motion> = wanted.iter().map(|k| Motion { kind: k.to_string(), frames: Vec::new() }).collect();
    for pictures in stream.take(most) {
        motion.iter_mut().zip(pictures?).for_each(|(m, picture)| m.frames.push(picture));
    }
    Ok((motion, rate))
}

/// Where on the body each pixel of the motion's frames is, if that is beside them.
fn read_places(path: &Path, args: &Args) -> Result<Option<Vec<Picture>>, Failure> {
    if !Guidance::has(path, NOCS) {
        return Ok(None);
    }
    let pictures = Guidance::open(path, &[NOCS])?.take(args.frames.unwrap_or(usize::MAX));
    Ok(Some(pictures.map(|p| Ok(p?.remove(0))).collect::<Result<_, Failure>>()?))
}
