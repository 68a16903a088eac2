//! What a person sees: reports are opened from disk in a headless Chromium without a network, used, and must work.
//!
//! A script put into a copy of each page clicks, hovers and types, and leaves what it found in the page; `--dump-dom` gives it
//! back. The pages come from the program itself.

mod many;
mod pages;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// Puts itself into the head of a page.
const CHECK: &str = include_str!("check.js");

/// Names under which Chromium and its relatives are installed.
const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

/// A window as wide as a desk's, and the narrowest that a headless Chromium has.
const WIDE: [u32; 2] = [1280, 1000];
const NARROW: [u32; 2] = [500, 900];

/// `MUYBRIDGE_BROWSER`, or the first of the names on the path.
fn browser() -> Result<PathBuf, String> {
    if let Some(own) = std::env::var_os("MUYBRIDGE_BROWSER") {
        return Ok(own.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = || std::env::split_paths(&path);
    let found = NAMES.iter().flat_map(|n| places().map(move |p| p.join(n))).find(|p| p.is_file());
    found.ok_or_else(|| format!("none of {} is on the path", NAMES.join(", ")))
}

/// A browser and a folder of its own.
pub struct Browser {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Browser {
    /// Opens a copy of a page with the script in it; what the script found.
    pub fn use_page(&self, page: &Path, [width, height]: [u32; 2]) -> Result<Value, Failed> {
        let text = std::fs::read_to_string(page)?;
        let copy = tempfile::Builder::new().suffix(".html").tempfile_in(self.folder.path())?;
        if text.matches("<head>").count() != 1 {
            return Err("the page has not one head".into());
        }
        // After the policy of what the page may do, which counts from where it stands.
        let policy = text.find("Content-Security-Policy").ok_or("the page says nothing of what it may load")?;
        let after = policy + text[policy..].find('>').ok_or("an element does not end")? + 1;
        std::fs::write(&copy, format!("{}<script>{CHECK}</script>{}", &text[..after], &text[after..]))?;
        let run = Command::new(&self.program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
            // Whatever a page asked for would be looked for at a port that nobody listens on.
            .args(["--proxy-server=127.0.0.1:9", "--disable-background-networking", "--disable-component-update"])
            .args(["--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom"])
            .arg(format!("--user-data-dir={}", self.folder.path().join("profile").display()))
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("file://{}", copy.path().display()))
            .stdin(Stdio::null())
            .output()?;
        let log = String::from_utf8_lossy(&run.stderr);
        if let Some(line) = log.lines().find(|l| l.contains(":CONSOLE")) {
            return Err(format!("on the console: {line}").into());
        }
        let dom = String::from_utf8_lossy(&run.stdout);
        let verdict = dom.split_once("<pre id=\"verdict\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let (verdict, _) = verdict.ok_or_else(|| format!("no verdict ({}): {log}", run.status))?;
        let verdict = verdict.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", " ").replace("&amp;", "&");
        let mut verdict: Value = serde_json::from_str(&verdict)?;
        match verdict["faults"].as_array() {
            Some(faults) if faults.is_empty() => {}
            faults => return Err(format!("{faults:?}").into()),
        }
        let found = verdict["found"].take();
        holds(found["fetched"].as_array().is_some_and(Vec::is_empty), &found, "something was fetched")?;
        holds(found["wide"].as_f64() <= Some(0.0), &found, "the page is wider than its window")?;
        Ok(found)
    }
}

/// Fails with all that was found.
pub fn holds(right: bool, found: &Value, otherwise: &str) -> Result<(), Failed> {
    if right { Ok(()) } else { Err(format!("{otherwise}: {found}").into()) }
}

fn main() {
    let args = Arguments::from_args();
    let trials = match browser().and_then(|p| Ok((p, tempfile::tempdir().map_err(|e| e.to_string())?))) {
        Ok((program, folder)) => {
            let browser = Arc::new(Browser { program, folder });
            let trial = |(name, check): (&'static str, pages::Check)| {
                let browser = browser.clone();
                Trial::test(name, move || check(&browser))
            };
            pages::CHECKS.into_iter().map(trial).collect()
        }
        // A browser that is not there is reported as ignored with its reason; where CI promises it, it fails.
        Err(reason) => {
            let trial = |(name, _): (&'static str, pages::Check)| {
                let text = reason.clone();
                Trial::test(format!("{name} [no browser: {reason}]"), move || Err(Failed::from(text)))
                    .with_ignored_flag(std::env::var_os("CI").is_none())
            };
            pages::CHECKS.into_iter().map(trial).collect()
        }
    };
    // One browser at a time: they share a folder of settings.
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..args }, trials).exit();
}
