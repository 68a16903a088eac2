//! The script that checks a machine with a GPU, over the stand-ins: it passes where all is right, and tells what is not.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::folder;

/// One trial.
pub fn trial() -> Trial {
    Trial::test("the_script_for_gpus_tells_right_from_wrong", || {
        let (text, status) = run("right", &[], &[])?;
        // A case without a tolerance is neither right nor wrong.
        let told = ["0 wrong", "ok       vae_mid_attn bf16", "unjudged aa_pose_guider f16", "everything passed"];
        if status != Some(0) || !told.iter().all(|part| text.contains(part)) {
            return Err(format!("{status:?}: {text}").into());
        }
        let lost = ("EMULATOR_FAULT", "cuGraphLaunch:2:700");
        let (text, status) = run("wrong", &["--only", "ops,golden"], &[lost])?;
        let told = ["FAILED: ops on cuda:0", "FAILED: recorded cases on cuda:0", "WRONG    vae_mid_attn f32"];
        if status == Some(1) && told.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text.into()) }
    })
}

/// What the script says, and its exit status.
fn run(name: &str, options: &[&str], changes: &[(&str, &str)]) -> Result<(String, Option<i32>), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("benches/gpu/run.sh"));
    script.args(["--quick", "--minutes", "5", "--jobs", "2", "--program", env!("CARGO_BIN_EXE_muybridge")]);
    script.arg("--golden").arg(root.join("tests/golden")).arg("--out").arg(folder(&format!("script-{name}"))?);
    let done = script.args(options).env("MUYBRIDGE_KERNELS", "").envs(changes.iter().copied()).output()?;
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    Ok((text.into_owned(), done.status.code()))
}
