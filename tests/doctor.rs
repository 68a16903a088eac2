//! `muybridge doctor --isolate`: a kernel that does not come to its end is a finding, and costs no other.

use std::process::Command;

use serde_json::Value;

/// Findings and exit status of the doctor with these options.
fn findings(name: &str, options: &[&str]) -> (Vec<Value>, Option<i32>) {
    let file = std::env::temp_dir().join(format!("muybridge-doctor-{name}-{}.json", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
    command.args(["doctor", "--device", "cpu", "--untimed", "layout/"]).args(options).arg("--output").arg(&file);
    let out = command.output().expect("the program starts");
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    std::fs::remove_file(&file).expect("it was just read");
    let all: Value = serde_json::from_slice(&text).expect("JSON");
    (all["findings"].as_array().expect("a list").clone(), out.status.code())
}

#[test]
fn processes_of_their_own_find_the_same() {
    let (mut together, status) = findings("together", &[]);
    let (apart, status_apart) = findings("apart", &["--isolate", "--jobs", "2"]);
    assert_eq!((status, status_apart), (Some(0), Some(0)));
    together.sort_by_key(|f| f["trial"].to_string());
    assert!(together.len() > 10);
    assert_eq!(together, apart);
}

#[test]
fn a_kernel_without_an_end_is_wrong() {
    let (found, status) = findings("late", &["--isolate", "--limit", "0"]);
    assert_eq!(status, Some(1));
    let reason = |f: &Value| f["wrong"].as_str().unwrap_or_default().to_string();
    assert!(!found.is_empty() && found.iter().all(|f| reason(f).contains("no end within 0 s")), "{found:?}");
}
