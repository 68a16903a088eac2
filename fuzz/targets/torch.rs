//! Checkpoints of PyTorch. Whatever is accepted must have names that differ, and extents that its bytes can bear.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use muybridge_loaders::TorchFile;

fuzz_target!(|bytes: &[u8]| {
    let tensors = match TorchFile::parse(bytes, "t") {
        Ok(tensors) => tensors,
        Err(error) => return assert!(error.to_string().starts_with("t: "), "{error} does not name its file"),
    };
    let names: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names.len(), tensors.len());
    for tensor in &tensors {
        let elements = tensor.shape.iter().try_fold(1usize, |n, e| n.checked_mul(*e)).expect("extents that fit");
        assert!(elements <= bytes.len().max(1 << 24), "{tensor:?}");
    }
});
