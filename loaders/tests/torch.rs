//! PyTorch's checkpoints: read as PyTorch reads them, and refused where they would execute something or lie.

use std::path::{Path, PathBuf};

use muybridge_loaders::{LoadError, SafetensorsFile, TorchFile, Weights};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch").join(name)
}

/// Checks that a checkpoint holds what a safetensors file does, in bytes.
fn same(torch: &str, safetensors: &str) {
    let (torch, expected) = (TorchFile::open(here(torch)).unwrap(), SafetensorsFile::open(here(safetensors)).unwrap());
    let named: Vec<&str> = torch.tensors().iter().map(|t| t.name.as_str()).collect();
    let mut wanted: Vec<&str> = expected.header().tensors.iter().map(|t| t.name.as_str()).collect();
    wanted.sort_unstable();
    assert_eq!(named, wanted, "{torch:?}");
    for entry in &expected.header().tensors {
        let tensor = torch.tensors().iter().find(|t| t.name == entry.name).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape), (entry.dtype, &entry.shape), "{torch:?} {}", entry.name);
        assert!(torch.data(tensor).unwrap() == expected.data(entry).unwrap(), "{torch:?} {}", entry.name);
    }
}

#[test]
fn both_formats_hold_what_was_saved() {
    // Views that are turned, strided, repeated or share a storage; every type; no elements, and one without extents.
    same("archive.pth", "expected.safetensors");
    same("legacy.pth", "expected.safetensors");
    same("protocol4.pth", "expected.safetensors");
}

#[test]
fn wrappers_of_trainers_come_off() {
    same("parallel.bin", "net.safetensors");
    same("parameters.pt", "net.safetensors");
    same("trainer.ckpt", "net.safetensors");
    let left: Vec<String> = TorchFile::open(here("trainer.ckpt")).unwrap().left_out().to_vec();
    assert_eq!(left, ["epoch", "global_step", "lr", "score", "note", "big", "callbacks"]);
}

#[test]
fn weights_are_opened_straight_from_a_checkpoint() {
    let (weights, expected) =
        (Weights::open(here("archive.pth")).unwrap(), Weights::open(here("expected.safetensors")).unwrap());
    for name in ["conv.weight", "conv.bias", "turned", "every_other", "spread", "half", "brain", "scalar", "empty"] {
        let (ours, theirs) = (weights.get_any(name).unwrap(), expected.get_any(name).unwrap());
        assert_eq!(ours.desc(), theirs.desc(), "{name}");
        assert!(ours.bytes() == theirs.bytes(), "{name}");
    }
    let error = weights.get_any("double").unwrap_err();
    assert!(matches!(error, LoadError::DType { .. }), "{error}");
    assert_eq!(weights.census().len(), expected.census().len());
}

fn says(error: &LoadError, words: &[&str]) {
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} does not say {word:?}"));
}

#[test]
fn nothing_is_executed() {
    for (name, words) in [
        ("evil.pth", "posix.system, which is not executed"),
        ("module.pth", "torch.nn.modules.container.Sequential"),
        ("program.pt", "TorchScript program"),
    ] {
        let error = TorchFile::open(here(name)).unwrap_err();
        says(&error, &[name, words]);
        assert!(matches!(error, LoadError::Torch { .. }));
        says(&Weights::open(here(name)).unwrap_err(), &[name, words]);
    }
}

// Checkpoints by hand.

/// A record of a ZIP archive, field by field.
fn fields(signature: u32, shorts: &[u16], longs: &[u32], more: &[u16]) -> Vec<u8> {
    let mut out = signature.to_le_bytes().to_vec();
    shorts.iter().for_each(|v| out.extend(v.to_le_bytes()));
    longs.iter().for_each(|v| out.extend(v.to_le_bytes()));
    more.iter().for_each(|v| out.extend(v.to_le_bytes()));
    out
}

/// One file of an archive: its name, its bytes, its method, and where the directory says it is (its own place if none).
struct Member<'a>(&'a str, &'a [u8], u16, Option<u32>);

fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for Member(name, bytes, method, place) in members {
        let (at, length) = (out.len() as u32, bytes.len() as u32);
        out.extend(fields(0x0403_4B50, &[20, 0, *method, 0, 0], &[0, length, length], &[name.len() as u16, 0]));
        out.extend(name.as_bytes());
        out.extend(*bytes);
        let shorts = [20, 20, 0, *method, 0, 0];
        directory.extend(fields(0x0201_4B50, &shorts, &[0, length, length], &[name.len() as u16, 0, 0, 0, 0]));
        directory.extend(0u32.to_le_bytes());
        directory.extend(place.unwrap_or(at).to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, count) = (out.len() as u32, members.len() as u16);
    out.extend(&directory);
    out.extend(fields(0x0605_4B50, &[0, 0, count, count], &[directory.len() as u32, at], &[0]));
    out
}

fn text(value: &str) -> Vec<u8> {
    [b"X", &(value.len() as u32).to_le_bytes()[..], value.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

fn ints(values: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|v| int(*v)).collect(), b"t".to_vec()].concat()
}

fn storage(key: &str, count: i64) -> Vec<u8> {
    [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        int(count),
        b"tQ".to_vec(),
    ]
    .concat()
}

fn tensor(key: &str, count: i64, offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    let hooks = b"\x89ccollections\nOrderedDict\n)RtR".to_vec();
    [rebuild, storage(key, count), int(offset), ints(size), ints(stride), hooks].concat()
}

/// A pickle of a dictionary with one tensor.
fn dict(value: Vec<u8>) -> Vec<u8> {
    [b"\x80\x02}".to_vec(), text("w"), value, b"s.".to_vec()].concat()
}

/// The error of a checkpoint with a pickle and a storage of four floats.
fn refused(pickle: &[u8]) -> LoadError {
    TorchFile::parse(&with_four(pickle), "made.pth").expect_err("the checkpoint was accepted")
}

fn with_four(pickle: &[u8]) -> Vec<u8> {
    archive(&[Member("a/data.pkl", pickle, 0, None), Member("a/data/0", &[0; 16], 0, None)])
}

#[test]
fn a_checkpoint_by_hand_is_read() {
    let good = with_four(&dict(tensor("0", 4, 0, &[2, 2], &[2, 1])));
    assert_eq!(TorchFile::parse(&good, "made.pth").unwrap()[0].shape, [2, 2]);
    // A hundred views of one storage share it.
    let views: Vec<u8> = (0..100)
        .flat_map(|i| [text(&i.to_string()), tensor("0", 4, i % 4, &[1], &[1]), b"s".to_vec()].concat())
        .collect();
    let shared = with_four(&[b"\x80\x02}".to_vec(), views, b".".to_vec()].concat());
    assert_eq!(TorchFile::parse(&shared, "made.pth").unwrap().len(), 100);
}

#[test]
fn tensors_beyond_their_storage_are_refused() {
    let rows: [(Vec<u8>, &str); 9] = [
        (tensor("0", 4, 0, &[5], &[1]), "beyond"),
        (tensor("0", 4, 3, &[2], &[1]), "beyond"),
        (tensor("0", 4, 0, &[2, 2], &[3, 1]), "beyond"),
        (tensor("0", 4, 0, &[2], &[i64::MAX]), "beyond"),
        (tensor("0", 4, i64::MAX, &[1], &[1]), "beyond"),
        (tensor("0", 4, 5, &[0], &[1]), "beyond"),
        (tensor("0", 4, 0, &[1 << 40, 1 << 40], &[0, 0]), "beyond"),
        // A number repeated a million million times.
        (tensor("0", 4, 0, &[1 << 40], &[0]), "beyond"),
        (tensor("0", 4, 0, &[1 << 40, 1 << 40, 0], &[0, 0, 0]), "beyond"),
    ];
    for (made, words) in rows {
        let error = refused(&dict(made));
        says(&error, &["made.pth", "tensor w", words]);
        assert!(matches!(error, LoadError::Range { .. }), "{error:?}");
    }
    for (made, words) in [
        (tensor("0", 4, -1, &[1], &[1]), "_rebuild_tensor_v2"),
        (tensor("0", 4, 0, &[-1], &[1]), "_rebuild_tensor_v2"),
        (tensor("0", 4, 0, &[1], &[-1]), "_rebuild_tensor_v2"),
        (tensor("0", 4, 0, &[1, 1], &[1]), "_rebuild_tensor_v2"),
        (tensor("0", 4, 0, &[1; 17], &[1; 17]), "_rebuild_tensor_v2"),
        (tensor("0", 5, 0, &[1], &[1]), "16 bytes"),
        (tensor("0", i64::MAX, 0, &[1], &[1]), "16 bytes"),
        (tensor("0", -4, 0, &[1], &[1]), "no storage"),
        (tensor("1", 4, 0, &[1], &[1]), "storage 1 is not in it"),
        (tensor("../0", 4, 0, &[1], &[1]), "storage ../0 is not in it"),
    ] {
        says(&refused(&dict(made)), &["made.pth", words]);
    }
}

#[test]
fn pickles_that_lie_are_refused() {
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "ends early"),
        (b"\x80\x02}".to_vec(), "ends early"),
        (b"\x80\x09}.".to_vec(), "protocol 9"),
        (b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.".to_vec(), "os.system"),
        (b"\x80\x02cbuiltins\neval\n.".to_vec(), "builtins.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(), "os.system"),
        (b"\x80\x02ios\nsystem\n.".to_vec(), "0x69"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.".to_vec(), "_rebuild_tensor_v2"),
        (b"\x80\x02cpytorch_lightning.callbacks\nModelCheckpoint\n)R.".to_vec(), "ModelCheckpoint"),
        (b"\x80\x02ctorch\nFloatStorage\n)\x81.".to_vec(), "0x81"),
        (b"\x80\x02)Q.".to_vec(), "no storage"),
        (b"\x80\x02N)R.".to_vec(), "no function"),
        (b"\x80\x02.".to_vec(), "runs empty"),
        (b"\x80\x02(0.".to_vec(), "runs empty"),
        (b"\x80\x02u.".to_vec(), "no mark"),
        (b"\x80\x02h\x05.".to_vec(), "recalls"),
        (b"\x80\x02Nq\xff}Na.".to_vec(), "no list"),
        (b"\x80\x02]NNs.".to_vec(), "no dictionary"),
        (b"\x80\x02}(Nu.".to_vec(), "without a value"),
        (b"\x80\x02X\xff\xff\xff\xffabc.".to_vec(), "ends early"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "ends early"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.".to_vec(), "UTF-8"),
        (b"\x80\x02}.".to_vec(), "no tensor"),
        (b"\x80\x02K\x01.".to_vec(), "no tensor"),
        // A list within itself, and ten thousand within each other.
        (b"\x80\x02]q\x00h\x00a.".to_vec(), "too deep"),
        ([b"\x80\x02N".to_vec(), vec![0x85; 10_000], b".".to_vec()].concat(), "too deep"),
        // More instructions than any checkpoint has.
        ([b"\x80\x02".to_vec(), b"N0".repeat(1 << 21), b"}.".to_vec()].concat(), "instructions"),
    ];
    for (pickle, words) in rows {
        let error = refused(&pickle);
        says(&error, &["made.pth", words]);
        assert!(matches!(error, LoadError::Torch { .. }), "{error:?}");
    }
    // Twenty lists, each of which names the one before it ten times: a milliard ways through them.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for i in 0..20u8 {
        laughs.extend([b'(']);
        laughs.extend([b'h', i].repeat(10));
        laughs.extend([b'l', b'q', i + 1]);
    }
    laughs.push(b'.');
    says(&refused(&laughs), &["made.pth"]);
    // The same with eight levels, which are not too deep: the names run out.
    let mut wide = b"\x80\x02]q\x00".to_vec();
    for i in 0..7u8 {
        wide.extend([b'(']);
        wide.extend([b'h', i].repeat(50));
        wide.extend([b'l', b'q', i + 1]);
    }
    wide.push(b'.');
    says(&refused(&wide), &["more names"]);
    // One list of pairs, made a dictionary of over and over.
    let pairs: Vec<u8> = [b"\x80\x02](".to_vec(), b"NN\x86".repeat(5000), b"eq\x000".to_vec()].concat();
    let copies = b"ccollections\nOrderedDict\nh\x00\x85R0".repeat(2000);
    says(&refused(&[pairs, copies, b"}.".to_vec()].concat()), &["over and over"]);
}

#[test]
fn what_is_named_over_and_over_is_cheap() {
    // A key of 30 MB that a hundred thousand entries share.
    let key = text(&"k".repeat(30 << 20));
    let set = [&b"\x80\x02"[..], &key, b"q\x000}(", &b"h\x00N".repeat(100_000), b"u."].concat();
    says(&refused(&set), &["made.pth", "31457280 bytes"]);
    says(&refused(&[&b"\x80\x02"[..], &storage(&"k".repeat(5000), 4), b"."].concat()), &["no storage"]);
    // A dictionary of two thousand entries without names, two thousand times.
    let nameless = [&b"\x80\x02}q\x00("[..], &b"NN".repeat(2000), b"u0](", &b"h\x00".repeat(2000), b"e."].concat();
    says(&refused(&nameless), &["more names"]);
}

#[test]
fn archives_that_lie_are_refused() {
    let pickle = dict(tensor("0", 4, 0, &[4], &[1]));
    let data = [0; 16];
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (archive(&[Member("a/data.pkl", &pickle, 8, None), Member("a/data/0", &data, 0, None)]), "compressed"),
        (archive(&[Member("a/data.pkl", &pickle, 0, None), Member("a/data/0", &data, 0, Some(0))]), "over each other"),
        (archive(&[Member("a/data.pkl", &pickle, 0, None), Member("a/data/0", &data, 0, Some(9))]), "is not there"),
        (archive(&[Member("a/data.pkl", &pickle, 0, None), Member("../data/0", &data, 0, None)]), "not plain"),
        (archive(&[Member("/a/data.pkl", &pickle, 0, None)]), "not plain"),
        (archive(&[Member("a/data.pkl", &pickle, 0, None), Member("a/data.pkl", &pickle, 0, None)]), "two files"),
        (
            archive(&[Member("a/data.pkl", &pickle, 0, None), Member("b/data.pkl", &pickle, 0, None)]),
            "several data.pkl",
        ),
        (archive(&[Member("a/data/0", &data, 0, None)]), "no data.pkl"),
        (archive(&[Member("a/data.pkl", &pickle, 0, None)]), "storage 0 is not in it"),
        (archive(&[Member("a/data.pkl", &pickle, 0, None), Member("a/data/0", &data[..12], 0, None)]), "12 bytes"),
        (archive(&[Member("a/byteorder", b"big", 0, None), Member("a/data.pkl", &pickle, 0, None)]), "big-endian"),
        (b"PK\x03\x04".to_vec(), "ends before its directory"),
    ];
    for (bytes, words) in rows {
        let error = TorchFile::parse(&bytes, "made.pth").unwrap_err();
        says(&error, &["made.pth", words]);
        assert!(matches!(error, LoadError::Torch { .. }), "{error:?}");
    }
}

#[test]
fn checkpoints_cut_short_or_damaged_do_no_harm() {
    for name in ["archive.pth", "legacy.pth", "trainer.ckpt"] {
        let whole = std::fs::read(here(name)).unwrap();
        for cut in 0..whole.len() {
            says(&TorchFile::parse(&whole[..cut], name).unwrap_err(), &[name]);
        }
        for at in 0..whole.len() {
            for value in [0, 0xFF, whole[at] ^ 1, whole[at] ^ 0x80] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                // What is damaged may be a number; what is refused must be refused in words.
                let _ = TorchFile::parse(&bytes, name);
            }
        }
    }
}
