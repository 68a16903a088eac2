//! Files that lie, and files that do not: every hostile file gives its typed error, which names the file and the tensor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use muybridge_loaders::{Config, LoadError, Weights, read_tensors, write_tensors};
use muybridge_runtime::{DType, HostTensor, Shape};
use tempfile::TempDir;

/// A directory for one test's files.
struct Dir(TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A safetensors file of a header's text and the data after it, neither of them checked.
    fn raw(&self, name: &str, header: &str, data: &[u8]) -> PathBuf {
        self.write(name, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat())
    }

    /// A well-formed file of f32 tensors, element `i` being `i`.
    fn good(&self, name: &str, tensors: &[(&str, &[usize])]) -> PathBuf {
        let ramp = |dims: &[usize]| HostTensor::new([dims.iter().product()], counting(dims)).unwrap();
        let all: BTreeMap<String, HostTensor> =
            tensors.iter().map(|(n, dims)| (n.to_string(), reshaped(ramp(dims), dims))).collect();
        write_tensors(self.path(name), &all).unwrap();
        self.path(name)
    }
}

fn counting(dims: &[usize]) -> Vec<f32> {
    (0..dims.iter().product()).map(|i| i as f32).collect()
}

fn reshaped(tensor: HostTensor, dims: &[usize]) -> HostTensor {
    tensor.reshape(Shape::new(dims).unwrap()).unwrap()
}

fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

fn object(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// The error of opening a file, which must name the file and everything else that is given.
fn refused(file: &Path, named: &[&str]) -> LoadError {
    let error = Weights::open(file).expect_err("the file was accepted");
    says(&error, &[&[file.file_name().unwrap().to_str().unwrap()], named].concat());
    error
}

fn says(error: &LoadError, words: &[&str]) {
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} does not say {word:?}"));
}

macro_rules! assert_is {
    ($error:expr, $variant:ident) => {{
        let error = $error;
        assert!(matches!(error, LoadError::$variant { .. }), "{error:?}");
    }};
}

// Headers that lie about themselves.

#[test]
fn a_file_without_a_byte_is_refused() {
    assert_is!(refused(&Dir::new().write("zero.safetensors", ""), &["0 bytes"]), Header);
}

#[test]
fn a_file_cut_within_its_length_is_refused() {
    assert_is!(refused(&Dir::new().write("cut.safetensors", [9, 0, 0]), &["3 bytes"]), Header);
}

#[test]
fn a_file_cut_within_its_header_is_refused() {
    let dir = Dir::new();
    let whole = fs::read(dir.good("whole.safetensors", &[("a", &[4])])).unwrap();
    assert_is!(refused(&dir.write("cut.safetensors", &whole[..40]), &["claims a length"]), Header);
}

#[test]
fn a_file_cut_within_its_data_names_the_tensor_that_is_cut() {
    let dir = Dir::new();
    let whole = fs::read(dir.good("whole.safetensors", &[("a", &[4]), ("b", &[4])])).unwrap();
    let cut = dir.write("cut.safetensors", &whole[..whole.len() - 1]);
    assert_is!(refused(&cut, &["tensor b", "outside the file"]), Range);
}

#[test]
fn header_lengths_beyond_the_file_or_the_limit_are_refused_unread() {
    let dir = Dir::new();
    for claimed in [11, 1 << 20, 33_554_432, 33_554_433, 100_000_001, u64::from(u32::MAX) + 9, u64::MAX - 7, u64::MAX] {
        let file = dir.write("long.safetensors", [&claimed.to_le_bytes()[..], b"{}        "].concat());
        assert_is!(refused(&file, &[&claimed.to_string()]), Header);
    }
}

#[test]
fn a_huge_header_that_is_really_there_is_not_copied() {
    let dir = Dir::new();
    for (claimed, words) in [(1u64 << 30, "at most"), (32 << 20, "does not begin with a brace")] {
        let file = dir.write("huge.safetensors", claimed.to_le_bytes());
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(8 + claimed).unwrap();
        assert_is!(refused(&file, &[words]), Header);
    }
}

#[test]
fn a_header_that_is_not_the_formats_json_is_refused() {
    let dir = Dir::new();
    let deep = format!("{{\"__metadata__\":{}", "[".repeat(100_000));
    for text in ["", "[]", "{", "{}}", "null", "{\"__metadata__\":{\"a\":1}}", &deep] {
        assert_is!(refused(&dir.raw("json.safetensors", text, &[]), &["header"]), Header);
    }
    let file = dir.write("utf8.safetensors", [2, 0, 0, 0, 0, 0, 0, 0, b'{', 0xFF]);
    assert_is!(refused(&file, &["UTF-8"]), Header);
}

#[test]
fn data_that_belongs_to_no_tensor_is_refused() {
    let dir = Dir::new();
    let a = entry("a", "F32", "[1]", 0, 4);
    assert_is!(refused(&dir.raw("tail.safetensors", &object(&[a]), &[0; 5]), &["1 bytes after"]), Header);
    let gap = object(&[entry("a", "F32", "[1]", 0, 4), entry("b", "F32", "[1]", 8, 12)]);
    assert_is!(refused(&dir.raw("gap.safetensors", &gap, &[0; 12]), &["tensor b", "4..8"]), Range);
}

// Tensors that lie about themselves.

#[test]
fn tensors_outside_the_file_or_on_one_another_are_refused() {
    let dir = Dir::new();
    let good = entry("good", "F32", "[2]", 0, 8);
    let rows = [
        ("outside the file", entry("bad", "F32", "[4]", 8, 24)),
        ("outside the file", entry("bad", "F32", "[2]", u64::MAX - 8, u64::MAX)),
        ("overlap those of good", entry("bad", "F32", "[2]", 4, 12)),
        ("overlap those of good", entry("bad", "F32", "[3]", 0, 12)),
        ("end before they begin", entry("bad", "F32", "[1]", 12, 8)),
        ("takes 12", entry("bad", "F32", "[3]", 8, 16)),
        ("takes 4", entry("bad", "F16", "[2]", 8, 16)),
        ("overflow", entry("bad", "F32", "[4294967296,4294967296]", 8, 16)),
        ("overflow", entry("bad", "F4", "[3]", 8, 10)),
    ];
    for (words, bad) in rows {
        let file = dir.raw("range.safetensors", &object(&[good.clone(), bad]), &[0; 16]);
        assert_is!(refused(&file, &["tensor bad", words]), Range);
    }
}

#[test]
fn tensors_that_are_not_the_formats_are_refused_by_name() {
    let dir = Dir::new();
    let ranks = format!("[{}1]", "1,".repeat(40));
    let rows = [
        ("bad", entry("bad", "F33", "[1]", 0, 4)),
        ("bad", entry("bad", "F32", "[-1]", 0, 4)),
        ("bad", entry("bad", "F32", "[1.5]", 0, 4)),
        ("bad", entry("bad", "F32", "[99999999999999999999]", 0, 4)),
        ("rank", entry("bad", "F32", &ranks, 0, 4)),
        ("bad", r#""bad":{"dtype":"F32","shape":[1]}"#.into()),
        ("bad", r#""bad":[]"#.into()),
        ("duplicate field", r#""bad":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}"#.into()),
    ];
    for (words, bad) in rows {
        assert_is!(refused(&dir.raw("entry.safetensors", &object(&[bad]), &[0; 4]), &["tensor bad", words]), Tensor);
    }
    let long = entry(&"n".repeat(600), "F32", "[1]", 0, 4);
    assert_is!(refused(&dir.raw("name.safetensors", &object(&[long]), &[0; 4]), &["600 bytes"]), Header);
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    let dir = Dir::new();
    let twice = object(&[entry("a.weight", "F32", "[1]", 0, 4), entry("a.weight", "F32", "[1]", 4, 8)]);
    assert_is!(refused(&dir.raw("twice.safetensors", &twice, &[0; 8]), &["tensor a.weight", "twice"]), Duplicate);

    let escaped = object(&[entry("ab", "F32", "[1]", 0, 4), entry("\\u0061b", "F32", "[1]", 4, 8)]);
    assert_is!(refused(&dir.raw("escaped.safetensors", &escaped, &[0; 8]), &["tensor ab", "twice"]), Duplicate);

    let files = [dir.good("one.safetensors", &[("x", &[1])]), dir.good("two.safetensors", &[("x", &[1])])];
    let error = Weights::open_files(&files).unwrap_err();
    says(&error, &["two.safetensors: tensor x", "one.safetensors"]);
    assert_is!(error, Duplicate);
}

#[test]
fn names_cannot_write_to_a_terminal() {
    let bad = entry("\\u001b[2Jbad", "F32", "[9]", 0, 4);
    let text = refused(&Dir::new().raw("esc.safetensors", &object(&[bad]), &[0; 4]), &["[2Jbad"]).to_string();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

// Tensors that are not what was asked for.

#[test]
fn a_missing_tensor_is_reported_with_names_like_it() {
    let dir = Dir::new();
    let weights = Weights::open(dir.good("m.safetensors", &[("down.0.conv.weight", &[2]), ("z", &[1])])).unwrap();
    let error = weights.at("down").at(0).get("conv1.weight", [2]).unwrap_err();
    says(&error, &["m.safetensors", "no tensor down.0.conv1.weight", "there is down.0.conv.weight"]);
    assert_is!(error, Missing);
    assert!(weights.optional("down.0.conv.bias", [2]).unwrap().is_none());
}

#[test]
fn another_shape_is_refused() {
    let dir = Dir::new();
    let weights =
        Weights::open(dir.good("s.safetensors", &[("w", &[2, 3]), ("c", &[2, 3, 3, 1]), ("v", &[6])])).unwrap();
    for (name, error) in [
        ("w", weights.get("w", [3, 2]).unwrap_err()),
        ("w", weights.get("w", [6]).unwrap_err()),
        ("w", weights.optional("w", [2, 3, 1, 2]).unwrap_err()),
        ("c", weights.get("c", [2, 3]).unwrap_err()),
        ("v", weights.get("v", [6, 1]).unwrap_err()),
    ] {
        says(&error, &["s.safetensors", &format!("tensor {name}:"), "wanted the shape ["]);
        assert_is!(error, Shape);
    }
}

#[test]
fn types_that_are_no_weights_are_listed_and_refused_when_asked_for() {
    let dir = Dir::new();
    let header = object(&[
        entry("d", "F64", "[1]", 0, 8),
        entry("position_ids", "I64", "[1,2]", 8, 24),
        entry("q", "F8_E4M3", "[2]", 24, 26),
    ]);
    let weights = Weights::open(dir.raw("types.safetensors", &header, &[0; 26])).unwrap();
    let census: Vec<String> =
        weights.census().iter().map(|e| format!("{} {} {:?}", e.name, e.dtype, e.shape)).collect();
    assert_eq!(census, ["d F64 [1]", "position_ids I64 [1, 2]", "q F8_E4M3 [2]"]);
    for name in ["d", "position_ids", "q"] {
        let error = weights.get_any(name).unwrap_err();
        says(&error, &["types.safetensors", &format!("tensor {name}:")]);
        assert_is!(error, DType);
    }
    weights.check_finite().unwrap();
}

#[test]
fn a_rank_beyond_the_engines_is_refused_when_asked_for() {
    let header = object(&[entry("w", "F32", "[1,1,1,1,1,1,1]", 0, 4)]);
    let dir = Dir::new();
    let weights = Weights::open(dir.raw("rank.safetensors", &header, &[0; 4])).unwrap();
    let error = weights.get_any("w").unwrap_err();
    says(&error, &["rank.safetensors", "tensor w", "rank"]);
    assert_is!(error, Tensor);
}

#[test]
fn weights_that_are_not_finite_are_refused_unless_told_otherwise() {
    let dir = Dir::new();
    let f32s: Vec<u8> = [1.0, -2.0, f32::NAN].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
    let rows: [(&str, &[u8], &str); 4] = [
        ("F32", &f32s, "element 2 is NaN"),
        ("F16", &[0, 0, 0x00, 0xFC, 0, 0], "element 1 is -inf"),
        ("BF16", &[0x80, 0x7F, 0, 0, 0, 0], "element 0 is inf"),
        ("F16", &[0, 0, 0, 0, 0xFF, 0x7F], "element 2 is NaN"),
    ];
    for (dtype, bytes, words) in rows {
        let file = dir.raw("nan.safetensors", &object(&[entry("w", dtype, "[3]", 0, bytes.len() as u64)]), bytes);
        let weights = Weights::open(&file).unwrap();
        for error in [weights.get("w", [3]).unwrap_err(), weights.check_finite().unwrap_err()] {
            says(&error, &["nan.safetensors", "tensor w:", words]);
            assert_is!(error, NonFinite);
        }
        assert_eq!(weights.unchecked().get("w", [3]).unwrap().bytes(), bytes);
        assert_is!(weights.get("w", [3]).unwrap_err(), NonFinite);
    }
}

#[test]
fn what_nothing_asked_for_is_an_error_unless_ignored() {
    let dir = Dir::new();
    let names: [(&str, &[usize]); 4] = [("a.w", &[1]), ("a.num_batches_tracked", &[1]), ("ab.w", &[1]), ("c.w", &[2])];
    let weights = Weights::open(dir.good("u.safetensors", &names)).unwrap();
    weights.at("a").get("w", [1]).unwrap();
    assert_eq!(weights.at("a").finish().unwrap().used, ["a.w"]);
    let error = weights.finish().unwrap_err();
    says(&error, &["u.safetensors", "ab.w, c.w"]);
    assert_is!(error, Unused);
    weights.ignore("ab");
    assert!(weights.has("ab.w") && weights.has_prefix("ab") && !weights.has_prefix("b"));
    assert_is!(weights.get("c.w", [3]).unwrap_err(), Shape);
    assert!(weights.finish().is_err(), "a tensor that was refused has not been used");
    weights.get("c.w", [2]).unwrap();
    let report = weights.finish().unwrap();
    assert_eq!((report.used.len(), report.ignored.len(), report.bytes), (2, 2, 20));
}

#[test]
fn a_weight_that_another_type_cannot_hold_is_refused() {
    let dir = Dir::new();
    let file = dir.path("wide.safetensors");
    write_tensors(&file, &BTreeMap::from([("w".into(), HostTensor::new([2], vec![1.0f32, 70000.0]).unwrap())]))
        .unwrap();
    let weights = Weights::open(&file).unwrap();
    let error = weights.converted(DType::F16).get("w", [2]).unwrap_err();
    says(&error, &["wide.safetensors", "tensor w:", "element 1 is 70000", "f16"]);
    assert_is!(error, Tensor);
    weights.converted(DType::BF16).get("w", [2]).unwrap();
}

#[test]
fn numbers_that_f32_cannot_hold_are_not_read_as_tensors() {
    let dir = Dir::new();
    for (dtype, bytes) in [("I64", ((1i64 << 24) + 1).to_le_bytes()), ("F64", 1e300f64.to_le_bytes())] {
        let file = dir.raw("wide.safetensors", &object(&[entry("n", dtype, "[1]", 0, 8)]), &bytes);
        let error = read_tensors(file).unwrap_err();
        says(&error, &["wide.safetensors", "tensor n:", dtype]);
        assert_is!(error, Tensor);
    }
}

// Directories and indices.

#[test]
fn a_directory_without_one_checkpoint_is_refused() {
    let dir = Dir::new();
    assert_is!(Weights::open(dir.path("absent.safetensors")).unwrap_err(), Io);
    assert_is!(refused(dir.0.path(), &["no *.safetensors"]), NotFound);
    dir.write("pytorch_model.bin", "");
    assert_is!(refused(dir.0.path(), &["pytorch_model.bin must be converted"]), NotFound);
    dir.good("a.safetensors", &[]);
    dir.good("b.safetensors", &[]);
    assert_is!(refused(dir.0.path(), &["several", "a.safetensors, b.safetensors"]), NotFound);
    assert_is!(Weights::open_variant(dir.0.path(), "fp16").unwrap_err(), NotFound);
    fs::create_dir(dir.path("model.safetensors")).unwrap();
    let error = Weights::open_files(&[dir.path("model.safetensors")]).unwrap_err();
    says(&error, &["model.safetensors", "not a regular file"]);
}

#[cfg(unix)]
#[test]
fn a_device_is_refused_before_it_is_read() {
    for error in [Weights::open("/dev/zero").unwrap_err(), Config::open("/dev/zero").unwrap_err()] {
        says(&error, &["/dev/zero", "not a regular file"]);
    }
}

fn index(map: &[(&str, &str)]) -> String {
    let rows: Vec<String> = map.iter().map(|(tensor, shard)| format!("{tensor:?}:{shard:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{{{}}}}}"#, rows.join(","))
}

#[test]
fn shards_outside_the_checkpoints_directory_are_refused() {
    let dir = Dir::new();
    let absolute = dir.good("secret.safetensors", &[("a", &[1])]);
    for shard in [
        absolute.to_str().unwrap(),
        "../secret.safetensors",
        "..",
        "x/../secret.safetensors",
        "x/secret.safetensors",
        "./secret.safetensors",
        "..\\secret.safetensors",
        "\\\\host\\share\\secret.safetensors",
        "C:secret.safetensors",
        "secret.safetensors/",
        "secret.bin",
        "",
    ] {
        let file = dir.write("model.safetensors.index.json", index(&[("a", shard)]));
        assert_is!(refused(&file, &["tensor a:"]), Shard);
    }
}

#[test]
fn an_index_that_lies_about_its_shards_is_refused() {
    let dir = Dir::new();
    dir.good("one.safetensors", &[("a", &[1])]);
    dir.good("two.safetensors", &[("b", &[1]), ("extra", &[1])]);
    let name = "model.safetensors.index.json";
    let rows = [
        ("tensor c:", index(&[("a", "one.safetensors"), ("c", "one.safetensors")])),
        ("tensor a:", index(&[("a", "two.safetensors")])),
        ("tensor a:", index(&[("a", "three.safetensors")])),
    ];
    for (words, text) in rows {
        assert_is!(refused(&dir.write(name, text), &[words, "shard"]), Shard);
    }
    let twice = index(&[("a", "one.safetensors"), ("a", "two.safetensors")]);
    assert_is!(refused(&dir.write(name, twice), &["\"a\" is there twice"]), Index);
    for text in ["", "{}", "[]", "{\"weight_map\":{}}", "{\"weight_map\":{\"a\":1}}", &"[".repeat(1 << 20)] {
        assert_is!(refused(&dir.write(name, text), &["bad index"]), Index);
    }

    dir.raw("two.safetensors", &object(&[entry("b", "F32", "[1]", 0, 8)]), &[0; 8]);
    dir.write(name, index(&[("b", "two.safetensors")]));
    let error = Weights::open(dir.0.path()).unwrap_err();
    says(&error, &["two.safetensors", "tensor b"]);
    assert_is!(error, Range);
}

#[test]
fn tensors_and_files_that_an_index_leaves_out_are_reported() {
    let dir = Dir::new();
    dir.good("one.safetensors", &[("a", &[1]), ("b", &[1])]);
    dir.good("two.safetensors", &[("b", &[1]), ("extra", &[1])]);
    dir.good("three.safetensors", &[]);
    let map = [("a", "one.safetensors"), ("b", "two.safetensors")];
    let weights = Weights::open(dir.write("model.safetensors.index.json", index(&map))).unwrap();
    weights.get("a", [1]).unwrap();
    weights.get("b", [1]).unwrap();
    let report = weights.report();
    assert_eq!((report.unused.len(), &report.unmapped[..]), (0, &["b".to_string(), "extra".to_string()][..]));
    assert_eq!(report.stray_files, [dir.path("three.safetensors")]);
    let error = weights.finish().unwrap_err();
    says(&error, &["model.safetensors.index.json", "b, extra"]);
    assert_is!(error, Unused);
}
