//! A kernel pack: code for machines that have NVIDIA's driver and no NVRTC.
//!
//! Constants that specialise a kernel are structural (dtype, tile, width of heads, flags) and sizes are parameters, so that the
//! kernels of a network at a few sizes are all kernels that it ever needs, but for the sizes at which another tile is chosen.

use std::collections::BTreeMap;
use std::path::Path;

use muybridge::DType;
use muybridge::runtime::backend::cuda::pack::{self, Contents};

use crate::Outcome;
use crate::chips::{CHIPS, Chip};
use crate::compile::{Kept, Wanted, all, write};
use crate::launches::{Kernel, Uses, Work, of_network};

/// Most bytes of a pack.
pub const MOST: usize = 8 << 20;

/// Bits of the distance over which sections are searched for repetitions; the largest section has some 20 MB.
const WINDOW: u32 = 25;

/// What portable code is planned for: devices newer than all that have machine code, with little and with much shared memory.
const LATER: [Chip; 2] = [Chip((10, 3)), Chip((12, 1))];

/// Networks of a pack. They are packed in f16: what they are run in where nothing else is asked for on a GPU.
const NETWORKS: [&str; 4] = ["sd15-unet", "sd15-controlnet", "sdxl-unet", "sd-vae"];

/// Sides of latents: those that the networks were made for, and one of which small tiles come.
const SIDES: [usize; 4] = [32, 64, 96, 128];

/// The kernels of these networks on a chip.
///
/// # Errors
/// A network that cannot be planned.
pub fn kernels(chip: &Chip, networks: &[&'static str]) -> Outcome<Uses> {
    let mut uses = Uses::new();
    for preset in networks {
        for side in SIDES {
            for batch in [1, 2] {
                of_network(&mut uses, chip, Work { preset, batch, side }, DType::F16, "")?;
            }
        }
    }
    Ok(uses)
}

/// A section in a frame of Zstandard that remembers all of it.
fn squeeze(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 19)?;
    encoder.include_checksum(true)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log(WINDOW)?;
    std::io::copy(&mut &raw[..], &mut encoder)?;
    encoder.finish()
}

/// Compiles a pack of these networks, or of all, for these chips, or all, and writes it to a file. Returns what is to be told:
/// kernels and bytes of code by architecture.
///
/// # Errors
/// There is no compiler, a text is refused, or the pack is larger than [`MOST`].
pub fn make(file: &Path, networks: &[String], chips: &[String], kept: &Kept) -> Outcome<String> {
    let known: Vec<&'static str> =
        NETWORKS.into_iter().filter(|n| networks.is_empty() || networks.iter().any(|w| w == n)).collect();
    if known.is_empty() {
        return Err(format!("none of these networks is packed; known: {}", NETWORKS.join(", ")).into());
    }
    let asked = |name: &str| chips.is_empty() || chips.iter().any(|c| c == name);
    let mut sets: Vec<(String, Uses)> = Vec::new();
    for chip in CHIPS.iter().filter(|c| asked(&c.name())) {
        sets.push((chip.name(), kernels(chip, &known)?));
    }
    if asked(pack::PORTABLE) {
        let mut uses = Uses::new();
        for chip in &LATER {
            uses.extend(kernels(chip, &known)?);
        }
        sets.push((pack::PORTABLE.into(), uses));
    }
    let mut texts: BTreeMap<(&str, &str), &Kernel> = BTreeMap::new();
    for (architecture, uses) in &sets {
        texts.extend(uses.keys().map(|k| ((architecture.as_str(), k.text.as_str()), k)));
    }
    let wanted: Vec<_> = texts.iter().map(|((a, _), kernel)| Wanted { architecture: a.to_string(), kernel }).collect();
    let mut contents = Contents::new();
    for (one, made) in wanted.iter().zip(all(&wanted, kept)?) {
        contents.entry(one.architecture.clone()).or_default().insert(one.kernel.text.clone(), made.code);
    }
    let bytes = pack::encode(&contents, squeeze)?;
    if bytes.len() > MOST {
        return Err(format!("the pack would have {} bytes, and {MOST} are the most", bytes.len()).into());
    }
    write(file, &bytes)?;
    let section = |(name, kernels): (&String, &BTreeMap<String, Vec<u8>>)| {
        format!("{name}: {} kernels, {} bytes of code\n", kernels.len(), kernels.values().map(Vec::len).sum::<usize>())
    };
    Ok(contents.iter().map(section).collect::<String>() + &format!("{}: {} bytes", file.display(), bytes.len()))
}
