//! The container of PyTorch's checkpoints: a ZIP archive whose files are stored as they are.
//!
//! Only the directory at the archive's end is followed (APPNOTE 6.3.10, sections 4.3.6 to 4.3.16), and of each file only
//! where its bytes lie. Crates for ZIP hand out readers and decompress; here the bytes are wanted where they are, and an
//! archive that compresses is refused.

use std::collections::BTreeMap;
use std::ops::Range;

/// Files of an archive by name, each with the range of its bytes. No two overlap.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) files: BTreeMap<String, Range<usize>>,
    /// Names of those that are compressed.
    pub(crate) compressed: Vec<String>,
}

/// Most files of an archive: more than any checkpoint has tensors.
const MOST_FILES: u64 = 1 << 18;
/// Signatures of the records.
const END: u32 = 0x0605_4B50;
const END_64: u32 = 0x0606_4B50;
const LOCATOR_64: u32 = 0x0706_4B50;
const ENTRY: u32 = 0x0201_4B50;
const LOCAL: u32 = 0x0403_4B50;
/// Lengths of the records, without what follows them.
const END_LENGTH: usize = 22;
const ENTRY_LENGTH: usize = 46;
const LOCAL_LENGTH: usize = 30;

/// Bytes at a place, in order, or nothing beyond the end.
#[derive(Clone, Copy)]
struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    fn at(bytes: &'a [u8], at: u64) -> Option<Record<'a>> {
        bytes.get(usize::try_from(at).ok()?..).map(Record)
    }

    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn u64(self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn slice(self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(length)?)
    }
}

/// What the end of an archive says of its directory.
struct Directory {
    count: u64,
    at: u64,
    length: u64,
}

impl Archive {
    /// Whether a file begins as an archive does.
    pub(crate) fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(&LOCAL.to_le_bytes())
    }

    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// There is none, it is cut short, a file in it is encrypted, lies outside the archive or over another
    /// one, or has a name that is not plain.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Archive, String> {
        let Directory { count, at, length } = directory(bytes)?;
        if count > MOST_FILES {
            return Err(format!("{count} files, where at most {MOST_FILES} are read"));
        }
        let cut = || "its directory is cut short".to_string();
        let end = at.checked_add(length).filter(|end| *end <= bytes.len() as u64).ok_or_else(cut)?;
        let mut here = at;
        let (mut files, mut compressed) = (BTreeMap::new(), Vec::new());
        for _ in 0..count {
            let Entry { name, range, next, stored } = entry(bytes, here)?;
            if next > end {
                return Err(cut());
            }
            if range.end as u64 > at {
                return Err(format!("the file {} lies over the directory", name.escape_debug()));
            }
            here = next;
            if !stored {
                compressed.push(name.clone());
            }
            if files.insert(name.clone(), range).is_some() {
                return Err(format!("two files are named {}", name.escape_debug()));
            }
        }
        check_overlaps(&files)?;
        Ok(Archive { files, compressed })
    }
}

fn check_overlaps(files: &BTreeMap<String, Range<usize>>) -> Result<(), String> {
    let mut ranges: Vec<(&Range<usize>, &String)> = files.iter().map(|(name, range)| (range, name)).collect();
    ranges.retain(|(range, _)| !range.is_empty());
    ranges.sort_by_key(|(range, _)| range.start);
    match ranges.iter().zip(ranges.iter().skip(1)).find(|((a, _), (b, _))| a.end > b.start) {
        Some(((_, a), (_, b))) => {
            Err(format!("the files {} and {} lie over each other", a.escape_debug(), b.escape_debug()))
        }
        None => Ok(()),
    }
}

fn directory(bytes: &[u8]) -> Result<Directory, String> {
    // The record at the end is followed by a comment of at most 65535 bytes.
    let first = bytes.len().saturating_sub(END_LENGTH + usize::from(u16::MAX));
    let places = (first..=bytes.len().saturating_sub(END_LENGTH)).rev();
    let fits = |at: &usize| {
        let record = Record(&bytes[*at..]);
        let comment = record.u16(20).map(usize::from);
        record.u32(0) == Some(END) && comment.is_some_and(|c| at + END_LENGTH + c == bytes.len())
    };
    let at = places.into_iter().find(fits).ok_or("it ends before its directory does")?;
    let record = Record(&bytes[at..]);
    let small = || {
        Some(Directory { count: record.u16(10)?.into(), at: record.u32(16)?.into(), length: record.u32(12)?.into() })
    };
    let found = small().ok_or("it ends before its directory does")?;
    if record.u16(4) != Some(0) || record.u16(6) != Some(0) {
        return Err("it is one of several volumes".into());
    }
    if found.count != u64::from(u16::MAX) && found.at != u64::from(u32::MAX) && found.length != u64::from(u32::MAX) {
        return Ok(found);
    }
    let large = || {
        let locator = Record::at(bytes, (at as u64).checked_sub(20)?)?;
        let record = Record::at(bytes, locator.u64(8)?)?;
        let is = locator.u32(0)? == LOCATOR_64 && record.u32(0)? == END_64;
        is.then_some(Directory { count: record.u64(32)?, at: record.u64(48)?, length: record.u64(40)? })
    };
    large().ok_or_else(|| "its directory of 64 bits is missing".into())
}

/// One file of the directory.
struct Entry {
    name: String,
    range: Range<usize>,
    /// Where the next entry begins.
    next: u64,
    /// Whether its bytes are the file's own.
    stored: bool,
}

fn entry(bytes: &[u8], at: u64) -> Result<Entry, String> {
    let cut = || "its directory is cut short".to_string();
    let record = Record::at(bytes, at).filter(|r| r.u32(0) == Some(ENTRY)).ok_or_else(cut)?;
    let short = |at| record.u16(at).ok_or_else(cut);
    let (flags, method) = (short(8)?, short(10)?);
    let [name_length, extra_length, comment_length] = [short(28)?, short(30)?, short(32)?].map(usize::from);
    let name = record.slice(ENTRY_LENGTH, name_length).ok_or_else(cut)?;
    let extra = record.slice(ENTRY_LENGTH + name_length, extra_length).ok_or_else(cut)?;
    let name = plain_name(name)?;
    let wrong = |what: &str| format!("the file {} {what}", name.escape_debug());
    if flags & 1 != 0 {
        return Err(wrong("is encrypted"));
    }
    let wide = |at| record.u32(at).map(u64::from).ok_or_else(cut);
    let (mut packed, mut length, mut offset) = (wide(20)?, wide(24)?, wide(42)?);
    let full = u64::from(u32::MAX);
    if let Some(mut values) = extra_64(extra) {
        for value in [&mut length, &mut packed, &mut offset] {
            if *value == full {
                *value = values.next().ok_or_else(|| wrong("has no length of 64 bits"))?;
            }
        }
    }
    let stored = method == 0;
    if stored && packed != length {
        return Err(wrong("is stored in another length than its own"));
    }
    let local = Record::at(bytes, offset).filter(|r| r.u32(0) == Some(LOCAL)).ok_or_else(|| wrong("is not there"))?;
    let before =
        LOCAL_LENGTH as u64 + u64::from(local.u16(26).ok_or_else(cut)?) + u64::from(local.u16(28).ok_or_else(cut)?);
    let start = offset.checked_add(before);
    let range = start.and_then(|start| Some((start, start.checked_add(packed)?)));
    let (start, end) = range.filter(|r| r.1 <= bytes.len() as u64).ok_or_else(|| wrong("lies outside the archive"))?;
    let next = at + (ENTRY_LENGTH + name_length + extra_length + comment_length) as u64;
    Ok(Entry { name, range: start as usize..end as usize, next, stored })
}

/// The values of the extra field for 64 bits.
fn extra_64(mut extra: &[u8]) -> Option<impl Iterator<Item = u64>> {
    loop {
        let record = Record(extra);
        let (kind, length) = (record.u16(0)?, usize::from(record.u16(2)?));
        let body = record.slice(4, length)?;
        if kind == 1 {
            return Some(body.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
        }
        extra = &extra[4 + length..];
    }
}

/// A name that can't lead out of a folder: nothing is ever written by it, but who makes such names has something in mind.
fn plain_name(name: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(name).map_err(|_| "the name of a file is not UTF-8".to_string())?;
    let plain = !text.is_empty()
        && !text.starts_with('/')
        && !text.contains(['\\', ':'])
        && !text.contains(|c: char| c.is_control())
        && text.split('/').all(|part| part != ".." && part != ".");
    if plain { Ok(text.into()) } else { Err(format!("the file name {} is not plain", text.escape_debug())) }
}
