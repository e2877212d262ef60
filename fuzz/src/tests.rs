//! Each target over its seeds, whole and damaged. libFuzzer finds more; this finds what a change has broken.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::{collection::vec, prelude::*, sample::Index};

/// All files of `seeds/TARGET`.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A seed of which some bytes are others, or gone, or there twice.
fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds(target);
    let edits = vec((any::<Index>(), 0..4_u8, any::<u8>(), 1..16_usize), 0..6);
    (any::<Index>(), edits).prop_map(move |(seed, edits)| {
        let mut bytes = seed.get(&seeds).clone();
        for (at, how, byte, count) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + count).min(bytes.len());
            match how {
                0 => bytes.insert(at, byte),
                1 => drop(bytes.drain(at..end)),
                2 => bytes[at..end].fill(byte),
                _ => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes
    })
}

macro_rules! targets {
    ($($target:ident)*) => {$(
        mod $target {
            use super::*;

            #[test]
            fn takes_its_seeds() {
                seeds(stringify!($target)).iter().for_each(|seed| crate::$target(seed));
            }

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(512))]
                #[test]
                fn holds_its_promises_on_damaged_seeds(data in damaged(stringify!($target))) {
                    crate::$target(&data);
                }
            }
        }
    )*};
}

targets!(selectors quantities patches dns archives);
