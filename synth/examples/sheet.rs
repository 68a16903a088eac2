//! A contact sheet of many clips, to look at: `cargo run -p muybridge-synth --example sheet -- OUT.png [SIZE] [SEED] [LOOK]`.
//!
//! Each row is a clip: reference, four frames, and the maps of the last of them.

use std::path::Path;

use muybridge_synth::{Clip, ClipOptions, Error, Look, Picture, Split};

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let size = number(1, 128) as usize;
    let options = ClipOptions {
        width: size,
        height: size,
        seed: number(2, 0),
        look: args.get(3).and_then(|a| Look::named(a)),
        split: Split::Train,
        ..ClipOptions::default()
    };
    let rows = number(4, 10) as usize;
    let mut sheet = Picture::black(10 * size, rows * size);
    for row in 0..rows {
        let clip = Clip::new(&options, row as u64);
        let started = std::time::Instant::now();
        let (reference, frames) = clip.render();
        let rate = frames.len() as f32 / started.elapsed().as_secs_f32();
        println!("{row}: {} ({}), {rate:.0} frames/s", clip.motion.name(), clip.look.name());
        let last = &frames[frames.len() - 1];
        let mut cells: Vec<&Picture> = vec![&reference.colour];
        cells.extend([0, 5, 10, frames.len() - 1].map(|i| &frames[i].colour));
        cells.extend([&last.normal, &last.depth, &last.semantic_map, &last.nocs, &last.dwpose]);
        for (column, cell) in cells.into_iter().enumerate() {
            for y in 0..size {
                let to = 3 * ((row * size + y) * sheet.width + column * size);
                sheet.pixels[to..to + 3 * size].copy_from_slice(&cell.pixels[3 * y * size..3 * (y + 1) * size]);
            }
        }
    }
    sheet.save(Path::new(args.first().map_or("sheet.png", |a| a)))
}
