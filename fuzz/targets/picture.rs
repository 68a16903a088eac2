//! Pictures. Whatever is accepted has the bytes that its extents call for, and as many in RGB.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muybridge_loaders::Picture;

fuzz_target!(|bytes: &[u8]| {
    let picture = match Picture::decode(bytes, "p") {
        Ok(picture) => picture,
        Err(error) => return assert!(error.to_string().starts_with("p: "), "{error} does not name its file"),
    };
    assert!(picture.is_valid());
    let (width, height) = (picture.width, picture.height);
    for rgb in [picture.clone().rgb(), picture.over([1, 2, 3])] {
        assert!(rgb.is_valid() && (rgb.width, rgb.height, rgb.channels) == (width, height, 3));
    }
});
