//! Animations in GIF and WebP. Whatever is accepted gives frames of one size, and errors name their file.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use muybridge_loaders::Frames;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let ending = if choice == b'g' { ".gif" } else { ".webp" };
    let mut file = tempfile::Builder::new().suffix(ending).tempfile().expect("a place to write to");
    file.write_all(rest).expect("a place to write to");
    let named = |text: String| assert!(text.contains(ending), "{text} does not name its file");
    let frames = match Frames::open(file.path()) {
        Ok(frames) => frames,
        Err(error) => return named(error.to_string()),
    };
    let mut size = None;
    for frame in frames.take(4) {
        match frame {
            Ok(frame) => {
                assert!(frame.is_valid());
                assert_eq!(*size.get_or_insert((frame.width, frame.height)), (frame.width, frame.height));
            }
            Err(error) => return named(error.to_string()),
        }
    }
});
