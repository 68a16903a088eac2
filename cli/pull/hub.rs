//! The hub: what a repository holds, and its files, checked against their hashes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
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
/// How often a download is taken up again.
const TRIES: u32 = 5;

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
    /// `HF_ENDPOINT`, or the usual one; with `HF_TOKEN`, where it is set.
    pub(super) fn of_environment() -> Hub {
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("muybridge/", env!("CARGO_PKG_VERSION")));
        let agent = config.build().into();
        Hub { endpoint: endpoint.trim_end_matches('/').into(), token: set("HF_TOKEN"), agent }
    }

    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| match e {
            ureq::Error::StatusCode(401 | 403) => Failure(format!(
                "{url}: not allowed; where a licence is to be accepted first, do that and set HF_TOKEN"
            )),
            ureq::Error::StatusCode(404) => Failure(format!("{url}: there is no such thing")),
            other => Failure(format!("{url}: {other}; set HF_HUB_OFFLINE=1 to use the cache alone")),
        })
    }

    /// What a repository holds.
    ///
    /// # Errors
    /// It can't be reached, is not there, or its answer makes no sense.
    pub(super) fn list(&self, repo: &str, revision: &str) -> Result<Listing, Failure> {
        let url = format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint);
        let body = self.get(&url, 0)?.into_body().into_reader();
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
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(200 << attempt));
            }
            let mut out = OpenOptions::new().create(true).append(true).open(&partial).map_err(at)?;
            let mut have = out.metadata().map_err(at)?.len();
            if have > file.size {
                out.set_len(0).map_err(at)?;
                have = 0;
            }
            if attempt == 0 {
                progress(have)?;
            }
            match self.append(&url, file, have, &mut out, progress)? {
                None => {
                    out.sync_all().map_err(at)?;
                    return finish(&url, file, &partial, blob);
                }
                broken => last = broken,
            }
        }
        Err(Failure(format!("{url}: {}; what came is kept, and fetched no second time", last.unwrap_or_default())))
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
        let response = self.get(url, have)?;
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

/// Checks the hash of what came and gives it its name; what is wrong is removed.
fn finish(url: &str, file: &RemoteFile, partial: &Path, blob: &Path) -> Result<(), Failure> {
    let at = |e: std::io::Error| Failure(format!("{}: {e}", partial.display()));
    let mut context = if file.hash.len() == 64 {
        Context::new(&SHA256)
    } else {
        // What Git hashes of a file.
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {}\0", file.size).as_bytes());
        context
    };
    let mut content = File::open(partial).map_err(at)?;
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
