//! H.264 in MP4: what is written comes back; what others wrote is read; what lies is refused.
#![cfg(feature = "h264")]

mod scene;

use std::fs;
use std::path::{Path, PathBuf};

use muybridge_loaders::{FrameRate, Frames, LoadError, Picture, VideoWriter};
use scene::{psnr, scene};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)
}

fn rate(text: &str) -> FrameRate {
    text.parse().unwrap()
}

fn write(path: &Path, frames: &[Picture], rate: FrameRate) {
    let mut writer = VideoWriter::create(path, rate).unwrap();
    frames.iter().for_each(|f| writer.push(f).unwrap());
    writer.finish().unwrap();
}

/// The part of a picture that another has.
fn corner(picture: &Picture, of: &Picture) -> Picture {
    let rows = picture.pixels.chunks(picture.width * 3).take(of.height);
    Picture { pixels: rows.flat_map(|row| &row[..of.width * 3]).copied().collect(), channels: 3, ..*of }
}

#[test]
fn motions_come_back_from_mp4() {
    let dir = tempfile::tempdir().unwrap();
    for (width, height, rated, count) in
        [(64, 48, "24", 49), (97, 33, "30000/1001", 9), (16, 17, "12.5", 3), (96, 64, "8", 1)]
    {
        let path = dir.path().join(format!("{width}.mp4"));
        let frames: Vec<Picture> = (0..count).map(|i| scene(width, height, 3, i)).collect();
        write(&path, &frames, rate(rated));
        let read = Frames::open(&path).unwrap();
        assert_eq!((read.frame_count(), read.rate()), (Some(count), Some(rate(rated))));
        let read: Vec<Picture> = read.map(Result::unwrap).collect();
        assert_eq!(read.len(), count);
        for (i, (read, frame)) in read.iter().zip(&frames).enumerate() {
            assert_eq!((read.width, read.height), (width.next_multiple_of(2), height.next_multiple_of(2)));
            let decibels = psnr(&corner(read, frame), frame);
            // Two colour differences for four pixels blur the edge that moves.
            assert!(decibels > 27.0, "{width}x{height}, frame {i}: {decibels} dB");
        }
    }
}

#[test]
fn grey_comes_back_all_but_exactly() {
    // Without colour there is no loss but the coder's: every level of grey, in squares.
    let dir = tempfile::tempdir().unwrap();
    let pixels = (0..128 * 128).map(|i| ((i / 128 / 8) * 16 + i % 128 / 8) as u8).collect();
    let picture = Picture { width: 128, height: 128, channels: 1, pixels };
    let path = dir.path().join("grey.mp4");
    write(&path, &[picture.clone(), picture.clone(), picture.clone()], rate("25"));
    for read in Frames::open(&path).unwrap() {
        let decibels = psnr(&read.unwrap(), &picture.clone().rgb());
        assert!(decibels > 44.0, "{decibels} dB");
    }
}

#[test]
fn what_other_encoders_write_is_read() {
    // x264's High profile with B-frames, BT.709 with all 256 values, and a track that is to be turned.
    for (name, width, height, most) in [("high.mp4", 50, 34, 4), ("full.mp4", 48, 32, 4), ("turned.mp4", 32, 48, 4)] {
        let frames = Frames::open(here(name)).unwrap();
        assert_eq!((frames.frame_count(), frames.rate()), (Some(6), Some(rate("25"))), "{name}");
        let expected = fs::read(here(&format!("{name}.raw"))).unwrap();
        let mut count = 0;
        for (frame, expected) in frames.zip(expected.chunks(width * height * 3)) {
            let frame = frame.unwrap();
            assert_eq!((frame.width, frame.height), (width, height), "{name}");
            let worst = frame.pixels.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= most, "{name}, frame {count}: a value differs by {worst}");
            count += 1;
        }
        assert_eq!(count, 6, "{name}");
    }
}

#[test]
fn videos_that_are_not_read_say_what_to_do() {
    for (name, words) in
        [("other.mp4", "coded as mp4v"), ("deep.mp4", "more than 8 bits"), ("fragments.mp4", "fragmented")]
    {
        let error = Frames::open(here(name)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(words) && text.contains("ffmpeg -i"), "{text}");
        assert!(matches!(error, LoadError::Video { .. }));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.mp4");
    let mut writer = VideoWriter::create(&path, rate("24")).unwrap();
    let error = writer.push(&scene(15, 64, 3, 0)).unwrap_err().to_string();
    assert!(error.contains("small.mp4") && error.contains("16 pixels"), "{error}");
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn videos_cut_short_or_damaged_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.mp4");
    let whole = fs::read(here("high.mp4")).unwrap();
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Frames::open(&path).and_then(|frames| frames.collect::<Result<Vec<_>, _>>())
    };
    for cut in (0..whole.len() - 1).step_by(61) {
        let text = read(&whole[..cut]).unwrap_err().to_string();
        assert!(text.contains("v.mp4"), "{text}");
    }
    let tables = whole.windows(4).position(|w| w == b"moov").unwrap() - 4;
    // Every byte of the tables, and one in twenty of the pictures: none may panic or take the machine's memory.
    for at in (tables..whole.len()).chain((0..tables).step_by(20)) {
        for value in [0, 0xFF, whole[at] ^ 0x10] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = read(&bytes);
        }
    }
    // A count of frames that the file can't hold.
    let stsz = whole.windows(4).position(|w| w == b"stsz").unwrap();
    let mut bytes = whole.clone();
    bytes[stsz + 12..stsz + 16].copy_from_slice(&[0xFF; 4]);
    assert!(read(&bytes).is_err());
}
