//! Indices of sharded checkpoints. Whatever is accepted must name files beside the index and nowhere else.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use muybridge_loaders::Index;

fuzz_target!(|bytes: &[u8]| {
    let index = match Index::parse(bytes, "i") {
        Ok(index) => index,
        Err(error) => return assert!(error.to_string().starts_with("i: "), "{error} does not name its file"),
    };
    assert!(!index.weight_map.is_empty());
    for shard in index.shards() {
        let parts: Vec<Component> = Path::new(shard).components().collect();
        assert!(matches!(parts[..], [Component::Normal(name)] if name == shard), "{shard:?}");
        assert!(!shard.contains(['/', '\\', ':', '\0']) && shard.ends_with(".safetensors"), "{shard:?}");
        assert_eq!(Path::new("dir").join(shard).parent(), Some(Path::new("dir")));
    }
});
