//! The file under the embedded store, with its flushes counted.
//!
//! Why a wrapper: how many flushes a load costs is what group commit is about, so it must be measured where it
//! happens. Tests also let the disk fail here, which no real disk does when asked.

use std::{
    fs::File,
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

/// What the file has been asked to do.
#[derive(Debug, Default)]
pub(crate) struct FileCounters {
    /// Flushes to the disk since the file was opened.
    pub(crate) syncs: AtomicU64,
    /// While true every write and flush fails, as on a full or broken disk.
    pub(crate) broken: AtomicBool,
}

impl FileCounters {
    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

/// redb's own file access, counted.
#[derive(Debug)]
pub(crate) struct CountedFile {
    file: FileBackend,
    counters: Arc<FileCounters>,
}

impl CountedFile {
    pub(crate) fn new(file: File, counters: Arc<FileCounters>) -> Result<Self, DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, counters })
    }
}

/// Zeros are written in pieces of this size.
const FILL_BYTES: u64 = 1 << 20;

impl CountedFile {
    /// Writes what the file has grown by. A flush of a page that was never written must also flush the file system's record of
    /// where it lies, which waits for everybody else who writes to that file system: three times as long when it is quiet.
    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(FILL_BYTES.min(to.saturating_sub(from))).unwrap_or_default()];
        let mut at = from;
        while at < to {
            let piece = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
            self.file.write(at, zeros.get(..piece).unwrap_or_default())?;
            at += piece as u64;
        }
        Ok(())
    }
}

impl StorageBackend for CountedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.counters.check()?;
        let before = self.file.len()?;
        self.file.set_len(len)?;
        self.fill(before, len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.counters.check()?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counters.check()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
