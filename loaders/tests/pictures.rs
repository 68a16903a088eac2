//! Pictures and motions: read as Pillow reads them, written so that they come back, and refused where they lie.

mod scene;

use std::fs;
use std::path::{Path, PathBuf};

use muybridge_loaders::{FrameRate, Frames, Guidance, LoadError, Picture, VideoWriter};
use scene::{psnr, scene};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)
}

fn rate(text: &str) -> FrameRate {
    text.parse().unwrap()
}

fn says(error: &LoadError, words: &[&str]) {
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} does not say {word:?}"));
}

/// Names of a folder, without those that should not be there.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn pictures_are_read_as_pillow_reads_them() {
    // Decoders of JPEG and of lossy WebP may round differently: libjpeg's colours are filtered when they are enlarged.
    let rows = [
        ("colour.png", 3, 0),
        ("alpha.png", 4, 0),
        ("grey.png", 1, 0),
        ("grey_alpha.png", 2, 0),
        ("palette.png", 3, 0),
        ("one_bit.png", 1, 0),
        ("baseline.jpg", 3, 3),
        ("progressive.jpg", 3, 3),
        ("turned.jpg", 3, 3),
        ("grey.jpg", 1, 2),
        ("cmyk.jpg", 3, 3),
        ("lossy.webp", 3, 3),
        ("lossless.webp", 4, 0),
    ];
    for (name, channels, most) in rows {
        let picture = Picture::open(here(name)).unwrap();
        let expected = fs::read(here(&format!("{name}.raw"))).unwrap();
        let sides = if name == "turned.jpg" {
            (17, 33)
        } else if expected.len() == 13 * 9 * channels {
            (13, 9)
        } else {
            (33, 17)
        };
        assert_eq!((picture.width, picture.height, picture.channels), (sides.0, sides.1, channels), "{name}");
        assert!(picture.is_valid() && picture.pixels.len() == expected.len(), "{name}");
        let worst = picture.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= most, "{name}: a value differs by {worst}");
    }
}

#[test]
fn animations_are_read_as_pillow_reads_them() {
    for (name, rated) in [("motion.webp", "25"), ("motion.gif", "20"), ("cleared.gif", "20")] {
        let frames = Frames::open(here(name)).unwrap();
        assert_eq!((frames.frame_count(), frames.rate()), (Some(4), Some(rate(rated))), "{name}");
        let read: Vec<u8> = frames.flat_map(|f| f.unwrap().rgb().pixels).collect();
        let expected = fs::read(here(&format!("{name}.raw"))).unwrap();
        // The WebP decoder loses one of 255 where it blends an opaque pixel.
        let worst = read.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(read.len() == expected.len() && worst <= u8::from(name.ends_with("webp")), "{name}: {worst}");
    }
    let first = Picture::open(here("motion.gif")).unwrap().rgb();
    assert!(fs::read(here("motion.gif.raw")).unwrap().starts_with(&first.pixels));
}

#[test]
fn colours_are_flattened_by_the_rule_asked_for() {
    let picture = |channels, pixels: &[u8]| Picture { width: 1, height: 1, channels, pixels: pixels.into() };
    assert_eq!(picture(1, &[7]).rgb().pixels, [7, 7, 7]);
    assert_eq!(picture(2, &[7, 0]).rgb().pixels, [7, 7, 7]);
    assert_eq!(picture(4, &[1, 2, 3, 0]).rgb().pixels, [1, 2, 3]);
    assert_eq!(picture(4, &[1, 2, 3, 0]).over([9, 8, 7]).pixels, [9, 8, 7]);
    assert_eq!(picture(4, &[100, 2, 3, 255]).over([9, 8, 7]).pixels, [100, 2, 3]);
    assert_eq!(picture(2, &[100, 128]).over([0, 255, 0]).pixels, [50, 177, 50]);
    for channels in [0, 6] {
        assert_eq!(picture(channels, &[1; 6]).over([0; 3]), picture(channels, &[1; 6]));
    }
    assert!(!picture(3, &[1, 2]).is_valid());
}

#[test]
fn a_picture_comes_back_from_png() {
    let dir = tempfile::tempdir().unwrap();
    for channels in 1..=4 {
        let picture = scene(31, 17, channels, 0);
        let path = dir.path().join("p.png");
        picture.write_png(&path).unwrap();
        assert_eq!(Picture::open(&path).unwrap(), picture);
    }
    let broken = Picture { height: 18, ..scene(31, 17, 3, 0) };
    says(&broken.write_png(dir.path().join("q.png")).unwrap_err(), &["q.png", "31 x 18"]);
    assert_eq!(names(dir.path()), ["p.png"]);
}

/// Writes frames, reads them back, and gives the worst decibels and what was read.
fn there_and_back(path: &Path, frames: &[Picture], rate: FrameRate) -> (f64, Frames) {
    let mut writer = VideoWriter::create(path, rate).unwrap();
    frames.iter().for_each(|f| writer.push(f).unwrap());
    assert!(!path.exists());
    writer.finish().unwrap();
    let read: Vec<Picture> = Frames::open(path).unwrap().map(Result::unwrap).collect();
    assert_eq!(read.len(), frames.len());
    let alike = |(r, f): (Picture, &Picture)| {
        if r.channels == f.channels { psnr(&r, f) } else { psnr(&r.rgb(), &f.clone().rgb()) }
    };
    let worst = read.into_iter().zip(frames).map(alike);
    (worst.fold(f64::INFINITY, f64::min), Frames::open(path).unwrap())
}

#[test]
fn motions_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for (width, height, channels) in [(64, 48, 3), (33, 17, 4), (1, 1, 3), (17, 31, 1)] {
        let frames: Vec<Picture> = (0..7).map(|i| scene(width, height, channels, i)).collect();
        for (name, least) in [("folder", 90.0), ("m.webp", 90.0)] {
            let path = dir.path().join(format!("{width}{name}"));
            let (worst, read) = there_and_back(&path, &frames, rate("24"));
            assert!(worst > least, "{name} {width}x{height}x{channels}: {worst} dB");
            assert_eq!(read.frame_count(), Some(7));
        }
    }
    let frames: Vec<Picture> = (0..24).map(|i| scene(65, 47, 3, i)).collect();
    let (worst, read) = there_and_back(&dir.path().join("m.gif"), &frames, rate("24"));
    assert!(worst > 26.0, "256 colours: {worst} dB");
    // Durations of single frames are whole hundredths of a second; together they make the rate.
    assert_eq!((read.frame_count(), read.rate()), (Some(24), Some(rate("24"))));
    let (_, read) = there_and_back(&dir.path().join("n.webp"), &frames, rate("24"));
    assert_eq!(read.rate(), Some(rate("24")));
    assert!(names(dir.path()).iter().all(|n| !n.starts_with('.')), "{:?}", names(dir.path()));
}

#[test]
fn what_is_not_finished_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["folder", "m.gif", "m.webp"] {
        let path = dir.path().join(name);
        let mut writer = VideoWriter::create(&path, rate("24")).unwrap();
        writer.push(&scene(8, 8, 3, 0)).unwrap();
        drop(writer);
        let empty = VideoWriter::create(&path, rate("24")).unwrap();
        says(&empty.finish().unwrap_err(), &[name, "without frames"]);
        let mut writer = VideoWriter::create(&path, rate("24")).unwrap();
        writer.push(&scene(8, 8, 3, 0)).unwrap();
        says(&writer.push(&scene(8, 9, 3, 1)).unwrap_err(), &[name, "frame 1 has 8 x 9", "8 x 8"]);
        drop(writer);
        assert_eq!(names(dir.path()), [""; 0]);
    }
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/a"), "").unwrap();
    says(&VideoWriter::create(dir.path().join("full"), rate("24")).err().unwrap(), &["full", "not empty"]);
    says(&VideoWriter::create(dir.path().join("m.avi"), rate("24")).err().unwrap(), &["m.avi", ".gif"]);
    says(&VideoWriter::create(dir.path().join("m.gif"), rate("60")).err().unwrap(), &["m.gif", "50"]);
}

#[test]
fn folders_are_read_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, step: usize| scene(4, 4, 3, step).write_png(dir.path().join(name)).unwrap();
    says(&Frames::open(dir.path()).unwrap_err(), &["has no picture"]);
    ["frame_02.PNG", "frame_10.png", ".hidden.png", "frame_01.png"].iter().enumerate().for_each(|(i, n)| put(n, i));
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let read: Vec<Picture> = Frames::open(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, [scene(4, 4, 3, 3), scene(4, 4, 3, 0), scene(4, 4, 3, 1)]);
    put("frame_9.png", 5);
    says(&Frames::open(dir.path()).unwrap_err(), &["frame_10.png comes before frame_9.png", "leading zeros"]);
    fs::remove_file(dir.path().join("frame_9.png")).unwrap();
    fs::write(dir.path().join("frame_02.PNG"), "no picture").unwrap();
    let mut frames = Frames::open(dir.path()).unwrap();
    frames.next().unwrap().unwrap();
    says(&frames.next().unwrap().unwrap_err(), &["frame_02.PNG", "neither PNG"]);
    assert!(frames.next().is_none());
}

#[test]
fn guidance_of_several_types_comes_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let put = |place: &str, picture: &Picture| {
        let path = dir.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture.write_png(path).unwrap();
    };
    says(&Guidance::open(dir.path(), &[""; 0]).unwrap_err(), &["has no guidance"]);
    for step in 0..2 {
        put(&format!("semantic_map/{step:02}.png"), &scene(9, 5, 3, step));
        put(&format!("depth/{step:02}.png"), &scene(9, 5, 1, step + 2));
    }
    let read = |types: &[&str]| -> Vec<Vec<Picture>> {
        Guidance::open(dir.path(), types).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(read(&["semantic_map"]), [[scene(9, 5, 3, 0)], [scene(9, 5, 3, 1)]]);
    let all = Guidance::open(dir.path(), &[""; 0]).unwrap();
    assert_eq!(
        (all.types(), all.frame_count(), all.is_masked()),
        (&["depth".into(), "semantic_map".into()][..], Some(2), false)
    );

    let mut mask = scene(9, 5, 3, 0);
    mask.pixels.iter_mut().enumerate().for_each(|(i, v)| *v = if i % 7 == 0 { 0 } else { 1 });
    put("mask/00.png", &mask);
    put("mask/01.png", &Picture { width: 5, height: 9, ..mask.clone() });
    let mut both = Guidance::open(dir.path(), &["semantic_map", "depth"]).unwrap();
    assert!(both.is_masked());
    let mut black = scene(9, 5, 3, 0);
    black.pixels.iter_mut().step_by(7).for_each(|v| *v = 0);
    assert_eq!(both.next().unwrap().unwrap(), [black, scene(9, 5, 1, 2).rgb()]);
    says(&both.next().unwrap().unwrap_err(), &["01.png", "5 x 9", "9 x 5"]);
    assert!(both.next().is_none());
    fs::remove_file(dir.path().join("mask/01.png")).unwrap();
    let error = Guidance::open(dir.path(), &["semantic_map"]).unwrap().nth(1).unwrap().unwrap_err();
    assert!(matches!(error, LoadError::Io { .. }), "{error}");

    put("depth/02.png", &scene(9, 5, 1, 0));
    says(&Guidance::open(dir.path(), &["depth", "semantic_map"]).unwrap_err(), &["3 frames", "has 2"]);
    says(&Guidance::open(dir.path(), &["dwpose"]).unwrap_err(), &["no guidance of the type dwpose"]);
}

#[test]
fn pictures_cut_short_or_damaged_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let originals =
        ["colour.png", "palette.png", "baseline.jpg", "lossy.webp", "lossless.webp", "motion.gif", "motion.webp"];
    for name in originals {
        let whole = fs::read(here(name)).unwrap();
        let path = dir.path().join(name);
        for cut in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..cut]).unwrap();
            // Some bytes at the very end say nothing; what comes before them must be missed.
            let read = match name.starts_with("motion") {
                true => Frames::open(&path).and_then(|frames| frames.collect::<Result<Vec<_>, _>>()),
                false => Picture::open(&path).map(|picture| vec![picture]),
            };
            if cut < whole.len() / 2 {
                says(read.as_ref().expect_err(&format!("{name}, {cut} bytes of it")), &[name]);
            }
            if let (Err(e), _) | (_, Err(e)) = (Picture::open(&path), read) {
                says(&e, &[name]);
            }
        }
        for at in (0..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[at] = bytes[at].wrapping_add(0x5B);
            fs::write(&path, &bytes).unwrap();
            // Whether it is noticed depends on the format's checksums: it must not panic, nor take long.
            let _ = Picture::open(&path);
            let _ = Frames::open(&path).map(|frames| frames.count());
        }
    }
    assert!(Picture::decode(b"", "empty").is_err());
    assert!(Picture::decode(b"GIF89a", "short").is_err());
}

#[test]
fn extents_beyond_the_limits_are_refused_before_there_is_memory_for_them() {
    // A PNG of 65535 x 65535 pixels and a GIF and a lossless WebP of the largest extents; none has any pixels.
    let mut png = fs::read(here("colour.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
    let crc = png[12..29].iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    });
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    let mut gif = fs::read(here("motion.gif")).unwrap();
    gif[6..10].copy_from_slice(&[255; 4]);
    let mut webp = fs::read(here("motion.webp")).unwrap();
    webp[24..30].copy_from_slice(&[255; 6]);
    for (name, bytes) in [("bomb.png", png), ("bomb.gif", gif), ("bomb.webp", webp)] {
        let error = Picture::decode(&bytes, name).unwrap_err();
        says(&error, &[name]);
        assert!(matches!(error, LoadError::Picture { .. }), "{error:?}");
    }
}
