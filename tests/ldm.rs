//! Checkpoints in LDM's names become what diffusers makes of them: name by name, at the size of the published networks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use muybridge::ldm::{self, Part};
use muybridge::loaders::Cut;
use muybridge::presets::Preset;
use muybridge::{Config, ControlNet, Device, Unet, Vae, Weights};
use serde_json::{Value, json};

/// A line of a table: a name, its shape, and what becomes of it.
struct Row {
    source: String,
    shape: Vec<usize>,
    targets: Vec<(String, Vec<usize>)>,
}

fn shape(text: &str) -> Vec<usize> {
    text.split('x').filter(|e| !e.is_empty()).map(|e| e.parse().unwrap()).collect()
}

fn table(name: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/keys/ldm/{name}.tsv"));
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let [source, extents, targets] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let target = |t: &str| match t.split_once(':') {
            Some((name, form)) => (name.to_string(), shape(form)),
            None => (t.to_string(), shape(extents)),
        };
        let targets = targets.split(' ').filter(|t| !t.is_empty()).map(target).collect();
        Row { source: source.into(), shape: shape(extents), targets }
    };
    text.lines().map(row).collect()
}

/// A checkpoint with the names and shapes of some rows, whose elements are a hole in a file.
fn hollow(dir: &Path, rows: &[Row]) -> Weights {
    let (mut header, mut at) = (serde_json::Map::new(), 0usize);
    for row in rows {
        let end = at + row.shape.iter().product::<usize>();
        header.insert(row.source.clone(), json!({ "dtype": "U8", "shape": row.shape, "data_offsets": [at, end] }));
        at = end;
    }
    let text = Value::Object(header).to_string();
    let path = dir.join("hollow.safetensors");
    let mut file = File::create(&path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len((8 + text.len() + at) as u64).unwrap();
    Weights::open(path).unwrap()
}

/// The shape of what a cut leaves.
fn left(shape: &[usize], cut: Cut) -> Vec<usize> {
    match (cut, shape) {
        (Cut::Squeezed, [rows, columns, 1, 1]) => vec![*rows, *columns],
        (Cut::Transposed, [rows, columns]) => vec![*columns, *rows],
        (Cut::Part { of, .. }, [rows, rest @ ..]) => [&[rows / of], rest].concat(),
        _ => shape.to_vec(),
    }
}

/// Checks a table's network, and gives it.
fn check(name: &str) -> Part {
    let dir = tempfile::tempdir().unwrap();
    let rows = table(name);
    let mut parts = ldm::parts(&hollow(dir.path(), &rows)).unwrap();
    assert_eq!(parts.len(), 1, "{name}");
    let part = parts.remove(0);
    let mut made: BTreeMap<&str, Vec<(String, Cut)>> = BTreeMap::new();
    for piece in &part.pieces {
        made.entry(&piece.source).or_default().push((piece.target.clone(), piece.cut));
    }
    for row in &rows {
        let ours = made.remove(row.source.as_str()).unwrap_or_default();
        // Where a tensor is cut in three, the first rows are the queries'.
        if row.targets.len() == 3 {
            let order: Vec<(usize, &str)> = ours
                .iter()
                .map(|(target, cut)| match cut {
                    Cut::Part { index, of: 3 } => (*index, target.rsplit('.').nth(1).unwrap()),
                    other => panic!("{name}: {}: {other:?}", row.source),
                })
                .collect();
            assert_eq!(order, [(0, "q_proj"), (1, "k_proj"), (2, "v_proj")], "{name}: {}", row.source);
        }
        let mut formed: Vec<(String, Vec<usize>)> =
            ours.into_iter().map(|(t, cut)| (t, left(&row.shape, cut))).collect();
        let mut wanted = row.targets.clone();
        formed.sort();
        wanted.sort();
        assert_eq!(formed, wanted, "{name}: {}", row.source);
        if wanted.is_empty() {
            assert!(part.left_out.iter().any(|out| row.source.ends_with(out.as_str())), "{name}: {}", row.source);
        }
    }
    assert!(made.is_empty(), "{name}: {made:?}");
    part
}

/// Where both say something, the configuration says what the published one does.
fn agrees(part: &Part, preset: &str) {
    let published: Value = serde_json::from_str(Preset::find(preset).unwrap().json).unwrap();
    for (field, value) in published.as_object().unwrap() {
        match part.config.get(field) {
            Some(ours) => assert_eq!(ours, value, "{preset}: {field}"),
            None => assert!(value.is_null() || value == &json!(false), "{preset}: {field} is not said"),
        }
    }
}

/// The configuration as a file would be read.
fn config(part: &Part) -> Config {
    Config::parse(part.config.to_string().as_bytes(), "config.json").unwrap()
}

#[test]
fn unets_become_diffusers() {
    let device = Device::open("trace").unwrap();
    for (name, preset) in [("sd15_unet", "sd15-unet"), ("sdxl_unet", "sdxl-unet")] {
        let part = check(name);
        assert_eq!((part.folder, part.stem), ("unet", "diffusion_pytorch_model"));
        agrees(&part, preset);
        Unet::of(&config(&part), Weights::procedural(0, muybridge::DType::F32), &device).unwrap();
    }
}

#[test]
fn controlnets_become_diffusers() {
    let part = check("sd15_controlnet");
    assert_eq!(part.folder, "controlnet");
    agrees(&part, "sd15-controlnet");
    let device = Device::open("trace").unwrap();
    ControlNet::of(&config(&part), Weights::procedural(0, muybridge::DType::F32), &device).unwrap();
}

#[test]
fn autoencoders_become_diffusers() {
    let part = check("sd_vae");
    agrees(&part, "sd-vae");
    let device = Device::open("trace").unwrap();
    Vae::of(&config(&part), Weights::procedural(0, muybridge::DType::F32), &device).unwrap();
}

#[test]
fn text_encoders_become_transformers() {
    for (name, folder, layers, act, projected) in [
        ("sd15_text", "text_encoder", 12, "quick_gelu", "CLIPTextModel"),
        ("sd21_text", "text_encoder", 23, "gelu", "CLIPTextModel"),
        ("sdxl_text_2", "text_encoder_2", 32, "gelu", "CLIPTextModelWithProjection"),
    ] {
        let part = check(name);
        assert_eq!((part.folder, part.stem), (folder, "model"));
        assert_eq!(part.config["num_hidden_layers"], layers);
        assert_eq!(part.config["hidden_act"], act);
        assert_eq!(part.config["architectures"], json!([projected]));
    }
}

#[test]
fn whole_checkpoints_come_apart() {
    let dir = tempfile::tempdir().unwrap();
    let trainer = Row { source: "betas".into(), shape: vec![1000], targets: Vec::new() };
    let averaged = Row { source: "model_ema.diffusion_modelout2bias".into(), shape: vec![4], targets: Vec::new() };
    let mut rows: Vec<Row> = ["sdxl_unet", "sd_vae", "sdxl_text_2"].iter().flat_map(|name| table(name)).collect();
    rows.extend([trainer, averaged]);
    let parts = ldm::parts(&hollow(dir.path(), &rows)).unwrap();
    assert_eq!(parts.iter().map(|p| p.folder).collect::<Vec<_>>(), ["unet", "vae", "text_encoder_2"]);
    // SDXL's autoencoder has a scale of its own.
    assert_eq!(parts[1].config["scaling_factor"], 0.13025);
}

#[test]
fn names_without_a_place_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = table("sd15_unet");
    rows.push(Row {
        source: "model.diffusion_model.input_blocks.1.7.weight".into(),
        shape: vec![1],
        targets: Vec::new(),
    });
    let error = ldm::parts(&hollow(dir.path(), &rows)).unwrap_err().to_string();
    assert!(error.contains("input_blocks.1.7.weight has no place"), "{error}");
    rows.retain(|row| !row.source.ends_with("input_blocks.1.0.out_layers.3.weight"));
    let error = ldm::parts(&hollow(dir.path(), &rows)).unwrap_err().to_string();
    assert!(error.contains("input_blocks.1.0.out_layers.3.weight is missing"), "{error}");
    let others = [Row { source: "conv_in.weight".into(), shape: vec![1], targets: Vec::new() }];
    assert!(ldm::parts(&hollow(dir.path(), &others)).unwrap().is_empty());
}
