//! Judged with what not every machine has, ffmpeg and CLIP's published vocabulary; each test names what it misses.

mod scene;

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Trial};
use muybridge_loaders::Tokenizer;

fn main() {
    let args = Arguments::from_args();
    let mut trials = vec![the_published_vocabulary()];
    trials.extend(ffmpeg_reads_the_same_pictures());
    libtest_mimic::run(&args, trials).exit();
}

/// The vocabulary is not in this repository, so nothing promises it.
fn the_published_vocabulary() -> Trial {
    match std::env::var_os("MUYBRIDGE_TOKENIZER") {
        Some(folder) => Trial::test("the_published_vocabulary", move || {
            published(&PathBuf::from(&folder));
            Ok(())
        }),
        None => {
            let missing = "MUYBRIDGE_TOKENIZER names no folder with the published vocab.json and merges.txt";
            Trial::test(format!("the_published_vocabulary [{missing}]"), move || Err(missing.into()))
                .with_ignored_flag(true)
        }
    }
}

/// Texts, and their ids by transformers.
fn published(folder: &Path) {
    let tokenizer = Tokenizer::open(folder).unwrap();
    let texts: [(&str, &[u32]); 5] = [
        ("a photo of a cat", &[320, 1125, 539, 320, 2368]),
        ("a photograph of an astronaut riding a horse", &[320, 8853, 539, 550, 18376, 6765, 320, 4558]),
        (
            "Best quality, a woman dancing in the street, 4k!",
            &[949, 3027, 267, 320, 2308, 6226, 530, 518, 2012, 267, 275, 330, 256],
        ),
        ("don't stop", &[847, 713, 1691]),
        ("controllable human-centric video generation", &[9963, 31879, 2751, 268, 19297, 1455, 4883]),
    ];
    for (text, ids) in texts {
        assert_eq!(tokenizer.ids(text), ids, "{text:?}");
        let whole = tokenizer.encode(text);
        assert_eq!((whole[0], whole[ids.len() + 1], whole.len()), (49406, 49407, 77));
    }
}

/// `tests/run` installs ffmpeg, so CI must have it. Without the feature there is nothing to write.
fn ffmpeg_reads_the_same_pictures() -> Option<Trial> {
    if !cfg!(feature = "h264") {
        return None;
    }
    let name = "ffmpeg_reads_the_same_pictures";
    if Command::new("ffmpeg").arg("-version").output().is_ok() {
        return Some(Trial::test(name, || {
            compared();
            Ok(())
        }));
    }
    let missing = Trial::test(format!("{name} [ffmpeg is not installed]"), || Err("ffmpeg is not installed".into()));
    Some(missing.with_ignored_flag(std::env::var_os("CI").is_none()))
}

#[cfg(not(feature = "h264"))]
fn compared() {}

#[cfg(feature = "h264")]
fn compared() {
    use muybridge_loaders::{Frames, Picture, VideoWriter};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.mp4");
    let mut writer = VideoWriter::create(&path, "24".parse().unwrap()).unwrap();
    let frames: Vec<Picture> = (0..30).map(|i| scene::scene(98, 50, 3, i)).collect();
    frames.iter().for_each(|f| writer.push(f).unwrap());
    writer.finish().unwrap();
    let raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"];
    let out = Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(&path).args(raw).output().unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let theirs: Vec<&[u8]> = out.stdout.chunks(98 * 50 * 3).collect();
    assert_eq!(theirs.len(), 30);
    for (ours, theirs) in Frames::open(&path).unwrap().zip(theirs) {
        let ours = ours.unwrap();
        let theirs = Picture { width: 98, height: 50, channels: 3, pixels: theirs.to_vec() };
        let worst = ours.pixels.iter().zip(&theirs.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 4, "a value differs by {worst}");
        let decibels = scene::psnr(&ours, &theirs);
        assert!(decibels > 45.0, "{decibels} dB");
    }
}
