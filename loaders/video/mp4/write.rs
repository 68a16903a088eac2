//! The boxes of an MP4 file with one H.264 track.

use crate::video::rate::FrameRate;

/// What the tables of a track are made of.
pub(crate) struct Track {
    pub(crate) rate: FrameRate,
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) sps: Vec<u8>,
    pub(crate) pps: Vec<u8>,
    /// Length of each sample in bytes.
    pub(crate) sizes: Vec<u32>,
    /// Numbers of the samples that stand for themselves, from 1.
    pub(crate) keys: Vec<u32>,
    /// Where the first sample begins; the others follow without gaps.
    pub(crate) start: u64,
}

/// What comes before the first sample: the file's type, and the head of the box that all samples are in. Its length is
/// known at the end, and put at [`LENGTH_AT`].
pub(crate) fn start() -> Vec<u8> {
    let mut out = Vec::new();
    boxed(&mut out, b"ftyp", |b| b.extend_from_slice(b"isom\0\0\x02\0isomiso2avc1mp41"));
    out.extend_from_slice(b"\0\0\0\x01mdat\0\0\0\0\0\0\0\0");
    out
}

/// Where the length of the samples' box stands, and where that box begins.
pub(crate) const LENGTH_AT: (u64, u64) = (40, 32);

fn boxed(out: &mut Vec<u8>, name: &[u8; 4], fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(name);
    fill(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// A box with a version and flags.
fn full(out: &mut Vec<u8>, name: &[u8; 4], version: u8, flags: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    boxed(out, name, |b| {
        b.extend_from_slice(&(u32::from(version) << 24 | flags).to_be_bytes());
        fill(b);
    });
}

fn u16s(out: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_be_bytes()));
}

fn u32s(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_be_bytes()));
}

fn u64s(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_be_bytes()));
}

/// No rotation, no scaling.
const UPRIGHT: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

impl Track {
    /// Units of a second, and how many of them a frame takes.
    fn times(&self) -> (u32, u32) {
        // Players are used to units well below a frame.
        let fine = (10_000 / self.rate.frames().max(1)).clamp(1, u32::MAX / self.rate.seconds());
        let fine = fine.min(u32::MAX / self.rate.frames()).max(1);
        (self.rate.frames() * fine, self.rate.seconds() * fine)
    }

    /// The box `moov`, which ends the file.
    pub(crate) fn movie(&self) -> Vec<u8> {
        let (units, each) = self.times();
        let duration = u64::from(each) * self.sizes.len() as u64;
        let mut out = Vec::new();
        boxed(&mut out, b"moov", |b| {
            full(b, b"mvhd", 1, 0, |b| {
                u64s(b, &[0, 0]);
                u32s(b, &[units]);
                u64s(b, &[duration]);
                u32s(b, &[0x1_0000, 0x100_0000, 0, 0]);
                u32s(b, &UPRIGHT);
                u32s(b, &[0, 0, 0, 0, 0, 0, 2]);
            });
            boxed(b, b"trak", |b| {
                // The track is enabled and in the movie.
                full(b, b"tkhd", 1, 3, |b| {
                    u64s(b, &[0, 0]);
                    u32s(b, &[1, 0]);
                    u64s(b, &[duration]);
                    u32s(b, &[0, 0, 0, 0]);
                    u32s(b, &UPRIGHT);
                    u32s(b, &[u32::from(self.width) << 16, u32::from(self.height) << 16]);
                });
                boxed(b, b"mdia", |b| {
                    full(b, b"mdhd", 1, 0, |b| {
                        u64s(b, &[0, 0]);
                        u32s(b, &[units]);
                        u64s(b, &[duration]);
                        // Of no language.
                        u16s(b, &[0x55C4, 0]);
                    });
                    full(b, b"hdlr", 0, 0, |b| b.extend_from_slice(b"\0\0\0\0vide\0\0\0\0\0\0\0\0\0\0\0\0video\0"));
                    boxed(b, b"minf", |b| {
                        full(b, b"vmhd", 0, 1, |b| u16s(b, &[0; 4]));
                        boxed(b, b"dinf", |b| {
                            full(b, b"dref", 0, 0, |b| {
                                u32s(b, &[1]);
                                full(b, b"url ", 0, 1, |_| {});
                            });
                        });
                        boxed(b, b"stbl", |b| self.tables(b, each));
                    });
                });
            });
        });
        out
    }

    fn tables(&self, out: &mut Vec<u8>, each: u32) {
        let count = self.sizes.len() as u32;
        full(out, b"stsd", 0, 0, |b| {
            u32s(b, &[1]);
            boxed(b, b"avc1", |b| self.entry(b));
        });
        full(out, b"stts", 0, 0, |b| u32s(b, &[1, count, each]));
        full(out, b"stss", 0, 0, |b| {
            u32s(b, &[self.keys.len() as u32]);
            u32s(b, &self.keys);
        });
        // Every sample is a chunk of its own.
        full(out, b"stsc", 0, 0, |b| u32s(b, &[1, 1, 1, 1]));
        full(out, b"stsz", 0, 0, |b| {
            u32s(b, &[0, count]);
            u32s(b, &self.sizes);
        });
        full(out, b"co64", 0, 0, |b| {
            u32s(b, &[count]);
            let mut at = self.start;
            for size in &self.sizes {
                u64s(b, &[at]);
                at += u64::from(*size);
            }
        });
    }

    /// How the samples are coded.
    fn entry(&self, out: &mut Vec<u8>) {
        u16s(out, &[0, 0, 0, 1]);
        u32s(out, &[0; 4]);
        u16s(out, &[self.width, self.height]);
        u32s(out, &[0x48_0000, 0x48_0000, 0]);
        u16s(out, &[1]);
        out.extend_from_slice(&[0; 32]);
        u16s(out, &[0x18, 0xFFFF]);
        boxed(out, b"avcC", |b| {
            b.extend_from_slice(&[1, self.sps[1], self.sps[2], self.sps[3], 0xFF, 0xE1]);
            u16s(b, &[self.sps.len() as u16]);
            b.extend_from_slice(&self.sps);
            b.push(1);
            u16s(b, &[self.pps.len() as u16]);
            b.extend_from_slice(&self.pps);
        });
        // BT.601 as in the stream itself, 16 to 235.
        boxed(out, b"colr", |b| {
            b.extend_from_slice(b"nclx");
            u16s(b, &[6, 6, 6]);
            b.push(0);
        });
    }
}
