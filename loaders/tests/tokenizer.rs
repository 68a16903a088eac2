//! CLIP's tokenizer against that of transformers, over a small vocabulary.

use std::path::{Path, PathBuf};

use muybridge_loaders::Tokenizer;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer_clip")
}

fn texts() -> Vec<(String, Vec<u32>, Vec<u32>)> {
    let bytes = std::fs::read(folder().join("texts.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let ids = |row: &Value, name: &str| {
        row[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>()
    };
    rows.iter().map(|row| (row["text"].as_str().unwrap().to_string(), ids(row, "ids"), ids(row, "padded"))).collect()
}

#[test]
fn texts_become_the_ids_of_transformers() {
    let (apart, whole) = (Tokenizer::open(folder()).unwrap(), Tokenizer::open(folder().join("whole")).unwrap());
    assert_eq!((apart.length(), apart.pad()), (77, 0));
    for (text, ids, padded) in texts() {
        assert_eq!(apart.ids(&text), ids, "{text:?}");
        assert_eq!(apart.encode(&text), padded, "{text:?}");
        // Without settings, as in Stable Diffusion 1.x, the end fills up, and the padding of others is a token of the text.
        if !text.contains('!') && !text.contains("<|endoftext|>") {
            let end = padded.iter().position(|id| *id == apart.end()).unwrap();
            let mut ended = padded.clone();
            ended[end + 1..].fill(apart.end());
            assert_eq!(whole.encode(&text), ended, "{text:?}");
        }
    }
}

#[test]
fn a_long_word_costs_what_its_letters_cost() {
    let tokenizer = Tokenizer::open(folder()).unwrap();
    let short = tokenizer.ids(&"photo".repeat(40));
    let long = tokenizer.ids(&"photo".repeat(40_000));
    // Every repetition is merged alike, but for that at the end of the word.
    let period = short.len() / 40;
    assert!(period < 5 && long.len() / 40_000 == period, "{} ids", short.len());
    assert_eq!(
        (&long[..period * 39], &long[long.len() - period * 39..]),
        (&short[..period * 39], &short[short.len() - period * 39..])
    );
}

#[test]
fn padding_is_a_token_only_where_the_settings_say_so() {
    let (apart, whole) = (Tokenizer::open(folder()).unwrap(), Tokenizer::open(folder().join("whole")).unwrap());
    assert_eq!(apart.ids("!"), [0]);
    assert_ne!(whole.ids("!"), [0]);
}

#[test]
fn files_that_are_no_such_tokenizer_are_refused_by_name() {
    let whole =
        || -> Value { serde_json::from_slice(&std::fs::read(folder().join("whole/tokenizer.json")).unwrap()).unwrap() };
    let refused = |change: &dyn Fn(&mut Value), word: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut value = whole();
        change(&mut value);
        std::fs::write(dir.path().join("tokenizer.json"), value.to_string()).unwrap();
        let error = Tokenizer::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(word), "{error}");
    };
    refused(&|v| v["model"]["type"] = json!("Unigram"), "Unigram");
    refused(&|v| v["model"]["end_of_word_suffix"] = json!(null), "end_of_word_suffix");
    refused(&|v| v["model"]["merges"][0] = json!("one"), "merges: 0");
    refused(&|v| v["model"]["merges"][0] = json!(["no", "where"]), "nowhere");
    refused(&|v| v["model"]["vocab"]["cat</w>"] = json!(-1), "-1");
    refused(&|v| v["model"]["vocab"] = json!([]), "vocabulary");
    let dir = tempfile::tempdir().unwrap();
    assert!(Tokenizer::open(dir.path()).is_err());
    for (name, text) in [("merges.txt", "#version: 0.2\na\n"), ("vocab.json", "{}")] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    assert!(Tokenizer::open(dir.path()).unwrap_err().to_string().contains("line 2"));
    std::fs::write(dir.path().join("merges.txt"), "").unwrap();
    assert!(Tokenizer::open(dir.path()).unwrap_err().to_string().contains("<|startoftext|>"));
}
