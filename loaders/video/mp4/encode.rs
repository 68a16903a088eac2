//! Writing H.264 to MP4.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate as Hertz, IntraFramePeriod, QpRange, RateControlMode,
    UsageType, VuiConfig,
};
use openh264::formats::YUVSlices;

use crate::error::{LoadError, Result};
use crate::partial::Partial;
use crate::picture::Picture;
use crate::video::mp4::colour::Planes;
use crate::video::mp4::write::{LENGTH_AT, Track, start};
use crate::video::rate::FrameRate;
use crate::video::writer::Sink;

/// How coarsely values are rounded, of 0 to 51: below what shows, at a few bits a pixel.
const COARSENESS: u8 = 16;

/// A video in the making.
pub(crate) struct Mp4Sink {
    path: PathBuf,
    partial: Partial,
    to: BufWriter<File>,
    encoder: Encoder,
    track: Track,
}

impl Mp4Sink {
    pub(crate) fn create(path: &Path, rate: FrameRate) -> Result<Mp4Sink> {
        let two_seconds = (2.0 * rate.as_f64()).round().max(1.0) as u32;
        let config = EncoderConfig::new()
            .usage_type(UsageType::CameraVideoRealTime)
            .complexity(Complexity::High)
            .rate_control_mode(RateControlMode::Bufferbased)
            .qp(QpRange::new(COARSENESS, COARSENESS))
            // The range above decides. The rate only chooses the level that the stream declares.
            .bitrate(BitRate::from_bps(50_000_000))
            .skip_frames(false)
            .adaptive_quantization(false)
            .background_detection(false)
            .scene_change_detect(false)
            .max_frame_rate(Hertz::from_hz(rate.as_f64() as f32))
            .intra_frame_period(IntraFramePeriod::from_num_frames(two_seconds))
            .num_threads(1)
            .vui(VuiConfig::bt601());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config);
        let encoder = encoder.map_err(|e| LoadError::video(path, format!("the encoder does not start: {e}")))?;
        let (partial, file) = Partial::file(path).map_err(LoadError::io(path))?;
        let mut to = BufWriter::new(file);
        let head = start();
        to.write_all(&head).map_err(LoadError::io(path))?;
        let track = Track {
            rate,
            width: 0,
            height: 0,
            sps: Vec::new(),
            pps: Vec::new(),
            sizes: Vec::new(),
            keys: Vec::new(),
            start: head.len() as u64,
        };
        Ok(Mp4Sink { path: path.into(), partial, to, encoder, track })
    }

    fn sort(&mut self, units: &[Vec<u8>]) -> Result<Vec<u8>> {
        let mut sample = Vec::new();
        for unit in units {
            match unit.first().map(|kind| kind & 0x1F) {
                Some(7) => self.keep(unit, |track| &mut track.sps)?,
                Some(8) => self.keep(unit, |track| &mut track.pps)?,
                _ => {
                    sample.extend_from_slice(&(unit.len() as u32).to_be_bytes());
                    sample.extend_from_slice(unit);
                }
            }
        }
        Ok(sample)
    }

    /// Keeps a parameter set for the file's tables; there is one of each kind.
    fn keep(&mut self, unit: &[u8], place: impl Fn(&mut Track) -> &mut Vec<u8>) -> Result<()> {
        let kept = place(&mut self.track);
        if kept.is_empty() && (4..=usize::from(u16::MAX)).contains(&unit.len()) {
            *kept = unit.to_vec();
        }
        let same = kept == unit;
        if same { Ok(()) } else { Err(LoadError::video(&self.path, "the encoder changed its parameters midway")) }
    }
}

/// Units of a stream, without their start codes.
fn units(encoded: &openh264::encoder::EncodedBitStream<'_>) -> Vec<Vec<u8>> {
    let layers = (0..encoded.num_layers()).filter_map(|i| encoded.layer(i));
    let mut units = Vec::new();
    for layer in layers {
        for unit in (0..layer.nal_count()).filter_map(|i| layer.nal_unit(i)) {
            let zeros = unit.iter().take_while(|byte| **byte == 0).count();
            units.push(unit.get(zeros + 1..).unwrap_or_default().to_vec());
        }
    }
    units
}

impl Sink for Mp4Sink {
    fn push(&mut self, picture: &Picture) -> Result<()> {
        if picture.width.min(picture.height) < 16 {
            return Err(LoadError::video(&self.path, "an H.264 video is at least 16 pixels wide and high"));
        }
        let planes = Planes::of_rgb(&picture.clone().rgb());
        let Planes { width, height, y, u, v } = &planes;
        let slices = YUVSlices::new((y, u, v), (*width, *height), (*width, width / 2, width / 2));
        let refused = |e| LoadError::video(&self.path, format!("the encoder refuses the frame: {e}"));
        let encoded = self.encoder.encode(&slices).map_err(refused)?;
        let units = units(&encoded);
        let sample = self.sort(&units)?;
        if sample.is_empty() {
            return Err(LoadError::video(&self.path, "the encoder left out a frame"));
        }
        (self.track.width, self.track.height) = (*width as u16, *height as u16);
        self.track.sizes.push(sample.len() as u32);
        if units.iter().any(|unit| unit.first().is_some_and(|kind| kind & 0x1F == 5)) {
            self.track.keys.push(self.track.sizes.len() as u32);
        }
        self.to.write_all(&sample).map_err(LoadError::io(&self.path))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.track.sps.is_empty() || self.track.pps.is_empty() {
            return Err(LoadError::video(&self.path, "the encoder gave no parameters"));
        }
        let mut end = || {
            let (at, from) = LENGTH_AT;
            let length = self.to.stream_position()? - from;
            self.to.write_all(&self.track.movie())?;
            self.to.seek(SeekFrom::Start(at))?;
            self.to.write_all(&length.to_be_bytes())?;
            self.to.flush()
        };
        end().map_err(LoadError::io(&self.path))?;
        let file = self.to.into_inner().map_err(|e| LoadError::io(&self.path)(e.into_error()))?;
        self.partial.commit(file).map_err(LoadError::io(&self.path))
    }
}
