//! CRI's log files: `TIME STREAM F|P TEXT`, one line each; long lines come in parts.
//!
//! Reading follows a file as it grows and over its rotation, and ends when the container has.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use hitless_base::Timestamp;

/// A log is rotated at this size.
pub const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
/// Rotated files kept beside the current one.
const ROTATED_MAX: usize = 4;

/// One line, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// More of the same line follows.
    pub partial: bool,
    /// Without the newline.
    pub content: &'a [u8],
}

/// A line of a log file; `None`: it is not one.
#[must_use]
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let content = parts.next().unwrap_or_default();
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    Some(Line { time, stream, partial, content })
}

/// Which lines, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last lines.
    pub tail_lines: Option<usize>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// No more bytes than this.
    pub limit_bytes: Option<usize>,
}

/// Reads one log file piece by piece.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    options: LogOptions,
    left: Option<usize>,
    pending: Vec<u8>,
    fresh_line: bool,
}

impl Reader {
    /// Opens the log; with `tail_lines`, at the right line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail_lines {
            let at = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        let left = options.limit_bytes;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            options,
            left,
            pending: Vec::new(),
            fresh_line: true,
        })
    }

    /// Whether the limit of bytes is reached.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// What there is to read now, at most about `len_max` bytes; empty: nothing more for now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, len_max: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < len_max && !self.is_full() {
            let count = self.file.read_until(b'\n', &mut self.pending)?;
            if !self.pending.ends_with(b"\n") {
                // The writer is in the middle of a line, or a rotation has put a new file in place.
                if count == 0 && !self.reopen_if_rotated()? {
                    break;
                }
                if count > 0 {
                    continue;
                }
            } else {
                let raw = std::mem::take(&mut self.pending);
                self.push(&raw, &mut out);
            }
        }
        Ok(out)
    }

    fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(raw) else { return };
        let since = self.options.since;
        if since.is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|t| t < since)) {
            return;
        }
        let mut piece = Vec::with_capacity(line.content.len() + 40);
        if self.options.timestamps && self.fresh_line {
            piece.extend_from_slice(line.time.as_bytes());
            piece.push(b' ');
        }
        piece.extend_from_slice(line.content);
        if !line.partial {
            piece.push(b'\n');
        }
        self.fresh_line = !line.partial;
        if let Some(left) = &mut self.left {
            piece.truncate(*left);
            *left -= piece.len();
        }
        out.extend_from_slice(&piece);
    }

    /// Whether another file stands under the log's name by now; if so, reading goes on there.
    fn reopen_if_rotated(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Ok(now) = fs::metadata(&self.path) else { return Ok(false) };
        let own = self.file.get_ref().metadata()?;
        if (now.dev(), now.ino()) == (own.dev(), own.ino()) {
            return Ok(false);
        }
        self.file = BufReader::new(File::open(&self.path)?);
        self.pending.clear();
        Ok(true)
    }
}

/// Where the last `lines` whole lines begin. Parts of one line count as one.
fn tail_offset(file: &mut File, lines: usize) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let len = file.metadata()?.len();
    if lines == 0 {
        return Ok(len);
    }
    // Blocks from the end until enough lines are in hand; then counted exactly.
    let mut from = len;
    loop {
        from = from.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        Read::by_ref(file).take(len - from).read_to_end(&mut text)?;
        let first =
            if from == 0 { 0 } else { text.iter().position(|b| *b == b'\n').map_or(text.len(), |i| i + 1) };
        let whole = text.get(first..).unwrap_or_default();
        let mut starts = Vec::new();
        let (mut at, mut fresh) = (first as u64, true);
        for raw in whole.split_inclusive(|b| *b == b'\n') {
            if fresh {
                starts.push(at);
            }
            fresh = parse(raw).is_none_or(|l| !l.partial);
            at += raw.len() as u64;
        }
        if starts.len() > lines || from == 0 {
            let index = starts.len().saturating_sub(lines);
            return Ok(from + starts.get(index).copied().unwrap_or(0));
        }
    }
}

/// Whether the log is due for rotation.
#[must_use]
pub fn is_due(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.len() >= ROTATE_BYTES)
}

/// Renames the log (the runtime must then open it anew) and takes the oldest rotated ones away. `stamp` sorts by time.
///
/// # Errors
/// The disk's.
pub fn rotate(path: &Path, stamp: &str) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    fs::rename(path, dir.join(format!("{name}.{stamp}")))?;
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix)))
        .collect();
    rotated.sort();
    let surplus = rotated.len().saturating_sub(ROTATED_MAX);
    for old in rotated.into_iter().take(surplus) {
        fs::remove_file(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(second: u32, tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.123456789Z stdout {tag} {text}\n")
    }

    fn read(path: &Path, options: LogOptions) -> String {
        String::from_utf8(Reader::open(path, options).unwrap().read(1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn lines_have_four_parts() {
        let raw = line(1, "P", "a b");
        let l = parse(raw.as_bytes()).unwrap();
        assert_eq!((l.stream, l.partial, l.content), ("stdout", true, b"a b".as_slice()));
        assert_eq!(parse(b"2026-01-01T00:00:00Z stderr F \n").unwrap().content, b"");
        assert!(parse(b"garbage\n").is_none() && parse(b"t other F x\n").is_none());
    }

    #[test]
    fn tails_times_and_limits() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        let text =
            [line(1, "F", "one"), line(2, "P", "tw"), line(2, "F", "o"), line(3, "F", "three")].concat();
        fs::write(&path, text).unwrap();
        let all = LogOptions::default();
        assert_eq!(read(&path, all.clone()), "one\ntwo\nthree\n");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(2), ..all.clone() }), "two\nthree\n");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(0), ..all.clone() }), "");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(9), ..all.clone() }), "one\ntwo\nthree\n");
        assert_eq!(read(&path, LogOptions { limit_bytes: Some(5), ..all.clone() }), "one\nt");
        let since = "2026-01-01T00:00:03Z".parse().ok();
        assert_eq!(read(&path, LogOptions { since, ..all.clone() }), "three\n");
        let stamped = read(&path, LogOptions { timestamps: true, tail_lines: Some(2), ..all });
        assert!(stamped.starts_with("2026-01-01T00:00:02.123456789Z two\n2026"), "{stamped}");
    }

    #[test]
    fn a_tail_over_many_blocks() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        let text: String = (0..5000).map(|i| line(1, "F", &format!("{i} {}", "x".repeat(60)))).collect();
        fs::write(&path, text).unwrap();
        let tail = read(&path, LogOptions { tail_lines: Some(3000), ..LogOptions::default() });
        assert_eq!((tail.lines().count(), tail.starts_with("2000 ")), (3000, true));
    }

    #[test]
    fn reading_goes_on_while_the_file_grows_and_over_a_rotation() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        fs::write(&path, line(1, "F", "one")).unwrap();
        let mut reader = Reader::open(&path, LogOptions::default()).unwrap();
        assert_eq!(reader.read(1000).unwrap(), b"one\n");
        assert!(reader.read(1000).unwrap().is_empty());
        let two = line(2, "F", "two");
        let (head, tail) = two.split_at(20);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(head.as_bytes()).unwrap();
        assert!(reader.read(1000).unwrap().is_empty(), "half a line is not a line");
        file.write_all(tail.as_bytes()).unwrap();
        rotate(&path, "1").unwrap();
        fs::write(&path, line(3, "F", "three")).unwrap();
        assert_eq!(reader.read(1000).unwrap(), b"two\nthree\n");
    }

    #[test]
    fn rotated_files_are_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        for i in 0..8 {
            fs::write(&path, "x").unwrap();
            rotate(&path, &i.to_string()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log.4", "0.log.5", "0.log.6", "0.log.7"]);
    }
}
