//! Arguments that several verbs read.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use muybridge::loaders::{Frames, Picture};
use muybridge::runtime::{DType, Device};

use crate::Failure;

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size(pub [usize; 2]);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let one = |part: &str| part.parse().ok().filter(|n| (8..=16_384).contains(n));
        let pair = text.split_once('x').and_then(|(w, h)| Some([one(w)?, one(h)?]));
        pair.map(Size).ok_or_else(|| format!("{text:?} is not of the form WxH, with numbers from 8 to 16384"))
    }
}

/// A ControlNet on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlArg {
    pub dir: PathBuf,
    pub file: PathBuf,
    pub scale: f32,
    pub range: [f32; 2],
}

impl FromStr for ControlArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ControlArg, String> {
        let bad = || format!("{text:?} is not of the form DIR:FILE, DIR:FILE:SCALE or DIR:FILE:SCALE:FROM-TO");
        let parts: Vec<&str> = text.split(':').collect();
        let (&[dir, file, ref more @ ..], true) = (&parts[..], parts.len() <= 4) else { return Err(bad()) };
        let number = |text: &str| text.parse::<f32>().ok().filter(|n| n.is_finite()).ok_or_else(bad);
        let scale = more.first().map_or(Ok(1.0), |s| number(s))?;
        let range = match more.get(1) {
            None => [0.0, 1.0],
            Some(range) => {
                let (from, to) = range.split_once('-').ok_or_else(bad)?;
                [number(from)?, number(to)?]
            }
        };
        if dir.is_empty() || file.is_empty() {
            return Err(bad());
        }
        Ok(ControlArg { dir: dir.into(), file: file.into(), scale, range })
    }
}

impl ControlArg {
    /// What it follows: the first `count` pictures of a video or a folder, or one picture for all frames. RGB.
    pub fn pictures(&self, count: usize) -> Result<Vec<Picture>, Failure> {
        let still = |e: &std::ffi::OsStr| ["png", "jpg", "jpeg"].iter().any(|name| e.eq_ignore_ascii_case(name));
        if self.file.extension().is_some_and(still) {
            return Ok(vec![self.picture()?]);
        }
        let frames = Frames::open(&self.file)?.take(count).map(|f| Ok(f?.over([0; 3])));
        let frames = frames.collect::<Result<Vec<_>, Failure>>()?;
        if frames.len() < count {
            let (file, found) = (self.file.display(), frames.len());
            return Err(Failure(format!("{file}: {found} frames, where {count} are to be made")));
        }
        Ok(frames)
    }

    /// The one picture that it follows. RGB.
    pub fn picture(&self) -> Result<Picture, Failure> {
        opaque(&self.file)
    }
}

/// A picture in RGB, over black where it is transparent.
pub fn opaque(file: &Path) -> Result<Picture, Failure> {
    Ok(Picture::open(file)?.over([0; 3]))
}

/// A LoRA on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg(pub PathBuf, pub f32);

impl FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraArg, String> {
        match text.rsplit_once(':') {
            Some((file, weight)) if !file.is_empty() => match weight.parse::<f32>() {
                Ok(weight) if weight.is_finite() => Ok(LoraArg(file.into(), weight)),
                _ => Err(format!("{text:?}: the weight after the colon is no number")),
            },
            _ => Ok(LoraArg(text.into(), 1.0)),
        }
    }
}

/// A number of bytes: `4.5G` is 4,500,000,000, `4Gi` is 2^32.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units =
        [("Ki", 1u64 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("K", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
    let bare = text.strip_suffix('B').unwrap_or(text);
    let found = units.iter().find_map(|(name, size)| Some((bare.strip_suffix(name)?, *size)));
    let (number, unit) = found.unwrap_or((bare, 1));
    let value = number.trim().parse::<f64>().ok().map(|n| n * unit as f64).filter(|n| (1.0..1e18).contains(n));
    value.map(|n| n as u64).ok_or_else(|| format!("{text:?} is no number of bytes, such as 4.5G or 800M"))
}

/// The dtype asked for, or the fastest that the device computes in without harm.
pub fn dtype_for(asked: Option<DType>, device: &Device) -> DType {
    let gpu = !device.name().starts_with("cpu");
    asked.unwrap_or(if gpu && device.caps().f16 { DType::F16 } else { DType::F32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_strictly() {
        assert_eq!("512x768".parse(), Ok(Size([512, 768])));
        let control: ControlArg = "net:pose.png:0.8:0.1-0.6".parse().unwrap();
        assert_eq!((control.scale, control.range), (0.8, [0.1, 0.6]));
        assert_eq!("net:pose.png".parse::<ControlArg>().unwrap().range, [0.0, 1.0]);
        assert_eq!("a.safetensors:0.5".parse(), Ok(LoraArg("a.safetensors".into(), 0.5)));
        assert_eq!("a.safetensors".parse(), Ok(LoraArg("a.safetensors".into(), 1.0)));
        for bad in ["", "512", "0x8", "512x", "x8", "512x768x3"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for bad in ["net", "net:", ":a", "net:a:b", "net:a:1:2", "net:a:1:0-1:9"] {
            assert!(bad.parse::<ControlArg>().is_err(), "{bad}");
        }
        assert!("a:b".parse::<LoraArg>().is_err());
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes("4.5G"), Ok(4_500_000_000));
        assert_eq!((bytes("800MB"), bytes("4Gi"), bytes("7")), (Ok(800_000_000), Ok(1 << 32), Ok(7)));
        assert!(["", "G", "-1G", "1T", "nan"].iter().all(|t| bytes(t).is_err()));
    }
}
