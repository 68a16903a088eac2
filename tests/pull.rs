//! Fetching from a hub that breaks connections and lies about hashes: a small server here stands in for it.
#![cfg(feature = "pull")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository.
#[derive(Default)]
struct Hub {
    /// Content by name.
    files: BTreeMap<String, Vec<u8>>,
    /// Names of large files, which have a SHA-256.
    large: Vec<String>,
    /// The connection breaks after so many bytes of a file's content, once for each entry.
    cuts: Mutex<Vec<usize>>,
    /// What is cut is not ended: the connection stays, and nothing more comes.
    stalls: bool,
    /// What is sent in place of a file's content.
    lie: Option<Vec<u8>>,
    /// Requests for content: name and first byte.
    asked: Mutex<Vec<(String, usize)>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Hub {
    fn with(files: &[(&str, Vec<u8>)], large: &[&str]) -> Hub {
        let files = files.iter().map(|(name, content)| (name.to_string(), content.clone())).collect();
        Hub { files, large: large.iter().map(ToString::to_string).collect(), ..Hub::default() }
    }

    fn listing(&self) -> String {
        let file = |(name, content): (&String, &Vec<u8>)| {
            let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
            let mut entry = json!({
                "rfilename": name, "size": content.len(), "blobId": hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref()),
            });
            if self.large.contains(name) {
                entry["lfs"] = json!({ "sha256": hex(digest(&SHA256, content).as_ref()), "size": content.len() });
            }
            entry
        };
        json!({ "sha": COMMIT, "siblings": self.files.iter().map(file).collect::<Vec<_>>() }).to_string()
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            lines.push(line.to_lowercase());
        }
        let mut stream = stream;
        let path = lines[0].split(' ').nth(1).unwrap_or_default().to_string();
        let mut send = |status: &str, length: usize, body: &[u8]| {
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
            stream.write_all(body)
        };
        if path.starts_with("/api/models/me/net/revision/main") {
            let listing = self.listing();
            return send("200 OK", listing.len(), listing.as_bytes());
        }
        let Some(name) = path.strip_prefix(&format!("/me/net/resolve/{COMMIT}/")) else {
            return send("404 Not Found", 0, b"");
        };
        let range =
            lines.iter().find_map(|l| l.strip_prefix("range: bytes=")?.trim().trim_end_matches('-').parse().ok());
        let from: usize = range.unwrap_or(0);
        self.asked.lock().unwrap().push((name.into(), from));
        let content = self.lie.as_ref().unwrap_or(&self.files[name]);
        let rest = &content[from.min(content.len())..];
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let sent = self.cuts.lock().unwrap().pop().unwrap_or(usize::MAX).min(rest.len());
        send(status, rest.len(), &rest[..sent])?;
        if self.stalls && sent < rest.len() {
            // Until the other end has had enough.
            std::io::copy(&mut reader, &mut std::io::sink())?;
        }
        Ok(())
    }
}

/// Starts a hub, and gives its address.
fn serve(hub: Hub) -> (Arc<Hub>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let hub = Arc::new(hub);
    let serving = hub.clone();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(serving.answer(stream))));
    (hub, address)
}

fn command(address: &str, cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muybridge"));
    command.arg("pull").args(args).env("HF_ENDPOINT", address).env("HF_HUB_CACHE", cache);
    command.env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN").env_remove("HF_HUB_DOWNLOAD_TIMEOUT");
    command
}

fn pull(address: &str, cache: &Path, args: &[&str]) -> Output {
    command(address, cache, args).output().unwrap()
}

fn says(output: &Output, words: &[&str]) {
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    let text = String::from_utf8_lossy(&text);
    words.iter().for_each(|word| assert!(text.contains(word), "{text} does not say {word:?}"));
}

fn net() -> Hub {
    let weights: Vec<u8> = (0..300_000u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
    let files = [
        ("config.json", b"{}".to_vec()),
        ("unet/model.safetensors", weights),
        ("unet/model.bin", b"pickle".to_vec()),
        ("readme.md", b"words".to_vec()),
    ];
    Hub::with(&files, &["unet/model.safetensors", "unet/model.bin"])
}

#[test]
fn what_is_needed_is_fetched_once() {
    let (hub, address) = serve(net());
    let cache = tempfile::tempdir().unwrap();
    let output = pull(&address, cache.path(), &["me/net"]);
    says(&output, &["2 files", "snapshots"]);
    assert!(output.status.success());
    let snapshot = cache.path().join("models--me--net/snapshots").join(COMMIT);
    for name in ["config.json", "unet/model.safetensors"] {
        assert!(std::fs::read(snapshot.join(name)).unwrap() == hub.files[name], "{name}");
    }
    assert!(!snapshot.join("unet/model.bin").exists() && !snapshot.join("readme.md").exists());
    assert_eq!(std::fs::read_to_string(cache.path().join("models--me--net/refs/main")).unwrap(), COMMIT);
    assert_eq!(hub.asked.lock().unwrap().len(), 2);
    says(&pull(&address, cache.path(), &["me/net"]), &["2 files", "of which 0"]);
    assert_eq!(hub.asked.lock().unwrap().len(), 2, "what is there is not fetched again");
    // Without a hub: what was fetched is found, the rest is missed.
    assert!(pull("http://127.0.0.1:1", cache.path(), &["me/net", "--offline"]).status.success());
    let missing = pull("http://127.0.0.1:1", cache.path(), &["me/net", "readme.md", "--offline"]);
    says(&missing, &["readme.md is missing", "offline"]);
    assert!(!missing.status.success());
    says(&pull("http://127.0.0.1:1", cache.path(), &["me/other", "--offline"]), &["me/other", "offline"]);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_ended() {
    let hub = net();
    *hub.cuts.lock().unwrap() = vec![400_000, 100_000];
    let (hub, address) = serve(hub);
    let cache = tempfile::tempdir().unwrap();
    let output = pull(&address, cache.path(), &["me/net", ".safetensors"]);
    assert!(output.status.success(), "{output:?}");
    let name = "unet/model.safetensors".to_string();
    let asked = hub.asked.lock().unwrap().clone();
    assert_eq!(asked, [(name.clone(), 0), (name.clone(), 100_000), (name.clone(), 500_000)]);
    let snapshot = cache.path().join("models--me--net/snapshots").join(COMMIT);
    assert!(std::fs::read(snapshot.join(&name)).unwrap() == hub.files[&name]);
}

#[test]
fn a_server_that_stalls_is_left_and_asked_again() {
    let mut hub = net();
    hub.stalls = true;
    *hub.cuts.lock().unwrap() = vec![0, 100_000];
    let (hub, address) = serve(hub);
    let cache = tempfile::tempdir().unwrap();
    let output = command(&address, cache.path(), &["me/net", ".safetensors"])
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let asked: Vec<usize> = hub.asked.lock().unwrap().iter().map(|(_, from)| *from).collect();
    assert_eq!(asked, [0, 100_000, 100_000]);
}

#[test]
fn a_download_that_gets_on_is_not_given_up() {
    let hub = net();
    *hub.cuts.lock().unwrap() = vec![180_000; 6];
    let (hub, address) = serve(hub);
    let cache = tempfile::tempdir().unwrap();
    let output = pull(&address, cache.path(), &["me/net", ".safetensors"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(hub.asked.lock().unwrap().len(), 7);
}

#[test]
fn two_do_not_fetch_one_file() {
    let (hub, address) = serve(net());
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--me--net/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let name = hex(digest(&SHA256, &hub.files["unet/model.safetensors"]).as_ref());
    let other = std::fs::File::create(blobs.join(name).with_extension("incomplete")).unwrap();
    other.lock().unwrap();
    let output = pull(&address, cache.path(), &["me/net", ".safetensors"]);
    says(&output, &[".incomplete", "another program is fetching"]);
    assert!(!output.status.success());
    drop(other);
    assert!(pull(&address, cache.path(), &["me/net", ".safetensors"]).status.success());
}

#[test]
fn a_wrong_hash_is_refused() {
    for name in ["unet/model.safetensors", "config.json"] {
        let mut hub = net();
        let mut lie = hub.files[name].clone();
        *lie.last_mut().unwrap() ^= 1;
        hub.lie = Some(lie);
        let (_, address) = serve(hub);
        let cache = tempfile::tempdir().unwrap();
        let output = pull(&address, cache.path(), &["me/net", name]);
        says(&output, &[name, "its hash is", "removed"]);
        assert!(!output.status.success());
        assert_eq!(std::fs::read_dir(cache.path().join("models--me--net/blobs")).unwrap().count(), 0);
        assert!(!cache.path().join("models--me--net/snapshots").exists());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let (_, address) = serve(Hub::with(&[("../../evil", b"x".to_vec())], &[]));
    says(&pull(&address, cache.path(), &["me/net"]), &["../../evil", "no plain name"]);
    let (_, address) = serve(net());
    says(&pull(&address, cache.path(), &["me/absent"]), &["me/absent", "no such thing"]);
    says(&pull(&address, cache.path(), &["me/net", "absent.bin"]), &["no file absent.bin", "config.json"]);
    says(&pull(&address, cache.path(), &["../net"]), &["neither OWNER/NAME nor one of"]);
    let unreachable = pull("http://127.0.0.1:1", cache.path(), &["me/net"]);
    says(&unreachable, &["127.0.0.1:1", "HF_HUB_OFFLINE"]);
    assert!(!unreachable.status.success());
}
