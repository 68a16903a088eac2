//! What the command line says where it cannot read or write: at once, in words, and with a status that is no success.
#![cfg(target_os = "linux")]

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

/// Standard error of the program with these arguments, which it refuses.
#[track_caller]
fn fails(arguments: &[&str], stdout: Stdio) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
    let out = command.args(arguments).stdin(Stdio::null()).stdout(stdout).output().expect("the program starts");
    assert_eq!(out.status.code(), Some(2), "{arguments:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("there is one").into()
}

#[test]
fn lost_output_is_a_failure() {
    assert!(fails(&["devices", "--json"], full()).contains("the output could not be written"));
    assert!(fails(&["devices"], full()).contains("the output could not be written"));
}

#[test]
fn a_full_standard_error_is_no_panic() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
    let status = command.args(["compare", "none", "none"]).stderr(full()).status().expect("the program starts");
    assert_eq!(status.code(), Some(2));
}

#[test]
fn impossible_outputs_are_told_before_the_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let animate = |option: &str, file: &str| {
        // So many steps take longer than any test: only what is told before them comes to an end.
        fails(&["animate", "--device", "cpu", "--steps", "900", "--output", &at("a.gif"), option, file], Stdio::null())
    };
    assert!(animate("--sheet", &at("none/a.png")).contains("none is no folder"));
    assert!(animate("--preview", "/dev/null").contains("/dev/null: cannot be written"));
    let video = ["animate", "--device", "cpu", "--steps", "900", "--output", &at("a.avi")];
    assert!(fails(&video, Stdio::null()).contains("no video is written as .avi"));
    let notes = at("notes.json");
    std::fs::write(&notes, "{}").expect("written");
    let tune = ["tune", "sd15-unet", "--shape", "64x64", "--device", "cpu", "--output", &notes];
    assert!(fails(&tune, Stdio::null()).contains("notes.json: version null"));
    assert_eq!(std::fs::read_to_string(&notes).expect("kept"), "{}");
    assert!(fails(&["doctor", "--device", "cpu", "--output", &at(".")], Stdio::null()).contains("cannot be written"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing is left");
}

#[test]
fn devices_are_not_read() {
    for arguments in [&["compare", "/dev/zero", "/dev/zero"][..], &["evaluate", "/dev/zero", "/dev/zero", "-o", "none"]]
    {
        assert!(fails(arguments, Stdio::null()).contains("/dev/zero: is not a regular file"));
    }
}
