//! What kernels need of a multiprocessor, read from their machine code and from the assembler's log: no tool of the CUDA
//! toolkit is asked.
//!
//! A cubin is an ELF file. What matters lies in its sections `.nv.info`, whose form NVIDIA does not document: it was read off
//! what NVRTC 12.4 and 13.2 emit for sm_75 to sm_100a, beside what their assembler says of the same kernels.

use std::collections::BTreeMap;

/// Registers that were spilled to local memory, in bytes per thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spills {
    /// Bytes that all instructions that spill store.
    pub stores: u32,
    /// Bytes that all instructions that bring back load.
    pub loads: u32,
}

/// What one kernel needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Name of the kernel.
    pub entry: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of shared memory per block that the kernel declares; a launch may add more.
    pub shared: u32,
    /// Bytes of stack per thread: arrays that are indexed at run time, and spilled registers.
    pub stack: u32,
    /// Most threads of a block, where the kernel sets launch bounds.
    pub most_threads: Option<u32>,
}

/// Machine code of one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Compute capability times ten: 90 for sm_90a.
    pub architecture: u32,
    /// Its kernels, by name.
    pub kernels: Vec<Resources>,
}

/// Machine of an ELF file with CUDA code.
const EM_CUDA: u16 = 190;

/// Kind of the section of symbols.
const SYMBOLS: u32 = 2;

/// Kind of a section without bytes in the file: its size says how much memory it wants.
const NO_BITS: u32 = 8;

/// Form of an attribute that has a payload; the others hold a byte or two in place of its length.
const SIZED: u8 = 4;

/// Payload of `.nv.info`: a symbol, registers per thread.
const REGISTERS: u8 = 0x2f;

/// Payload of `.nv.info`: a symbol, bytes of its stack frame.
const FRAME: u8 = 0x11;

/// Payload of `.nv.info.NAME`: threads of the largest block along each axis.
const MOST_THREADS: u8 = 0x05;

/// From sm_90 on, a kernel's shared memory begins with what the system keeps for itself in every block.
const RESERVED_SHARED: u64 = 1024;

/// Reads a cubin: its kernels, sorted by name.
///
/// # Errors
/// The bytes are no cubin, or one that is cut or damaged; says where.
pub fn read(code: &[u8]) -> Result<Image, String> {
    let elf = Elf::open(code).ok_or("not a cubin: no whole ELF file of CUDA code")?;
    let symbols = elf.symbols().ok_or("a cubin whose table of symbols is damaged")?;
    let mut numbers: BTreeMap<(&str, u8), u32> = BTreeMap::new();
    for (attribute, payload) in attributes(elf.contents(".nv.info")?)? {
        let name = word(payload, 0).and_then(|s| symbols.get(s as usize));
        if let (Some(name), Some(value)) = (name, word(payload, 4)) {
            numbers.insert((name, attribute), value);
        }
    }
    let mut kernels = Vec::new();
    // Every kernel has constants: its parameters. A function that kernels call has none of its own.
    for name in elf.sections.iter().filter_map(|s| s.name.strip_prefix(".nv.constant0.")) {
        let reserved = if elf.architecture >= 90 { RESERVED_SHARED } else { 0 };
        let shared = elf.find(&format!(".nv.shared.{name}")).map_or(0, |s| s.size).saturating_sub(reserved);
        let mut most_threads = None;
        for (attribute, payload) in attributes(elf.contents(&format!(".nv.info.{name}"))?)? {
            if attribute == MOST_THREADS {
                most_threads = (0..3).try_fold(1u32, |n, axis| n.checked_mul(word(payload, 4 * axis)?));
            }
        }
        let number = |attribute| numbers.get(&(name, attribute)).copied();
        kernels.push(Resources {
            entry: name.into(),
            registers: number(REGISTERS).ok_or_else(|| format!("{name}: a cubin that does not say its registers"))?,
            shared: u32::try_from(shared).map_err(|_| format!("{name}: {shared} bytes of shared memory"))?,
            stack: number(FRAME).unwrap_or(0),
            most_threads,
        });
    }
    kernels.sort_by(|a, b| a.entry.cmp(&b.entry));
    Ok(Image { architecture: elf.architecture, kernels })
}

/// What the assembler's log says of spilled registers, by kernel. It says so if asked by `--ptxas-options=--verbose`.
pub fn spills(log: &str) -> BTreeMap<String, Spills> {
    let mut found = BTreeMap::new();
    let mut name = None;
    for line in log.lines() {
        if let Some((_, of)) = line.split_once("Function properties for ") {
            name = Some(of.trim().to_string());
            continue;
        }
        // `664 bytes stack frame, 1940 bytes spill stores, 1948 bytes spill loads`
        let before = |what: &str| -> Option<u32> {
            line.split(',').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
        };
        if let (Some(stores), Some(loads)) = (before("bytes spill stores"), before("bytes spill loads"))
            && let Some(name) = name.take()
        {
            found.insert(name, Spills { stores, loads });
        }
    }
    found
}

/// A section of the file.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

/// An ELF file of 64 bits whose bytes run from low to high.
struct Elf<'a> {
    bytes: &'a [u8],
    architecture: u32,
    sections: Vec<Section<'a>>,
}

impl<'a> Elf<'a> {
    fn open(bytes: &'a [u8]) -> Option<Elf<'a>> {
        if !bytes.starts_with(b"\x7fELF\x02\x01") || half(bytes, 18)? != EM_CUDA {
            return None;
        }
        let flags = word(bytes, 48)?;
        // From version 8 of the form on, the lowest byte of the flags says something else.
        let architecture = if *bytes.get(8)? >= 8 { flags >> 8 & 0xff } else { flags & 0xff };
        let (table, stride) = (long(bytes, 40)?, u64::from(half(bytes, 58)?));
        let (count, names) = (u64::from(half(bytes, 60)?), half(bytes, 62)?);
        let at = |i: u64| usize::try_from(table.checked_add(i.checked_mul(stride)?)?).ok();
        let read = |i: u64| -> Option<(u32, Section<'a>)> {
            let head = bytes.get(at(i)?..)?;
            let (kind, link) = (word(head, 4)?, word(head, 40)?);
            Some((word(head, 0)?, Section { name: "", kind, offset: long(head, 24)?, size: long(head, 32)?, link }))
        };
        let mut sections = (0..count).map(read).collect::<Option<Vec<_>>>()?;
        let names = range(bytes, &sections.get(usize::from(names))?.1)?;
        for (name, section) in &mut sections {
            section.name = text(names, *name)?;
        }
        Some(Elf { bytes, architecture, sections: sections.into_iter().map(|(_, s)| s).collect() })
    }

    fn find(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Bytes of a section; none where there is no such section.
    fn contents(&self, name: &str) -> Result<&'a [u8], String> {
        let Some(section) = self.find(name) else { return Ok(&[]) };
        range(self.bytes, section).ok_or_else(|| format!("a cubin whose section {name} lies outside of the file"))
    }

    /// Names of the symbols, by index.
    fn symbols(&self) -> Option<Vec<&'a str>> {
        let Some(table) = self.sections.iter().find(|s| s.kind == SYMBOLS) else { return Some(Vec::new()) };
        let names = range(self.bytes, self.sections.get(table.link as usize)?)?;
        // Each entry has 24 bytes and begins with the place of its name.
        range(self.bytes, table)?.chunks_exact(24).map(|s| text(names, word(s, 0)?)).collect()
    }
}

/// The attributes of a section `.nv.info` that have a payload.
fn attributes(mut info: &[u8]) -> Result<Vec<(u8, &[u8])>, String> {
    let mut found = Vec::new();
    while let [form, attribute, low, high, rest @ ..] = info {
        let length = if *form == SIZED { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        let (payload, after) = rest.split_at_checked(length).ok_or("a cubin whose attributes are cut")?;
        if *form == SIZED {
            found.push((*attribute, payload));
        }
        info = after;
    }
    Ok(found)
}

fn range<'a>(bytes: &'a [u8], section: &Section<'_>) -> Option<&'a [u8]> {
    if section.kind == NO_BITS {
        return Some(&[]);
    }
    let (from, to) = (section.offset, section.offset.checked_add(section.size)?);
    bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
}

/// The text at this place, up to its zero byte.
fn text(bytes: &[u8], at: u32) -> Option<&str> {
    let rest = bytes.get(at as usize..)?;
    std::str::from_utf8(&rest[..rest.iter().position(|b| *b == 0)?]).ok()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kernels, `average` (300 floats of shared memory, launch bounds of 256 threads) and `pick` (an array of 100 floats,
    /// indexed at run time), as NVRTC 12.4 and 13.2 compile them.
    const CODE: [(&[u8], u32, [u32; 2]); 3] = [
        (include_bytes!("tests/cubin/12_4.sm_80.cubin"), 80, [12, 32]),
        (include_bytes!("tests/cubin/12_4.sm_90a.cubin"), 90, [14, 34]),
        (include_bytes!("tests/cubin/13_2.sm_90a.cubin"), 90, [14, 34]),
    ];

    #[test]
    fn kernels_need_what_the_assembler_said() {
        for (code, architecture, [first, second]) in CODE {
            let named = |entry: &str, registers, shared, stack, most_threads| {
                let entry = entry.into();
                Resources { entry, registers, shared, stack, most_threads }
            };
            let kernels = vec![named("average", first, 1200, 0, Some(256)), named("pick", second, 0, 400, None)];
            assert_eq!(read(code), Ok(Image { architecture, kernels }));
        }
    }

    #[test]
    fn a_damaged_cubin_is_an_error_and_no_panic() {
        for (whole, ..) in CODE {
            for i in 0..whole.len() {
                drop(read(&whole[..i]));
                let mut flipped = whole.to_vec();
                flipped[i] ^= 0xa5;
                // A flipped number is another number: it may be read, but never beyond the file.
                drop(read(&flipped));
            }
            assert!(read(&whole[..whole.len() / 2]).is_err(), "its table of sections is gone");
        }
        assert!(read(b"").is_err() && read(b"\x7fELF").is_err());
    }

    #[test]
    fn spills_are_read_from_the_log() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'pick' for 'sm_80'
ptxas info    : Function properties for pick
ptxas         .     664 bytes stack frame, 1940 bytes spill stores, 1948 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 664 bytes cumulative stack size, 364 bytes cmem[0]
ptxas info    : Function properties for average
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
        let found = spills(log);
        assert_eq!(found.get("pick"), Some(&Spills { stores: 1940, loads: 1948 }));
        assert_eq!(found.get("average"), Some(&Spills::default()));
        assert_eq!((found.len(), spills("").len()), (2, 0));
    }
}
