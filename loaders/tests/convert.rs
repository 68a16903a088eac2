//! Copies of tensors: cut, turned and converted as asked, or not made at all.

use std::collections::BTreeMap;
use std::fs;

use half::f16;
use muybridge_loaders::{Cut, LoadError, Piece, SafetensorsFile, TorchFile, Weights, copy_tensors, read_tensors};
use muybridge_runtime::{DType, HostTensor, Shape};

fn weights() -> Weights {
    let tensor = |dims: &[usize], values: &[f32]| HostTensor::new(Shape::new(dims).unwrap(), values.to_vec()).unwrap();
    let ramp: Vec<f32> = (0..12).map(|i| i as f32 + 0.1).collect();
    Weights::in_memory(BTreeMap::from([
        ("m".into(), tensor(&[6, 2], &ramp)),
        ("c".into(), tensor(&[3, 4, 1, 1], &ramp)),
        ("wide".into(), tensor(&[2], &[1.0, 70000.0])),
    ]))
}

fn piece(target: &str, source: &str, cut: Cut) -> Piece {
    Piece { cut, ..Piece::new(target, source) }
}

#[test]
fn tensors_are_cut_turned_and_squeezed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.safetensors");
    let pieces = [
        piece("q", "m", Cut::Part { index: 0, of: 3 }),
        piece("v", "m", Cut::Part { index: 2, of: 3 }),
        piece("t", "m", Cut::Transposed),
        piece("s", "c", Cut::Squeezed),
        Piece::new("same", "m"),
    ];
    let mut told = 0;
    let length = copy_tensors(&weights(), &pieces, &path, None, &mut |n| {
        told += n;
        true
    })
    .unwrap();
    assert_eq!((length, told), (fs::metadata(&path).unwrap().len(), length));
    let read = read_tensors(&path).unwrap();
    let form = |name: &str| (read[name].shape().dims().to_vec(), read[name].to_f32());
    assert_eq!(form("q"), (vec![2, 2], vec![0.1, 1.1, 2.1, 3.1]));
    assert_eq!(form("v").1, [8.1, 9.1, 10.1, 11.1]);
    assert_eq!(form("t"), (vec![2, 6], vec![0.1, 2.1, 4.1, 6.1, 8.1, 10.1, 1.1, 3.1, 5.1, 7.1, 9.1, 11.1]));
    assert_eq!(form("s").0, [3, 4]);
    assert_eq!(form("same").0, [6, 2]);
}

#[test]
fn floats_are_converted_and_integers_kept() {
    let dir = tempfile::tempdir().unwrap();
    let archive = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch/archive.pth");
    let torch = TorchFile::open(&archive).unwrap();
    let weights = Weights::open(&archive).unwrap();
    let pieces: Vec<Piece> = torch.tensors().iter().map(|t| Piece::new(&t.name, &t.name)).collect();
    for (dtype, float) in
        [(Some(DType::F16), "F16"), (Some(DType::BF16), "BF16"), (Some(DType::F32), "F32"), (None, "")]
    {
        let path = dir.path().join("o.safetensors");
        copy_tensors(&weights, &pieces, &path, dtype, &mut |_| true).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        for tensor in torch.tensors() {
            let entry = file.header().tensors.iter().find(|e| e.name == tensor.name).unwrap();
            let stored = tensor.dtype.to_string();
            let kept = dtype.is_none() || stored == float || !stored.contains('F');
            assert_eq!(entry.dtype.to_string(), if kept { stored.as_str() } else { float }, "{}", tensor.name);
            assert_eq!(entry.shape, tensor.shape);
            assert!(!kept || torch.data(tensor).unwrap() == file.data(entry).unwrap(), "{}", tensor.name);
        }
    }
    let halves = dir.path().join("h.safetensors");
    copy_tensors(&self::weights(), &[Piece::new("m", "m")], &halves, Some(DType::F16), &mut |_| true).unwrap();
    let expected: Vec<f32> = (0..12).map(|i| f16::from_f32(i as f32 + 0.1).to_f32()).collect();
    assert_eq!(read_tensors(&halves).unwrap()["m"].to_f32(), expected);
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.safetensors");
    let go = |pieces: &[Piece], dtype| copy_tensors(&weights(), pieces, &path, dtype, &mut |_| true).unwrap_err();
    let rows = [
        (go(&[Piece::new("a", "absent")], None), "no tensor absent"),
        (go(&[Piece::new("a", "m"), Piece::new("a", "c")], None), "two tensors would have this name"),
        (go(&[piece("a", "c", Cut::Transposed)], None), "wanted a matrix"),
        (go(&[piece("a", "m", Cut::Part { index: 0, of: 4 })], None), "can't be cut in 4"),
        (go(&[Piece::new("a", "wide")], Some(DType::F16)), "element 1 is 70000"),
    ];
    for (error, words) in rows {
        assert!(error.to_string().contains(words), "{error}");
    }
    let (narrow, header) =
        (dir.path().join("n.safetensors"), br#"{"n":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}}"#);
    fs::write(&narrow, [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat()).unwrap();
    for cut in [Cut::Transposed, Cut::Part { index: 0, of: 2 }] {
        let weights = Weights::open(&narrow).unwrap();
        let error = copy_tensors(&weights, &[piece("a", "n", cut)], &path, None, &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("4 bits (F4)"), "{error}");
    }
    fs::remove_file(narrow).unwrap();
    let stopped = copy_tensors(&weights(), &[Piece::new("m", "m")], &path, None, &mut |_| false).unwrap_err();
    assert!(matches!(stopped, LoadError::Io { .. }), "{stopped}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
