//! Safetensors headers. Whatever is accepted must be accepted by the format's own library too, and every tensor's bytes
//! must lie within the file, in order, without a gap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muybridge_loaders::{Header, first_non_finite};
use safetensors::SafeTensors;

fuzz_target!(|input: &[u8]| {
    // The first byte chooses: the rest is a whole file, or the text of a header whose length and data are put in place,
    // so that mutations get past the length field.
    let Some((&choice, rest)) = input.split_first() else { return };
    if choice == b'f' {
        return check(rest);
    }
    let mut file = (rest.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(rest);
    file.resize(file.len() + choice as usize, 0x7F);
    check(&file);
});

fn check(file: &[u8]) {
    let header = match Header::parse(file, "f") {
        Ok(header) => header,
        Err(error) => return assert!(error.to_string().starts_with("f: "), "{error} does not name its file"),
    };
    let (length, library) = SafeTensors::read_metadata(file).expect("the format's library refuses it");
    let mut end = 8 + length;
    for tensor in &header.tensors {
        assert_eq!(tensor.range.start, end);
        assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= file.len());
        end = tensor.range.end;
        let theirs = library.info(&tensor.name).expect("the format's library does not know the tensor");
        assert_eq!((theirs.dtype, &theirs.shape), (tensor.dtype, &tensor.shape));
        let data = &file[tensor.range.clone()];
        if let Some(dtype) = tensor.element() {
            let elements: usize = tensor.shape.iter().product();
            assert_eq!(elements * dtype.size(), data.len());
            assert!(first_non_finite(dtype, data).is_none_or(|(i, v)| i < elements && !v.is_finite()));
        }
    }
    assert_eq!(end, file.len());
    assert_eq!(library.tensors().len(), header.tensors.len());
}
