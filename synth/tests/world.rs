//! The world as its users see it: the same everywhere, disjoint where it says so, complete on disk or not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use muybridge_synth::files::{Job, MAPS};
use muybridge_synth::{Clip, ClipOptions, Error, Look, Motion, Split};

fn options(split: Split) -> ClipOptions {
    ClipOptions { width: 40, height: 56, frames: 3, split, look: None, ..ClipOptions::default() }
}

/// FNV-1a over bytes.
fn digest<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3))
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_every_machine() {
    // Recorded once. Another value means that pictures changed: on purpose, or because a machine rounds differently.
    let digests: Vec<u64> = (0..4)
        .map(|i| {
            let options = ClipOptions { moving_camera: true, ..options(Split::Train) };
            let frame = Clip::new(&options, i).frame(2);
            let all = [&frame.colour, &frame.normal, &frame.depth, &frame.semantic_map, &frame.dwpose];
            digest(all.iter().flat_map(|p| &p.pixels))
        })
        .collect();
    let recorded: Vec<u64> =
        include_str!("digests.txt").lines().filter_map(|l| u64::from_str_radix(l, 16).ok()).collect();
    let found: Vec<String> = digests.iter().map(|d| format!("{d:016x}")).collect();
    assert_eq!(digests, recorded, "found:\n{}", found.join("\n"));
}

/// Where the camera stands still, a corner that nobody comes near changes by the camera's grain only; where it moves, by more. The
/// person is the same.
#[test]
fn the_camera_moves_only_where_it_is_asked_to() {
    let corner = |clip: &Clip, frame: usize| -> Vec<u8> {
        let picture = clip.frame(frame).colour;
        picture.pixels.chunks(3 * picture.width).take(24).flat_map(|row| row[..24 * 3].to_vec()).collect()
    };
    let mut moved = 0;
    for index in (0..12).step_by(2) {
        let still = ClipOptions { width: 128, height: 128, frames: 16, ..options(Split::Train) };
        let moving = ClipOptions { moving_camera: true, ..still.clone() };
        let (still, moving) = (Clip::new(&still, index), Clip::new(&moving, index));
        assert_eq!((still.look, still.identity.id), (Look::Real, moving.identity.id));
        let apart = |clip: &Clip| {
            let (a, b) = (corner(clip, 0), corner(clip, 15));
            a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).max()
        };
        assert!(apart(&still) <= Some(8), "clip {index}: {:?}", apart(&still));
        moved += usize::from(apart(&moving) > Some(8));
    }
    assert!(moved >= 2, "{moved} cameras moved");
}

#[test]
fn no_source_calls_functions_that_differ_between_systems() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let bad = [
                    ".sin()", ".cos()", ".tan(", ".exp(", ".exp2(", ".ln(", ".powf(", ".powi(", ".atan2(", ".acos(",
                    ".cbrt(",
                ];
                for call in bad.iter().chain(&[".mul_add(", ".hypot(", ".sin_cos()"]) {
                    assert!(!code.contains(call), "{} calls {call}", path.display());
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen} sources");
}

#[test]
fn what_is_held_out_is_never_trained_on() {
    let of = |split, seed| {
        let options = ClipOptions { seed, ..options(split) };
        (0..300).map(move |i| Clip::new(&options, i)).collect::<Vec<_>>()
    };
    for seed in [0, 1] {
        let (train, test) = (of(Split::Train, seed), of(Split::Test, 1 - seed));
        let people = |clips: &[Clip]| clips.iter().map(|c| c.identity.id).collect::<BTreeSet<_>>();
        assert!(people(&train).is_disjoint(&people(&test)));
        let acts = |clips: &[Clip]| clips.iter().map(|c| c.motion.name()).collect::<BTreeSet<_>>();
        assert!(acts(&train).is_disjoint(&acts(&test)));
        assert!(train.iter().all(|c| c.identity.split() == Split::Train && c.motion.split() == Split::Train));
        assert!(test.iter().all(|c| c.identity.split() == Split::Test && c.motion.split() == Split::Test));
    }
    // Both are rich enough to be of use.
    let held = (0..2000).filter(|id| Motion::new(*id).split() == Split::Test).count();
    assert!((300..1200).contains(&held), "{held} of 2000 motions are held out");
}

#[test]
fn maps_agree_with_each_other() {
    for i in 0..6 {
        let frame = Clip::new(&ClipOptions { width: 96, height: 96, ..options(Split::Train) }, i).frame(1);
        let (mut covered, mut bent) = (0, 0);
        for p in 0..96 * 96 {
            let at = |m: &muybridge_synth::Picture| [m.pixels[3 * p], m.pixels[3 * p + 1], m.pixels[3 * p + 2]];
            let someone = at(&frame.semantic_map) != [0; 3];
            assert!(!someone || (at(&frame.normal) != [0; 3] && at(&frame.depth) != [0; 3]), "clip {i}, pixel {p}");
            covered += usize::from(someone);
            let n = at(&frame.normal).map(|v| f32::from(v) / 127.5 - 1.0);
            let length = n.iter().map(|v| v * v).sum::<f32>().sqrt();
            bent += usize::from(someone && (length - 1.0).abs() > 0.25);
        }
        assert!((400..6000).contains(&covered), "clip {i}: the person covers {covered} pixels");
        assert!(bent * 5 < covered, "clip {i}: {bent} of {covered} normals are not of unit length");
        assert_eq!(frame.depth.pixels.iter().max(), Some(&255));
    }
}

/// Pixels of the person: the coordinates, the colour of the part, the colour.
fn places(frame: &muybridge_synth::Frame) -> Vec<[[u8; 3]; 3]> {
    let pixels = |m: &muybridge_synth::Picture| m.pixels.as_chunks::<3>().0.to_vec();
    let maps = [&frame.nocs, &frame.semantic_map, &frame.colour].map(pixels);
    let each = (0..maps[0].len()).map(|i| [maps[0][i], maps[1][i], maps[2][i]]);
    each.filter(|[nocs, part, _]| {
        assert_eq!(*nocs == [0; 3], *part == [0; 3], "a place where nobody is, or nobody where a place is");
        *part != [0; 3]
    })
    .collect()
}

/// Whatever the pose, the same coordinates are the same spot of the same part, painted the same.
#[test]
fn coordinates_stay_on_the_body() {
    for i in [1, 3, 5, 7] {
        let options = ClipOptions { width: 96, height: 96, frames: 16, ..options(Split::Train) };
        let (reference, frames) = Clip::new(&options, i).render();
        let known = places(&reference);
        let square =
            |a: &[u8; 3], b: &[u8; 3]| -> u32 { a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum() };
        let (mut met, mut strayed, mut apart, mut beside) = (0, 0, 0.0, 0.0);
        for [at, part, colour] in frames.iter().step_by(5).flat_map(places) {
            let Some(near) = known.iter().min_by_key(|p| square(&p[0], &at)) else { continue };
            if square(&near[0], &at) <= 36 {
                met += 1;
                strayed += usize::from(near[1] != part);
                apart += f64::from(square(&near[2], &colour)).sqrt();
                beside += f64::from(square(&known[met * 7919 % known.len()][2], &colour)).sqrt();
            }
        }
        assert!(met > 400, "clip {i}: {met} pixels of places that the reference shows");
        // At joints a pixel of one part lies beside one of another.
        assert!(strayed * 12 < met, "clip {i}: {strayed} of {met} pixels are of another part");
        assert!(apart * 2.0 < beside, "clip {i}: colours {apart:.0} apart, those of any two pixels {beside:.0}");
    }
}

fn job<'a>(
    out: &'a Path,
    options: &'a ClipOptions,
    maps: &'a [String],
    packed: usize,
    go_on: &'a (dyn Fn() -> bool + Sync),
) -> Job<'a> {
    Job { out, options, clips: 5, maps, packed, progress: &|_| {}, go_on }
}

fn tree(dir: &Path) -> BTreeSet<(String, u64)> {
    let (mut folders, mut files) = (vec![dir.to_path_buf()], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                files.insert((name, digest(&fs::read(&path).unwrap())));
            }
        }
    }
    files
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_files() {
    let (options, maps) = (options(Split::Test), MAPS.map(String::from));
    for packed in [0, 2] {
        let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(job(whole.path(), &options, &maps, packed, &|| true).run().unwrap(), 5);
        let calls = AtomicUsize::new(0);
        let stop = || calls.fetch_add(1, Ordering::SeqCst) < 3;
        let stopped = job(broken.path(), &options, &maps, packed, &stop).run();
        assert!(matches!(stopped, Err(Error::Interrupted(n)) if n < 5), "{stopped:?}");
        assert!(tree(broken.path()).iter().all(|(name, _)| !name.contains(".partial")));
        job(broken.path(), &options, &maps, packed, &|| true).run().unwrap();
        assert_eq!(tree(whole.path()), tree(broken.path()));
        let lines = fs::read_to_string(whole.path().join("manifest.jsonl")).unwrap();
        assert_eq!(lines.lines().count(), 5);
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first["frames"].as_array().unwrap().len(), 3);
        assert_eq!(first["frames"][0]["face"]["landmarks"].as_array().unwrap().len(), 5);
        // Other options do not mix with what is there.
        let other = ClipOptions { look: Some(Look::Real), ..options.clone() };
        assert!(matches!(job(whole.path(), &other, &maps, packed, &|| true).run(), Err(Error::Other { .. })));
    }
}

#[test]
fn what_would_fill_the_memory_or_the_day_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let maps = MAPS.map(String::from);
    let run = |frames: usize, side: usize, clips: usize, packed: usize| {
        let options = ClipOptions { frames, width: side, height: side, ..options(Split::Train) };
        Job { clips, ..job(dir.path(), &options, &maps, packed, &|| false) }.run().unwrap_err().to_string()
    };
    assert!(run(100_000, 2048, 1, 0).contains("a clip of 100000 frames of 2048x2048"));
    assert!(run(16, 512, 100, 100).contains("100 clips packed together"));
    assert!(run(16, 512, 100, usize::MAX).contains("100 clips packed together"));
    // Stopped at once, and no manifest of fifty million clips looked for.
    assert!(run(16, 64, 50_000_000, 0).contains("interrupted: 0"));
    assert_eq!(fs::read(dir.path().join("manifest.jsonl")).unwrap(), b"");
}

#[test]
fn arrays_have_the_shape_that_their_header_says() {
    let (options, maps) = (options(Split::Train), vec!["normal".to_string(), "depth".into()]);
    let dir = tempfile::tempdir().unwrap();
    job(dir.path(), &options, &maps, 4, &|| true).run().unwrap();
    for (shard, clips) in [("shard_00000", 4), ("shard_00001", 1)] {
        for (name, bytes) in [
            ("frames", 3 * 3 * 40 * 56),
            ("reference", 3 * 40 * 56),
            ("normal", 3 * 3 * 40 * 56),
            ("depth", 3 * 40 * 56),
        ] {
            let file = fs::read(dir.path().join(shard).join(format!("{name}.npy"))).unwrap();
            let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
            assert_eq!(header % 64, 0);
            assert_eq!(file.len() - header, clips * bytes, "{shard}/{name}");
        }
    }
}
