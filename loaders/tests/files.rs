//! Files as they should be: what is stored is what is read. (Files that lie are in `tests/loaders.rs` of the workspace.)

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use muybridge_loaders::{LoadError, SafetensorsFile, Weights, read_tensors, write_tensors};
use muybridge_runtime::{ByteOwner, DType, Element, HostTensor, Shape};

type Tensors = BTreeMap<String, HostTensor>;

fn tensor<T: Element>(dims: &[usize], values: &[f32]) -> HostTensor {
    let elements = values.iter().map(|v| T::from_f32(*v)).collect();
    HostTensor::new(Shape::new(dims).unwrap(), elements).unwrap()
}

fn tensors(all: impl IntoIterator<Item = (&'static str, HostTensor)>) -> Tensors {
    all.into_iter().map(|(name, t)| (name.to_string(), t)).collect()
}

fn write(dir: &Path, name: &str, all: impl IntoIterator<Item = (&'static str, HostTensor)>) -> PathBuf {
    write_tensors(dir.join(name), &tensors(all)).unwrap();
    dir.join(name)
}

fn raw(dir: &Path, name: &str, header: &str, data: &[u8]) -> PathBuf {
    fs::write(dir.join(name), [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
    dir.join(name)
}

#[test]
fn what_is_written_is_read_in_every_type() {
    let dir = tempfile::tempdir().unwrap();
    let all = tensors([
        ("f32", tensor::<f32>(&[2, 2], &[1.5, -0.0, f32::NAN, f32::MIN_POSITIVE])),
        ("f16", tensor::<f16>(&[3], &[1.0, 65504.0, -2.5])),
        ("bf16", tensor::<bf16>(&[1, 1, 2], &[1e30, -3.0])),
        ("scalar", tensor::<f32>(&[], &[7.0])),
        ("nothing", tensor::<f16>(&[0, 4], &[])),
    ]);
    let path = dir.path().join("all.safetensors");
    write_tensors(&path, &all).unwrap();
    let read = read_tensors(&path).unwrap();
    assert_eq!(read.len(), all.len());
    for (name, tensor) in &all {
        assert_eq!((read[name].desc(), read[name].bytes()), (tensor.desc(), tensor.bytes()), "{name}");
    }
    let theirs = fs::read(&path).unwrap();
    assert_eq!(safetensors::SafeTensors::deserialize(&theirs).unwrap().len(), all.len());
}

#[test]
fn a_file_of_no_tensors_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::open(write(dir.path(), "none.safetensors", [])).unwrap();
    assert!(weights.census().is_empty());
    weights.finish().unwrap();
}

#[test]
fn integers_and_doubles_are_read_as_f32() {
    let dir = tempfile::tempdir().unwrap();
    let header = r#"{"__metadata__":{"format":"pt"},
        "i":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"d":{"dtype":"F64","shape":[1],"data_offsets":[16,24]},
        "n":{"dtype":"I32","shape":[1],"data_offsets":[24,28]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[28,30]},
        "u":{"dtype":"U8","shape":[1],"data_offsets":[30,31]}}"#;
    let mut data = [(-3i64).to_le_bytes(), 49407i64.to_le_bytes(), 0.1f64.to_le_bytes()].concat();
    data.extend((-7i32).to_le_bytes());
    data.extend([1, 0, 255]);
    let path = raw(dir.path(), "numbers.safetensors", header, &data);
    let read = read_tensors(&path).unwrap();
    let values: Vec<Vec<f32>> = ["i", "d", "n", "b", "u"].iter().map(|n| read[*n].to_f32()).collect();
    assert_eq!(values, [vec![-3., 49407.], vec![0.1], vec![-7.], vec![1., 0.], vec![255.]]);
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.header().metadata["format"], "pt");
    assert_eq!(file.header().tensors[0].dtype.to_string(), "I64");
}

#[test]
fn a_write_that_fails_leaves_neither_half_a_file_nor_another() {
    let dir = tempfile::tempdir().unwrap();
    let one = tensors([("a", tensor::<f32>(&[1], &[1.0]))]);
    let taken = dir.path().join("taken.safetensors");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("occupant"), "").unwrap();
    assert!(matches!(write_tensors(&taken, &one), Err(LoadError::Io { .. })));
    assert!(matches!(write_tensors(dir.path().join("absent/a.safetensors"), &one), Err(LoadError::Io { .. })));
    for name in ["__metadata__".to_string(), "n".repeat(600)] {
        let bad = BTreeMap::from([(name, one["a"].clone())]);
        assert!(write_tensors(dir.path().join("bad.safetensors"), &bad).is_err());
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["taken.safetensors"]);
}

#[test]
fn a_file_can_be_replaced_while_it_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "w.safetensors", [("w", tensor::<f32>(&[2], &[1.0, 2.0]))]);
    let before = Weights::open(&path).unwrap().get("w", [2]).unwrap();
    write(dir.path(), "w.safetensors", [("w", tensor::<f32>(&[1], &[9.0]))]);
    assert_eq!(before.read().unwrap().to_f32(), [1.0, 2.0]);
    assert_eq!(Weights::open(&path).unwrap().get_any("w").unwrap().read().unwrap().to_f32(), [9.0]);
}

#[test]
fn weights_stay_as_stored_unless_another_type_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0, 1.001, -3.0, 1e-3];
    let path = write(
        dir.path(),
        "w.safetensors",
        [
            ("a", tensor::<f32>(&[4], &values)),
            ("b", tensor::<f16>(&[4], &values)),
            ("c", tensor::<bf16>(&[4], &values)),
        ],
    );
    let weights = Weights::open(&path).unwrap();
    for (name, dtype) in [("a", DType::F32), ("b", DType::F16), ("c", DType::BF16)] {
        let stored = weights.get(name, [4]).unwrap();
        assert_eq!((stored.desc().dtype, stored.name()), (dtype, name));
        for to in [DType::F32, DType::F16, DType::BF16] {
            let converted = weights.converted(to).get(name, [4]).unwrap().read().unwrap();
            assert_eq!(converted, stored.read().unwrap().convert(to));
        }
    }
}

#[test]
fn data_may_lie_at_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let header =
        r#"{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#;
    for pad in 0..4 {
        let data = [&[5][..], &1.25f32.to_le_bytes(), &(-2.0f32).to_le_bytes()].concat();
        let path = raw(dir.path(), "odd.safetensors", &format!("{header}{}", " ".repeat(pad)), &data);
        let weight = Weights::open(path).unwrap().get("w", [2]).unwrap();
        assert_eq!(weight.read().unwrap().to_f32(), [1.25, -2.0]);
    }
}

#[test]
fn a_matrix_and_a_convolution_of_one_point_are_the_same_elements() {
    let dir = tempfile::tempdir().unwrap();
    let ramp = [0., 1., 2., 3., 4., 5.];
    let path = write(
        dir.path(),
        "w.safetensors",
        [("matrix", tensor::<f32>(&[2, 3], &ramp)), ("point", tensor::<f32>(&[2, 3, 1, 1], &ramp))],
    );
    let weights = Weights::open(path).unwrap();
    for name in ["matrix", "point"] {
        let matrix = weights.get(name, [2, 3]).unwrap();
        let point = weights.get(name, [2, 3, 1, 1]).unwrap();
        assert_eq!((matrix.desc().shape.dims(), point.desc().shape.dims()), (&[2, 3][..], &[2, 3, 1, 1][..]));
        assert_eq!(matrix.bytes(), point.bytes());
        assert_eq!(matrix.bytes().as_ptr(), point.bytes().as_ptr(), "the elements are not copied");
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    write(dir.path(), one, [("a.w", tensor::<f32>(&[1], &[1.0]))]);
    write(dir.path(), two, [("b.w", tensor::<f16>(&[1], &[2.0]))]);
    let index = format!(r#"{{"metadata":{{"total_size":6}},"weight_map":{{"a.w":"{one}","b.w":"{two}"}}}}"#);
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.at("a").get("w", [1]).unwrap().read().unwrap().to_f32(), [1.0]);
    assert_eq!(weights.at("b").get("w", [1]).unwrap().read().unwrap().to_f32(), [2.0]);
    let report = weights.finish().unwrap();
    assert_eq!(report.files, [dir.path().join(one), dir.path().join(two)]);
    assert_eq!(report.to_string(), "2 tensors used, 0 unused, 0 ignored; 2 files, 6 bytes (1 F16, 1 F32)");
    let both = Weights::open_files(&[dir.path().join(one), dir.path().join(two)]).unwrap();
    assert_eq!(both.census(), weights.census());
}

#[test]
fn a_directory_is_opened_by_its_usual_names_and_variants() {
    let dir = tempfile::tempdir().unwrap();
    let opened = |variant: Option<&str>| match variant {
        None => Weights::open(dir.path()).unwrap().label().file_name().unwrap().to_str().unwrap().to_string(),
        Some(v) => {
            Weights::open_variant(dir.path(), v).unwrap().label().file_name().unwrap().to_str().unwrap().to_string()
        }
    };
    write(dir.path(), "motion.safetensors", []);
    assert_eq!(opened(None), "motion.safetensors");
    write(dir.path(), "model.fp16.safetensors", []);
    write(dir.path(), "model.safetensors", []);
    assert_eq!((opened(None), opened(Some("fp16"))), ("model.safetensors".into(), "model.fp16.safetensors".into()));
    write(dir.path(), "diffusion_pytorch_model.safetensors", []);
    assert_eq!(opened(None), "diffusion_pytorch_model.safetensors");
    assert!(Weights::open_variant(dir.path(), "bf16").is_err());
}

#[test]
fn names_are_mapped_to_those_that_models_ask_for() {
    let one = || tensor::<f32>(&[1], &[1.0]);
    let names =
        ["module._orig_mod.mid.query.weight", "module._orig_mod.mid.proj_attn.weight", "module._orig_mod.keyed.bias"];
    let weights = Weights::in_memory(tensors(names.map(|n| (n, one())))).strip_wrappers().unwrap();
    let weights = weights.rename_parts(&[("query", "to_q"), ("key", "to_k"), ("proj_attn", "to_out.0")]).unwrap();
    let found: Vec<String> = weights.census().into_iter().map(|e| e.name).collect();
    assert_eq!(found, ["keyed.bias", "mid.to_out.0.weight", "mid.to_q.weight"]);
    assert_eq!(weights.census()[2].stored_name, names[0]);
    assert_eq!(weights.at("mid").at("to_out.0").name("weight"), "mid.to_out.0.weight");
    assert!(
        weights.get("mid.to_q.weight", [2]).unwrap_err().to_string().contains(names[0]),
        "errors name what is stored"
    );

    let clash = Weights::in_memory(tensors([("a.x", one()), ("b.x", one())])).rename_parts(&[("a", "b")]);
    assert!(matches!(clash, Err(LoadError::Duplicate { tensor, .. }) if tensor == "b.x"));
    let some = Weights::in_memory(tensors([("text_model.w", one()), ("projection.w", one())]));
    assert!(some.strip_prefix("text_model.").unwrap().has("w"));
}

#[test]
fn a_weight_asked_for_twice_is_one_weight() {
    let weights = Weights::in_memory(tensors([("w", tensor::<f32>(&[2], &[1.0, 2.0]))]));
    let (a, b) = (weights.get("w", [2]).unwrap(), weights.clone().get("w", [2]).unwrap());
    assert_eq!(a.bytes().as_ptr(), b.bytes().as_ptr());
    let made = Weights::procedural(1, DType::F16);
    assert_eq!(made.get("w", [2]).unwrap().bytes(), made.get("w", [2]).unwrap().bytes());
}

#[test]
fn released_pages_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
    let file =
        SafetensorsFile::open(write(dir.path(), "w.safetensors", [("w", tensor::<f32>(&[200_000], &values))])).unwrap();
    let entry = &file.header().tensors[0];
    let before = file.data(entry).unwrap().to_vec();
    for range in [entry.range.clone(), 0..usize::MAX, 5..6, 0..0, file.bytes().len()..usize::MAX] {
        file.release(range);
        assert_eq!(file.data(entry).unwrap(), before);
    }
}

#[test]
fn procedural_weights_depend_on_name_and_seed_and_keep_their_scale() {
    let weights = Weights::procedural(7, DType::F32);
    let read =
        |name: &str, dims: &[usize]| weights.get(name, Shape::new(dims).unwrap()).unwrap().read().unwrap().to_f32();
    assert_eq!(
        read("a.weight", &[8, 4]),
        Weights::procedural(7, DType::F32).get("a.weight", [8, 4]).unwrap().read().unwrap().to_f32()
    );
    assert_ne!(read("a.weight", &[8, 4]), read("b.weight", &[8, 4]));
    assert_ne!(
        read("a.weight", &[8, 4]),
        Weights::procedural(8, DType::F32).get("a.weight", [8, 4]).unwrap().read().unwrap().to_f32()
    );
    let variance = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>() / v.len() as f32;
    assert!((variance(&read("conv.weight", &[64, 32, 3, 3])) * 288.0 - 1.0).abs() < 0.05);
    assert!(read("norm.weight", &[64]).iter().all(|v| (0.9..1.1).contains(v)));
    assert!(read("norm.bias", &[64]).iter().all(|v| v.abs() <= 0.05));
    assert!(!weights.has("a.weight") && weights.optional("a.weight", [8, 4]).unwrap().is_none());
    assert!(matches!(weights.get_any("unknown"), Err(LoadError::Missing { .. })));
    assert_eq!(weights.finish().unwrap().used.len(), 5);
}

#[test]
fn a_specification_adds_tensors_by_rule() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights_spec.json");
    fs::write(&path, r#"{"conv.weight":{"shape":[2,2],"seed":"18446744073709551615","amp":0.5}}"#).unwrap();
    let weights = Weights::in_memory(tensors([("lin", tensor::<f32>(&[1], &[1.0]))])).and_spec(&path).unwrap();
    let expected = muybridge_runtime::Weight::procedural(
        "",
        weights.get("conv.weight", [2, 2]).unwrap().desc(),
        u64::MAX,
        0.5,
        0.0,
    );
    assert_eq!(weights.get("conv.weight", [2, 2]).unwrap().bytes(), expected.bytes());
    weights.get("lin", [1]).unwrap();
    weights.finish().unwrap();
    for (rule, words) in [
        (r#"{"shape":[2],"seed":"x","amp":1}"#, "seed"),
        (r#"{"shape":[2],"seed":-1,"amp":1}"#, "Seed"),
        (r#"{"shape":[4294967296,2],"seed":1,"amp":1}"#, "elements"),
        (r#"{"shape":[2],"seed":1,"amp":1e300}"#, "amplitude"),
        (r#"{"shape":[2],"seed":1}"#, "amp"),
    ] {
        fs::write(&path, format!(r#"{{"bad":{rule}}}"#)).unwrap();
        let error = Weights::open_spec(&path).unwrap_err().to_string();
        assert!(error.contains("weights_spec.json: tensor bad") && error.contains(words), "{error}");
    }
}

/// A file in the program is read as one on disk, and distrusted as much.
#[test]
fn embedded_files_are_read_and_distrusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "w.safetensors", [("a", tensor::<f16>(&[2], &[1.0, -2.5]))]);
    let bytes: &'static [u8] = fs::read(path).unwrap().leak();
    let weights = Weights::embedded("built-in", bytes).unwrap();
    let read = weights.get("a", Shape::new(&[2]).unwrap()).unwrap().read().unwrap();
    assert_eq!(read.to_f32(), [1.0, -2.5]);
    assert!(weights.finish().is_ok());
    for cut in [0, 7, bytes.len() - 1] {
        let refused = Weights::embedded("built-in", &bytes[..cut]).unwrap_err().to_string();
        assert!(refused.contains("built-in"), "{refused}");
    }
}
