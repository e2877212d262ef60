//! What a store takes at all: pure, the same for every store of this crate.

use bytes::Bytes;

use crate::{api::Op, embedded::Options, errors::CommitError};

/// Refuses what is too large or ambiguous, and gives values memory of just their size: a value lives long, and
/// may have come as a part of a much larger buffer.
pub(crate) fn admit(mut ops: Vec<Op>, options: &Options) -> Result<Vec<Op>, CommitError> {
    within("commit (operations)", ops.len(), options.commit_ops_max)?;
    for op in &mut ops {
        within("key (bytes)", op.key().len(), options.key_bytes_max)?;
        if let Op::Put { key, value, .. } = op {
            if value.len() > options.value_bytes_max {
                within(&format!("value of {key} (bytes)"), value.len(), options.value_bytes_max)?;
            }
            *value = Bytes::copy_from_slice(value);
        }
    }
    let mut keys: Vec<_> = ops.iter().map(Op::key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first()) {
        Some(&twice) => Err(CommitError::DuplicateKey { key: twice.clone() }),
        None => Ok(ops),
    }
}

fn within(what: &str, size: usize, limit: usize) -> Result<(), CommitError> {
    if size > limit { Err(CommitError::TooLarge { what: what.to_owned(), size, limit }) } else { Ok(()) }
}
