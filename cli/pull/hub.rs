//! The hub: what a repository holds, and its files, checked against their hashes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde::Deserialize;

use super::cache::plain;
use crate::Failure;

/// Whether an environment variable says yes.
pub(super) fn flag(name: &str) -> bool {
    std::env::var(name).is_ok_and(|v| matches!(v.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// A file of a repository.
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: u64,
    /// SHA-256 of large files, Git's SHA-1 of small ones, in hexadecimal digits.
    pub(super) hash: String,
}

/// What a repository holds at a commit.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

/// Longest listing that is read, in bytes.
const MOST_LISTING: u64 = 64 << 20;
/// How often in a row a download is tried that gets no further.
const TRIES: u32 = 5;
/// Longest wait for the next bytes, in seconds, where `HF_HUB_DOWNLOAD_TIMEOUT` names no other.
const MOST_WAIT: u64 = 30;

/// A connection to the hub, or to what stands in for it.
pub(super) struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: ureq::Agent,
}

fn hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Hub {
    /// `HF_ENDPOINT`, or the usual one; with `HF_TOKEN`, where it is set. A server that sends nothing for
    /// `HF_HUB_DOWNLOAD_TIMEOUT` seconds counts as a broken connection.
    pub(super) fn of_environment() -> Hub {
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let wait =
            set("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|v| v.parse().ok()).filter(|seconds| (1..=3600).contains(seconds));
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_per_read(Some(Duration::from_secs(wait.unwrap_or(MOST_WAIT))))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("muybridge/", env!("CARGO_PKG_VERSION")));
        let agent = config.build().into();
        Hub { endpoint: endpoint.trim_end_matches('/').into(), token: set("HF_TOKEN"), agent }
    }

    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// What a repository holds.
    ///
    /// # Errors
    /// It can't be reached, is not there, or its answer makes no sense.
    pub(super) fn list(&self, repo: &str, revision: &str) -> Result<Listing, Failure> {
        let url = format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint);
        let body = self.get(&url, 0).map_err(|e| refused(&url, &e))?.into_body().into_reader();
        let bad = |reason: String| Failure(format!("{url}: bad answer: {reason}"));
        let answer: Answer = serde_json::from_reader(body.take(MOST_LISTING)).map_err(|e| bad(e.to_string()))?;
        if !hexadecimal(&answer.sha, 40) {
            return Err(bad(format!("{:?} is no commit", answer.sha)));
        }
        let mut files = Vec::with_capacity(answer.siblings.len());
        for file in answer.siblings {
            let (size, hash) = match (file.lfs, file.size, file.blob_id) {
                (Some(large), _, _) if hexadecimal(&large.sha256, 64) => (large.size, large.sha256),
                (None, Some(size), Some(id)) if hexadecimal(&id, 40) => (size, id),
                _ => return Err(bad(format!("{:?} has no hash", file.rfilename))),
            };
            files.push(RemoteFile { name: plain(&file.rfilename)?.to_string(), size, hash: hash.to_lowercase() });
        }
        Ok(Listing { commit: answer.sha, files })
    }

    /// Fetches a file, going on where an earlier attempt ended. It gets its name when its hash is right.
    ///
    /// # Errors
    /// The connection keeps breaking, the content has another hash, or there is no room.
    pub(super) fn download(
        &self,
        repo: &str,
        commit: &str,
        file: &RemoteFile,
        blob: &Path,
        progress: &mut dyn FnMut(u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let url = format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, file.name);
        let partial = blob.with_extension("incomplete");
        let at = |e: std::io::Error| Failure(format!("{}: {e}", partial.display()));
        let mut out = OpenOptions::new().create(true).read(true).append(true).open(&partial).map_err(at)?;
        // Two that append to one file spoil it. Where a system knows no locks, the hash tells in the end.
        if let Err(TryLockError::WouldBlock) = out.try_lock() {
            return Err(Failure(format!("{}: another program is fetching this file; wait for it", partial.display())));
        }
        let length = |out: &File| out.metadata().map(|meta| meta.len()).map_err(at);
        if length(&out)? > file.size {
            out.set_len(0).map_err(at)?;
        }
        let mut most = length(&out)?;
        progress(most)?;
        let mut tries = 0;
        loop {
            let have = length(&out)?;
            let Some(broken) = self.append(&url, file, have, &mut out, progress)? else {
                out.sync_all().map_err(at)?;
                return finish(&url, file, &mut out, &partial, blob);
            };
            let now = length(&out)?;
            tries = if now > most { 1 } else { tries + 1 };
            most = most.max(now);
            if tries == TRIES {
                return Err(Failure(format!("{url}: {broken}; what came is kept, and fetched no second time")));
            }
            // Nothing is told while a server says nothing: this is the place where an interruption is seen.
            progress(0)?;
            std::thread::sleep(Duration::from_millis(200 << tries));
        }
    }

    /// Appends what is missing; why it stopped before the end, if it did.
    fn append(
        &self,
        url: &str,
        file: &RemoteFile,
        mut have: u64,
        out: &mut File,
        progress: &mut dyn FnMut(u64) -> Result<(), Failure>,
    ) -> Result<Option<String>, Failure> {
        if have == file.size {
            return Ok(None);
        }
        let response = match self.get(url, have) {
            Ok(response) => response,
            Err(e @ ureq::Error::StatusCode(_)) => return Err(refused(url, &e)),
            Err(e) => return Ok(Some(format!("{e} after {have} of {} bytes", file.size))),
        };
        if have > 0 && response.status().as_u16() != 206 {
            // A server that can't go on in the middle begins anew.
            out.set_len(0).map_err(|e| Failure(format!("{url}: {e}")))?;
            have = 0;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        while have < file.size {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(Some(format!("the connection ended after {have} of {} bytes", file.size))),
                Ok(n) => {
                    let n = n.min((file.size - have) as usize);
                    out.write_all(&buffer[..n]).map_err(|e| Failure(format!("{url}: {e}")))?;
                    have += n as u64;
                    progress(n as u64)?;
                }
                Err(e) => return Ok(Some(format!("{e} after {have} of {} bytes", file.size))),
            }
        }
        Ok(None)
    }
}

/// Why there was no answer, and what to do about it.
fn refused(url: &str, error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::StatusCode(401 | 403) => {
            Failure(format!("{url}: not allowed; where a licence is to be accepted first, do that and set HF_TOKEN"))
        }
        ureq::Error::StatusCode(404) => Failure(format!("{url}: there is no such thing")),
        other => Failure(format!("{url}: {other}; set HF_HUB_OFFLINE=1 to use the cache alone")),
    }
}

/// Checks the hash of what came and gives it its name; what is wrong is removed.
fn finish(url: &str, file: &RemoteFile, content: &mut File, partial: &Path, blob: &Path) -> Result<(), Failure> {
    let at = |e: std::io::Error| Failure(format!("{}: {e}", partial.display()));
    let mut context = if file.hash.len() == 64 {
        Context::new(&SHA256)
    } else {
        // What Git hashes of a file.
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {}\0", file.size).as_bytes());
        context
    };
    // Through the handle that holds the lock: some systems let no other one read.
    content.seek(SeekFrom::Start(0)).map_err(at)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match content.read(&mut buffer).map_err(at)? {
            0 => break,
            n => context.update(&buffer[..n]),
        }
    }
    let found: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != file.hash {
        fs::remove_file(partial).map_err(at)?;
        return Err(Failure(format!("{url}: its hash is {found}, not {}: it was removed", file.hash)));
    }
    fs::rename(partial, blob).map_err(at)
}
