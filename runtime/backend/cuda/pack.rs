//! Kernels that were compiled ahead of time, for machines without NVRTC and for starts without a cache.
//!
//! A pack is one file with a section for each architecture: machine code (`sm_90a`), or portable code (`compute_80`) for devices
//! that the pack has no machine code for. A section holds its kernels by the hash of their whole text, so that a pack of other
//! sources is a miss and nothing worse; it is compressed as a whole (a frame of Zstandard), and only the device's own is read.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::nvrtc;
use crate::cache::{START, hash_on};

/// First bytes of a pack; the digit counts changes of the format.
const MAGIC: &[u8; 8] = b"muypack2";

/// The architecture of the portable code.
pub const PORTABLE: &str = "compute_80";

/// The oldest device that takes the portable code.
const PORTABLE_FROM: (u32, u32) = (8, 0);

/// The largest section that is believed: no more memory than this is taken for one.
const MOST: usize = 1 << 30;

/// Kernels by the hash of their texts.
type Section = HashMap<u128, Vec<u8>>;

/// The contents of a pack: by architecture, code by text.
pub type Contents = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// Bytes of a pack. `compress` makes a frame of Zstandard, with a checksum, of a section: kernels repeat each other over megabytes,
/// so a compressor wants a long memory (3.1 MB of what deflate, which remembers 32 KiB, made 11.5 of).
///
/// # Errors
/// Those of the compressor.
pub fn encode<E>(contents: &Contents, compress: impl Fn(&[u8]) -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
    let mut out = MAGIC.to_vec();
    let number = |out: &mut Vec<u8>, n: usize| out.extend((n as u64).to_le_bytes());
    number(&mut out, contents.len());
    for (architecture, kernels) in contents {
        let mut raw = Vec::new();
        for (text, code) in kernels {
            raw.extend(key(text).to_le_bytes());
            number(&mut raw, code.len());
            raw.extend(code);
        }
        let packed = compress(&raw)?;
        number(&mut out, architecture.len());
        out.extend(architecture.as_bytes());
        number(&mut out, packed.len());
        number(&mut out, raw.len());
        out.extend(packed);
    }
    Ok(out)
}

/// A compressor for [`encode`] that needs no library in C and finds little.
///
/// # Errors
/// None.
pub fn fast(raw: &[u8]) -> Result<Vec<u8>, Infallible> {
    Ok(compress_to_vec(raw, CompressionLevel::Fastest))
}

/// So many bytes of a frame, where it holds no more and no fewer, and its checksum is right.
fn decompress(frame: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut decoder = StreamingDecoder::new(frame).ok()?;
    let mut raw = Vec::new();
    // A byte more than wanted shows a frame that holds more.
    decoder.by_ref().take(bytes as u64 + 1).read_to_end(&mut raw).ok()?;
    let of_frame = decoder.decoder.get_checksum_from_data();
    let right = of_frame.is_some() && of_frame == decoder.decoder.get_calculated_checksum();
    (raw.len() == bytes && right).then_some(raw)
}

fn key(text: &str) -> u128 {
    hash_on(START, text.as_bytes())
}

fn take<'a>(from: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(bytes)?;
    *from = rest;
    Some(head)
}

fn take_number(from: &mut &[u8]) -> Option<usize> {
    let (head, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    usize::try_from(u64::from_le_bytes(*head)).ok()
}

/// The section of an architecture; `Ok(None)` where the pack has none.
fn section(mut file: &[u8], architecture: &str) -> Result<Option<Section>, String> {
    let torn = || "it is damaged".to_string();
    let from = &mut file;
    if take(from, MAGIC.len()) != Some(MAGIC) {
        return Err("it is no pack of this version".into());
    }
    for _ in 0..take_number(from).ok_or_else(torn)? {
        let length = take_number(from).ok_or_else(torn)?;
        let name = take(from, length).ok_or_else(torn)?;
        let packed = take_number(from).ok_or_else(torn)?;
        let raw = take_number(from).filter(|&n| n <= MOST).ok_or_else(torn)?;
        let body = take(from, packed).ok_or_else(torn)?;
        if name == architecture.as_bytes() {
            let raw = decompress(body, raw).ok_or_else(torn)?;
            return kernels(&raw).map(Some).ok_or_else(torn);
        }
    }
    Ok(None)
}

fn kernels(mut raw: &[u8]) -> Option<Section> {
    let mut found = Section::new();
    while !raw.is_empty() {
        let (key, rest) = raw.split_first_chunk::<16>()?;
        raw = rest;
        let bytes = take_number(&mut raw)?;
        found.insert(u128::from_le_bytes(*key), take(&mut raw, bytes)?.to_vec());
    }
    Some(found)
}

/// `MUYBRIDGE_KERNELS` (no pack where that is set and empty), or `kernels.pack` beside the program.
pub(super) fn file() -> Option<PathBuf> {
    match std::env::var_os("MUYBRIDGE_KERNELS") {
        Some(own) if own.is_empty() => None,
        Some(own) => Some(own.into()),
        None => Some(std::env::current_exe().ok()?.with_file_name("kernels.pack")).filter(|p| p.exists()),
    }
}

/// The packed codes of this text for a device, the best first: its own machine code or that of its relatives, or portable code.
/// None where there is no pack, or it does not hold the text.
///
/// # Errors
/// A pack that is there and cannot be read.
pub(super) fn find(capability: (u32, u32), portable: bool, text: &str) -> Result<Vec<Vec<u8>>, String> {
    let architectures = match portable {
        true if capability >= PORTABLE_FROM => vec![PORTABLE.to_string()],
        true => Vec::new(),
        false => nvrtc::machines(capability),
    };
    let Some(path) = file() else { return Ok(Vec::new()) };
    let fail = |e: String| format!("kernel pack {}: {e}", path.display());
    let mut found = Vec::new();
    for architecture in architectures {
        let section = read(&path, architecture).map_err(fail)?;
        found.extend(section.and_then(|s| s.get(&key(text)).cloned()));
    }
    Ok(found)
}

/// The section of an architecture, which is read once.
fn read(path: &Path, architecture: String) -> Result<Option<Arc<Section>>, String> {
    static SECTIONS: OnceLock<Mutex<HashMap<String, Option<Arc<Section>>>>> = OnceLock::new();
    let mut sections = SECTIONS.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    if let Some(section) = sections.get(&architecture) {
        return Ok(section.clone());
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let section = section(&bytes, &architecture)?.map(Arc::new);
    Ok(sections.entry(architecture).or_insert(section).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let kernels = |n: u8| (0..n).map(|i| (format!("text {i}"), vec![i; 100 + usize::from(i)])).collect();
        [("sm_80".to_string(), kernels(3)), ("sm_90a".to_string(), kernels(40))].into()
    }

    #[test]
    fn what_is_packed_is_found_by_its_text() -> Result<(), Infallible> {
        let bytes = encode(&contents(), fast)?;
        let read = section(&bytes, "sm_90a").expect("whole").expect("packed");
        assert_eq!(read.len(), 40);
        assert_eq!(read.get(&key("text 39")), Some(&vec![39; 139]));
        assert_eq!(read.get(&key("text 40")), None);
        assert!(section(&bytes, "sm_75").expect("whole").is_none());
        Ok(())
    }

    #[test]
    fn a_damaged_pack_is_an_error_and_no_panic() -> Result<(), Infallible> {
        let whole = encode(&contents(), fast)?;
        for i in 0..whole.len() {
            let cut = section(&whole[..i], "sm_90a");
            assert!(cut.is_err(), "cut to {i} bytes");
            let mut flipped = whole.clone();
            flipped[i] ^= 0x10;
            // A flipped name is another architecture, and a flipped length may end before: neither may panic, and no code may be
            // other code than was packed.
            if let Ok(Some(read)) = section(&flipped, "sm_90a") {
                assert!(
                    (0..40).all(|n| read.get(&key(&format!("text {n}"))) == Some(&vec![n; 100 + usize::from(n)])),
                    "byte {i}"
                );
            }
        }
        Ok(())
    }
}
