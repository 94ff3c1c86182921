//! A short run of every property, on random changes of the seeds.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A seed with some of it cut out and something else put in, a few times; or something else
/// altogether.
fn changed(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let change = (any::<Index>(), 0usize..20, vec(any::<u8>(), 0..20));
    let seed = select(seeds(target));
    let changed = (seed, vec(change, 0..5)).prop_map(|(mut bytes, changes)| {
        for (at, cut, new) in changes {
            let start = at.index(bytes.len() + 1);
            let end = bytes.len().min(start + cut);
            bytes.splice(start..end, new);
        }
        bytes
    });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..300)]
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let entries = std::fs::read_dir(directory).expect("every target has seeds");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read(entry.expect("an entry").path()).expect("a file")
    };
    entries.map(read).collect()
}

proptest! {
    #[test]
    fn frames(bytes in changed("frames")) {
        crate::frames::hold(&bytes);
    }

    #[test]
    fn messages(bytes in changed("messages")) {
        crate::messages::hold(&bytes);
    }

    #[test]
    fn v1(bytes in changed("v1")) {
        crate::v1::hold(&bytes);
    }

    #[test]
    fn toolkata(bytes in changed("toolkata")) {
        crate::toolkata::hold(&bytes);
    }

    #[test]
    fn config(bytes in changed("config")) {
        crate::config::hold(&bytes);
    }
}
