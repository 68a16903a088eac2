//! What is animated: what the files say, and a synthetic person for what they do not.

use std::path::Path;

use muybridge::carry::carry;
use muybridge::loaders::{FrameRate, Frames, Guidance, Picture};
use muybridge::pipelines::{AnimateInput, Components, Motion};
use muybridge::resize::{Filter, Resize};

use super::Args;
use super::person::Person;
use crate::Failure;
use crate::table::tell;

/// The map that says where on the body each pixel is.
const NOCS: &str = "nocs";
/// Most frames of a motion: an animator takes no more.
const MOST_FRAMES: usize = 1 << 14;
/// Frames of a motion that the reference is carried along before they are made small.
const AT_A_TIME: usize = 4;

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
            Some(path) => read_motion(path, args, &kinds, size)?,
            None => (drawn()?.motion(&kinds), named_rate(Person::RATE)?),
        };
        let mut input = AnimateInput::new(reference, motion);
        if components.guided_by_reference() {
            let place = match &args.reference {
                Some(_) => args.reference_nocs.as_ref().map(Picture::open).transpose()?.map(Picture::rgb),
                None => Some(drawn()?.reference_nocs()),
            };
            input.carried = match (place, &args.motion) {
                (Some(place), Some(path)) if Guidance::has(path, NOCS) => {
                    carried(path, args, &input.reference, &place, size)?
                }
                (Some(place), None) => carry(&input.reference, &place, &drawn()?.nocs())?,
                (Some(_), Some(_)) if args.reference_nocs.is_some() => {
                    return Err(Failure("--reference-nocs: the motion has no pictures nocs".into()));
                }
                (None, Some(path)) if Guidance::has(path, NOCS) => {
                    tell!("{}: without --reference-nocs, its pictures nocs carry nothing along", path.display());
                    Vec::new()
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

/// Refuses a motion that is too long before any of it is read; how many frames of it are.
fn most_frames(path: &Path, args: &Args, count: Option<usize>) -> Result<usize, Failure> {
    let most = args.frames.unwrap_or(usize::MAX);
    match count.map(|count| count.min(most)) {
        Some(count) if count > MOST_FRAMES => {
            let path = path.display();
            Err(Failure(format!("{path}: {count} frames, where at most {MOST_FRAMES} are animated; see --frames")))
        }
        _ => Ok(most.min(MOST_FRAMES + 1)),
    }
}

/// A picture no larger than the video, as the animator would make it later: of a long motion not all pictures have room.
fn fit(picture: Picture, [width, height]: [usize; 2], filter: Filter) -> Result<Picture, Failure> {
    let picture = picture.rgb();
    let small = picture.width * picture.height <= width.saturating_mul(height);
    if small { Ok(picture) } else { Ok(picture.resize(width, height, filter)?) }
}

/// Pictures of every kind that the model reads, and their rate.
fn read_motion(
    path: &Path,
    args: &Args,
    kinds: &[String],
    size: [usize; 2],
) -> Result<(Vec<Motion>, FrameRate), Failure> {
    let named = named_rate(args.fps)?;
    if kinds.iter().any(|k| k == "pose") {
        let stream = Frames::open(path)?;
        let rate = stream.rate().unwrap_or(named);
        let most = most_frames(path, args, stream.frame_count())?;
        let frames = stream.take(most).map(|p| fit(p?, size, Filter::Lanczos)).collect::<Result<Vec<_>, _>>()?;
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
    let most = most_frames(path, args, stream.frame_count())?;
    let mut motion: Vec<Motion> = wanted.iter().map(|k| Motion { kind: k.to_string(), frames: Vec::new() }).collect();
    for pictures in stream.take(most) {
        for (motion, picture) in motion.iter_mut().zip(pictures?) {
            motion.frames.push(fit(picture, size, Filter::Bicubic)?);
        }
    }
    Ok((motion, rate))
}

/// The reference along the motion, by the pictures beside its frames of where on the body each pixel is.
fn carried(
    path: &Path,
    args: &Args,
    reference: &Picture,
    place: &Picture,
    size: [usize; 2],
) -> Result<Vec<Picture>, Failure> {
    let stream = Guidance::open(path, &[NOCS])?;
    let most = most_frames(path, args, stream.frame_count())?;
    let mut places = stream.take(most).map(|p| Ok(p?.remove(0)));
    let mut all = Vec::new();
    loop {
        let some = places.by_ref().take(AT_A_TIME).collect::<Result<Vec<_>, Failure>>()?;
        if some.is_empty() {
            return Ok(all);
        }
        for picture in carry(reference, place, &some)? {
            all.push(fit(picture, size, Filter::Bicubic)?);
        }
    }
}
