//! A reference carried along a motion: what it shows of each place of a person's surface, drawn where that place is in a frame.
//!
//! Places are normalised object coordinates (NOCS; Wang et al., 2019) in the bytes of a picture, black where nobody is. What the
//! reference cannot show is left black, for the networks to draw: hidden sides, and what stands behind its person.

use crate::error::{Error, Result};
use crate::resize::{Filter, Picture, Resize};

const MODEL: &str = "carry";
/// How far two places may lie apart, in steps of a byte, and still be one: gaps between pixels close, hidden sides stay open.
/// Training has the same number.
const REACH: usize = 8;
/// Cells along each side of the cube of places, so wide that a place within reach lies in a neighbouring one.
const CELLS: usize = 256 / REACH;

/// The reference along the frames of a motion, from the coordinates of both: a picture for each frame, of the size of its
/// coordinates. A pixel of the person takes the colour of the nearest place that the reference shows; beside the person stays what
/// was there.
///
/// # Errors
/// Pictures without three channels, or that cannot be resized to each other.
pub fn carry(reference: &Picture, place: &Picture, frames: &[Picture]) -> Result<Vec<Picture>> {
    let shown = reference.clone().rgb().resize(place.width, place.height, Filter::Lanczos)?;
    let places = Places::new(&coordinates(place)?);
    frames.iter().map(|frame| places.draw(&shown, place, frame)).collect()
}

/// Places that the reference shows, sorted by cells.
struct Places {
    /// Where in `pixels` the places of each cell begin; one more than there are cells.
    starts: Vec<usize>,
    /// Coordinates, and which pixel of the reference shows them.
    pixels: Vec<([u8; 3], usize)>,
}

impl Places {
    fn new(places: &[[u8; 3]]) -> Places {
        let mut pixels: Vec<_> = places.iter().copied().zip(0..).filter(|(p, _)| is_place(p)).collect();
        pixels.sort_by_key(|(p, i)| (cell_of(p), *i));
        let mut starts = vec![0; CELLS.pow(3) + 1];
        pixels.iter().for_each(|(p, _)| starts[cell_of(p) + 1] += 1);
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        Places { starts, pixels }
    }

    /// The pixel that shows the nearest place within reach; of several the first.
    fn nearest(&self, at: &[u8; 3]) -> Option<usize> {
        let [xs, ys, zs] = at.map(|c| {
            let c = usize::from(c) / REACH;
            c.saturating_sub(1)..=(c + 1).min(CELLS - 1)
        });
        let rows = xs.flat_map(|x| ys.clone().map(move |y| (x, y)));
        let cells = rows.map(|(x, y)| self.starts[cell([x, y, *zs.start()])]..self.starts[cell([x, y, *zs.end()]) + 1]);
        let near = cells.flat_map(|row| &self.pixels[row]).map(|(place, i)| (square(place, at), *i)).min()?;
        (near.0 <= REACH * REACH).then_some(near.1)
    }

    fn draw(&self, shown: &Picture, place: &Picture, frame: &Picture) -> Result<Picture> {
        let (width, height) = (frame.width, frame.height);
        let still = shown.resize(width, height, Filter::Lanczos)?;
        let person = coordinates(&place.resize(width, height, Filter::Nearest)?)?;
        let colours = shown.pixels.as_chunks::<3>().0;
        let each = coordinates(frame)?.into_iter().zip(&person).zip(still.pixels.as_chunks::<3>().0);
        let pixels = each.flat_map(|((at, was), colour)| match (is_place(&at), is_place(was)) {
            (true, _) => self.nearest(&at).map_or([0; 3], |i| colours[i]),
            (false, true) => [0; 3],
            (false, false) => *colour,
        });
        Ok(Picture { width, height, channels: 3, pixels: pixels.collect() })
    }
}

fn cell([x, y, z]: [usize; 3]) -> usize {
    (x * CELLS + y) * CELLS + z
}

fn cell_of(place: &[u8; 3]) -> usize {
    cell(place.map(|c| usize::from(c) / REACH))
}

fn square(a: &[u8; 3], b: &[u8; 3]) -> usize {
    a.iter().zip(b).map(|(a, b)| usize::from(a.abs_diff(*b)).pow(2)).sum()
}

fn is_place(bytes: &[u8; 3]) -> bool {
    *bytes != [0; 3]
}

fn coordinates(picture: &Picture) -> Result<Vec<[u8; 3]>> {
    let Picture { width, height, channels, pixels } = picture;
    if *channels != 3 || width.checked_mul(*height).and_then(|n| n.checked_mul(3)) != Some(pixels.len()) {
        let reason = format!("coordinates of {channels} channels, {} bytes for {width} x {height}", pixels.len());
        return Err(Error::call(MODEL, reason));
    }
    Ok(pixels.as_chunks().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, pixels: &[[u8; 3]]) -> Picture {
        Picture { width, height: pixels.len() / width, channels: 3, pixels: pixels.concat() }
    }

    #[test]
    fn colours_move_with_their_places() -> Result<()> {
        let (red, blue, wall) = ([200, 0, 0], [0, 0, 200], [90, 90, 90]);
        let (chest, hip, back) = ([128, 180, 140], [128, 140, 140], [128, 180, 90]);
        let none = [0; 3];
        let reference = picture(4, &[red, blue, wall, wall]);
        let place = picture(4, &[chest, hip, none, none]);
        // The chest one pixel on and a little off, the hip where the wall was, a back that nobody saw.
        let moved = picture(4, &[none, [126, 181, 143], hip, back]);
        let made = carry(&reference, &place, &[moved.clone(), place.clone()])?;
        assert_eq!(made[0], picture(4, &[none, red, blue, none]));
        assert_eq!(made[1], reference, "what does not move stays");
        // Nobody in the reference: nothing is known of the person, and all of the wall.
        let nobody = picture(4, &[none; 4]);
        assert_eq!(carry(&reference, &nobody, &[moved])?[0], picture(4, &[red, none, none, none]));
        Ok(())
    }

    /// Against every place of the reference, one by one.
    #[test]
    fn the_nearest_place_is_found() -> Result<()> {
        let mut seed = 1u32;
        let mut byte = |most: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16).checked_rem(most).map_or(0, |v| v as u8)
        };
        for most in [24, 64, 256] {
            let mut draw =
                || -> Vec<[u8; 3]> { (0..300).map(|_| [byte(most), byte(most), 255 - byte(most)]).collect() };
            let (colours, places, wanted) = (draw(), draw(), draw());
            let made = carry(&picture(20, &colours), &picture(20, &places), &[picture(20, &wanted)])?;
            let mut found = 0;
            for (at, made) in wanted.iter().zip(made[0].pixels.as_chunks::<3>().0) {
                let nearest = places.iter().zip(&colours).min_by_key(|(p, _)| square(p, at));
                let expected = nearest.filter(|(p, _)| square(p, at) <= 64).map(|(_, c)| *c);
                assert_eq!(*made, expected.unwrap_or_default(), "at {at:?}, places of {most}");
                found += usize::from(expected.is_some());
            }
            assert!(found > 0, "places of {most}");
        }
        Ok(())
    }

    #[test]
    fn sizes_may_differ() -> Result<()> {
        let reference = picture(8, &[[50, 100, 150]; 64]);
        let place = picture(4, &[[10, 20, 30]; 16]);
        let made = carry(&reference, &place, &[picture(2, &[[11, 20, 30]; 6])])?;
        assert_eq!(made, [picture(2, &[[50, 100, 150]; 6])]);
        let grey = Picture { channels: 1, pixels: vec![0; 16], ..place.clone() };
        assert!(carry(&reference, &place, &[grey]).is_err());
        assert!(carry(&reference, &Picture { height: 5, ..place.clone() }, &[place]).is_err());
        Ok(())
    }
}
