//! The durable half of the embedded store: one redb file.
//!
//! Table `entries` holds for each key `created`, `modified` (64 bits each, little-endian) and the value; table `meta`
//! holds the format, the revision, and a digest over all entries. redb flushes each batch once and marks it with checksums, so that a
//! crash at any moment leaves the last acknowledged batch or the one in flight. The digest is ours, over what the
//! pages mean: a damaged file must be an error at opening, not a wrong answer later.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use hitless_base::Revision;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{
    api::{Entry, Key},
    backend::{CountedFile, FileCounters},
    batch::Plan,
    errors::OpenError,
    image::Image,
};

const ENTRIES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
/// The two revisions before each value.
const HEADER: usize = 16;
/// redb's cache, in bytes: reads are answered from memory, so it serves only the upper pages of the tree in writes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A failure of redb, of any of its kinds.
pub(crate) type DiskError = redb::Error;

/// The open file.
pub(crate) struct Disk {
    database: Database,
    /// The digest of what is in the file.
    digest: u64,
}

/// Opens the store in directory `directory`, or makes an empty one, and reads all of it.
pub(crate) fn open(directory: &Path, counters: Arc<FileCounters>) -> Result<(Disk, Image), OpenError> {
    let path = directory.join("store.redb");
    let io = |source: std::io::Error| OpenError::Io { path: path.clone(), source: Arc::new(source) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    let new = file.metadata().map_err(io)?.len() == 0;
    // redb takes its pages at their word and may panic over a damaged one.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let backend = CountedFile::new(file, counters).map_err(redb::Error::from)?;
        let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        // Walks every page: one that is damaged is found now, and not when it is written next to.
        // What a crash cut off was rolled back by redb when it opened the file, so whatever is wrong now is damage, and mending it may
        // have taken an acknowledged batch away.
        if !database.check_integrity()? {
            return Ok(Loaded::Damaged("a page of it was not what had been written".to_owned()));
        }
        load(database)
    }));
    let loaded = match opened {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => return Err(refusal(path, error)),
        Err(_panic) => return Err(OpenError::Corrupt { path, detail: "a page cannot be read".to_owned() }),
    };
    if new {
        // The file's own name must be as durable as what will be in it.
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    }
    match loaded {
        Loaded::Sound(disk, image) => Ok((disk, image)),
        Loaded::OtherFormat(found) => Err(OpenError::Format { path, found, known: FORMAT }),
        Loaded::Damaged(detail) => Err(OpenError::Corrupt { path, detail }),
    }
}

fn refusal(path: PathBuf, error: DiskError) -> OpenError {
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::AlreadyOpen { path },
        redb::Error::Io(source)
            if source.kind() != std::io::ErrorKind::UnexpectedEof
                && source.kind() != std::io::ErrorKind::InvalidData =>
        {
            OpenError::Io { path, source: Arc::new(source) }
        }
        other => OpenError::Corrupt { path, detail: other.to_string() },
    }
}

enum Loaded {
    Sound(Disk, Image),
    OtherFormat(u64),
    Damaged(String),
}

fn load(database: Database) -> Result<Loaded, DiskError> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => {
            drop(read);
            return begin(database);
        }
        Err(error) => return Err(error.into()),
    };
    let number =
        |name: &str| -> Result<Option<u64>, DiskError> { Ok(meta.get(name)?.map(|found| found.value())) };
    match number("format")? {
        Some(FORMAT) => {}
        Some(other) => return Ok(Loaded::OtherFormat(other)),
        None => return Ok(Loaded::Damaged("it names no format".to_owned())),
    }
    let (Some(revision), Some(digest)) = (number("revision")?, number("digest")?) else {
        return Ok(Loaded::Damaged("it names no revision".to_owned()));
    };
    let mut entries = Vec::new();
    let mut found_digest = 0_u64;
    for row in read.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let Some(entry) = decode(key.value(), value.value()) else {
            return Ok(Loaded::Damaged(format!("the entry {:?} is cut short", key.value())));
        };
        found_digest = found_digest.wrapping_add(fingerprint(&entry));
        entries.push(entry);
    }
    if found_digest != digest {
        return Ok(Loaded::Damaged("what is in it is not what was written".to_owned()));
    }
    drop(meta);
    drop(read);
    Ok(Loaded::Sound(Disk { database, digest }, Image::new(entries, Revision(revision))))
}

/// Makes an empty store.
fn begin(database: Database) -> Result<Loaded, DiskError> {
    let mut disk = Disk { database, digest: 0 };
    disk.write(|write| {
        write.open_table(ENTRIES)?;
        let mut meta = write.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", 0)?;
        meta.insert("digest", 0)?;
        Ok(())
    })?;
    Ok(Loaded::Sound(disk, Image::default()))
}

impl Disk {
    fn write(
        &mut self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        // One flush, with checksums that tell a commit that was cut off from a whole one. What redb could do instead (two flushes, and
        // the allocator's state with each commit) only spares the walk over the file when it is opened after a crash, and every
        // opening here walks over it anyway, to find damage before it is built upon.
        write.set_quick_repair(false);
        write.set_two_phase_commit(false);
        change(&write)?;
        Ok(write.commit()?)
    }

    /// Makes `plan` durable. `base` is what it was planned on.
    pub(crate) fn store(&mut self, base: &Image, plan: &Plan) -> Result<(), DiskError> {
        let mut digest = self.digest;
        for (key, after) in &plan.changed {
            let before = base.get(key).map_or(0, fingerprint);
            digest = digest.wrapping_sub(before).wrapping_add(after.as_ref().map_or(0, fingerprint));
        }
        self.write(|write| {
            let mut entries = write.open_table(ENTRIES)?;
            for (key, after) in &plan.changed {
                match after {
                    Some(entry) => {
                        let mut place = entries.insert_reserve(key.as_str(), HEADER + entry.value.len())?;
                        encode(entry, place.as_mut());
                    }
                    None => {
                        entries.remove(key.as_str())?;
                    }
                }
            }
            let mut meta = write.open_table(META)?;
            meta.insert("revision", plan.revision.0)?;
            meta.insert("digest", digest)?;
            Ok(())
        })?;
        self.digest = digest;
        Ok(())
    }
}

fn encode(entry: &Entry, place: &mut [u8]) {
    let header = entry.created.0.to_le_bytes().into_iter().chain(entry.modified.0.to_le_bytes());
    for (to, from) in place.iter_mut().zip(header) {
        *to = from;
    }
    if let Some(rest) = place.get_mut(HEADER..) {
        rest.copy_from_slice(&entry.value);
    }
}

fn decode(key: &str, stored: &[u8]) -> Option<Entry> {
    let (created, rest) = stored.split_first_chunk::<8>()?;
    let (modified, value) = rest.split_first_chunk::<8>()?;
    Some(Entry {
        key: Key::from(key),
        value: Bytes::copy_from_slice(value),
        created: Revision(u64::from_le_bytes(*created)),
        modified: Revision(u64::from_le_bytes(*modified)),
    })
}

/// 64 bits that change with any change of the entry. Part of the format: it must not vary between versions. It guards
/// against damage, not against intent.
fn fingerprint(entry: &Entry) -> u64 {
    let mut hash = mix(entry.key.len() as u64, entry.value.len() as u64);
    for bytes in [entry.key.as_bytes(), &entry.value] {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            hash = mix(hash, u64::from_le_bytes(*word));
        }
        let mut last = [0_u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        hash = mix(hash, u64::from_le_bytes(last));
    }
    hash = mix(mix(hash, entry.created.0), entry.modified.0);
    // The finish of SplitMix64: without it, sums of similar entries could cancel each other.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
