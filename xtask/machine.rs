//! What machine code consists of: instructions by their names, as nvdisasm lists them, and the resources that it declares.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use muybridge::runtime::cubin::{self, Resources, Spills};

use crate::Outcome;
use crate::compile::{Compiled, write};

/// Folder of NVRTC and nvdisasm, as `tests/compilers` fills it: `MUYBRIDGE_COMPILERS`, or `target/compilers`.
pub fn folder() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).map(|root| root.join("target/compilers"));
    std::env::var_os("MUYBRIDGE_COMPILERS").map(PathBuf::from).or(own).unwrap_or_default()
}

/// Set in a process whose library path has NVRTC's folder.
const INSIDE: &str = "MUYBRIDGE_COMPILERS_INSIDE";

/// Restarts this program with NVRTC's folder on its library path. Returns `Ok` in the restarted program, and where NVRTC is
/// not in that folder but found elsewhere.
///
/// # Errors
/// There is no compiler or no disassembler: says which, and how to get it.
pub fn enter() -> Result<(), String> {
    let folder = folder();
    let missing = |what: &str| format!("{what} is not in {}: `tests/compilers` fetches it", folder.display());
    if std::env::var_os(INSIDE).is_none() && folder.join("libnvrtc.so").exists() {
        return restart(&folder);
    }
    if muybridge::runtime::backend::cuda::compiler().is_none() {
        return Err(missing("NVRTC"));
    }
    if folder.join("nvdisasm").exists() { Ok(()) } else { Err(missing("nvdisasm")) }
}

#[cfg(unix)]
fn restart(folder: &Path) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let own = std::env::current_exe().map_err(|e| format!("the program has no path: {e}"))?;
    let mut path = folder.as_os_str().to_owned();
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(before);
    }
    let failed =
        Command::new(own).args(std::env::args_os().skip(1)).env("LD_LIBRARY_PATH", path).env(INSIDE, "1").exec();
    Err(format!("the program does not restart: {failed}"))
}

#[cfg(not(unix))]
fn restart(_: &Path) -> Result<(), String> {
    Err("the compilers are fetched for Linux only".into())
}

/// Instructions of a kernel by name with all of their modifiers (`LDG.E.128.CONSTANT`), and how often each stands in the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instructions(pub BTreeMap<String, u32>);

/// What one kernel needs and consists of.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What it declares.
    pub resources: Resources,
    /// Registers that the assembler spilled.
    pub spills: Spills,
    /// Its instructions, where they were listed.
    pub instructions: Option<Instructions>,
    /// What the assembler says of products of warpgroups that it lets wait for each other.
    pub serialized: Option<String>,
}

impl Instructions {
    /// How often instructions whose first part is one of these stand in the code: `HMMA` counts `HMMA.16816.F32`.
    pub fn count(&self, names: &[&str]) -> u32 {
        let first = |full: &str| full.split('.').next().unwrap_or("").to_string();
        self.0.iter().filter(|(full, _)| names.contains(&first(full).as_str())).map(|(_, n)| n).sum()
    }

    /// Instructions that copy 16 bytes a thread from global memory, or blocks of memory at once.
    pub fn wide_loads(&self) -> u32 {
        let is = |full: &str| {
            let mut parts = full.split('.');
            match parts.next() {
                Some("LDG" | "LDGSTS" | "LD") => parts.any(|p| p == "128"),
                Some("UTMALDG" | "UBLKCP") => true,
                _ => false,
            }
        };
        self.0.iter().filter(|(full, _)| is(full)).map(|(_, n)| n).sum()
    }

    /// All of them.
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }
}

/// The kernels of a cubin, by name, with their instructions if these are to be listed. The listing is kept beside the code.
///
/// # Errors
/// No cubin, no nvdisasm, or a listing without one of its kernels.
pub fn measure(compiled: &Compiled, list: bool) -> Outcome<BTreeMap<String, Measured>> {
    let kernels = cubin::read(&compiled.code)?.kernels;
    let mut spills = cubin::spills(&compiled.log);
    let mut listed = if list { Some(instructions(&compiled.file)?) } else { None };
    let measured = kernels.into_iter().map(|resources| {
        let name = resources.entry.clone();
        let spills = spills.remove(&name).ok_or_else(|| format!("{name}: the log does not tell of it"))?;
        let missing = || format!("{name}: nvdisasm does not list it");
        let instructions = listed.as_mut().map(|all| all.remove(&name).ok_or_else(missing)).transpose()?;
        // "(C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized due to …"
        let said =
            |line: &&str| line.contains("wgmma") && line.contains("serialized") && line.contains(&format!("'{name}'"));
        let serialized = compiled.log.lines().find(said).map(str::to_string);
        Ok((name, Measured { resources, spills, instructions, serialized }))
    });
    measured.collect()
}

fn instructions(code: &Path) -> Outcome<BTreeMap<String, Instructions>> {
    let kept = code.with_extension("sass");
    if let Ok(text) = std::fs::read_to_string(&kept) {
        return decode(&text).ok_or_else(|| format!("{}: damaged, remove it", kept.display()).into());
    }
    let tool = folder().join("nvdisasm");
    let out = Command::new(&tool).arg("--print-code").arg(code).output();
    let out = out.map_err(|e| format!("{}: {e}", tool.display()))?;
    if !out.status.success() {
        return Err(format!("nvdisasm {}: {}", code.display(), String::from_utf8_lossy(&out.stderr)).into());
    }
    let found = parse(&String::from_utf8_lossy(&out.stdout));
    write(&kept, encode(&found).as_bytes())?;
    Ok(found)
}

fn encode(found: &BTreeMap<String, Instructions>) -> String {
    let lines =
        found.iter().flat_map(|(entry, all)| all.0.iter().map(move |(name, n)| format!("{entry}\t{name}\t{n}\n")));
    lines.collect()
}

fn decode(text: &str) -> Option<BTreeMap<String, Instructions>> {
    let mut found: BTreeMap<String, Instructions> = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split('\t');
        let (entry, name, n) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        found.entry(entry.into()).or_default().0.insert(name.into(), n);
    }
    Some(found)
}

/// Reads a listing: `.section .text.NAME` begins a kernel, `/*0a10*/ @!P0 HMMA.16816.F32 R4, …;` is an instruction.
fn parse(listing: &str) -> BTreeMap<String, Instructions> {
    let mut found: BTreeMap<String, Instructions> = BTreeMap::new();
    let mut entry = String::new();
    for line in listing.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix(".section").filter(|rest| rest.starts_with(char::is_whitespace)) {
            let name = rest.trim().split([',', '\t', ' ']).next().unwrap_or("");
            entry = name.trim_matches('"').strip_prefix(".text.").unwrap_or("").to_string();
            continue;
        }
        let Some((address, rest)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) else { continue };
        // Encodings stand in comments too, but follow no instruction's name.
        if entry.is_empty() || address.is_empty() || !address.chars().all(|c| c.is_ascii_hexdigit()) {
            continue;
        }
        let mut words = rest.split_whitespace().skip_while(|w| w.starts_with('@') || *w == "{");
        let name = words.next().unwrap_or("").trim_end_matches([';', ',']);
        if name.starts_with(|c: char| c.is_ascii_uppercase()) {
            let of = found.entry(entry.clone()).or_default();
            *of.0.entry(if name.starts_with("CALL") { call(rest) } else { name.into() }).or_default() += 1;
        }
    }
    found
}

/// A call by what is called. Shuffles of warps that may have diverged are laid aside and called too, which is a way of
/// writing a branch; arithmetic that is called is a function of some hundred instructions.
fn call(rest: &str) -> String {
    match rest.split_once("__cuda_") {
        // 64 bits are divided where a block finds its share of the work: once.
        Some((_, name)) if !name.contains("sync") && !name.contains("_u64") => {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            format!("CALL.{name}")
        }
        _ => "JUMP".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_counted_by_kernel() {
        let listing = "\
//--------------------- .text.first --------------------------
\t.section\t.text.first,\"ax\",@progbits
\t.sectioninfo\t@\"SHI_REGISTERS=32\"
first:
.text.first:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/               @P1 BRA `(.L_x_1) ;
.L_x_1:
        /*0030*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm3x_div_rn_noftz_f32_slowpath) ;
        /*0040*/                   CALL.REL.NOINC `($__internal_1_$__cuda_sm70_shflsync_down_p) ;
        /*0050*/                   EXIT ;
\t.section\t.text.second,\"ax\",@progbits
        /*0000*/                   EXIT;
";
        let found = parse(listing);
        let names: Vec<_> = found["first"].0.keys().map(String::as_str).collect();
        assert_eq!(names, ["BRA", "CALL.sm3x_div_rn_noftz_f32_slowpath", "EXIT", "JUMP", "LDC", "LDG.E.128.CONSTANT"]);
        assert_eq!(found["second"].0["EXIT"], 1);
        assert_eq!(decode(&encode(&found)), Some(found));
    }
}
