//! The few system calls that the standard library does not offer: signals as a file descriptor, waiting for many sockets
//! at once, and a connect that does not block.
//!
//! Linux with 64-bit longs only, like the images themselves. This is the program's only unsafe code; each block says
//! why it is sound.
#![allow(unsafe_code, reason = "system calls")]

use std::{
    ffi::{c_int, c_long, c_short, c_uint, c_ulong, c_void},
    fs::File,
    io::{self, Read},
    net::{SocketAddrV4, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

/// glibc's `sigset_t`: 1024 bits.
#[repr(C)]
struct SigSet([c_ulong; 16]);

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanos: c_long,
}

#[repr(C)]
struct SockaddrIn {
    family: u16,
    port_be: u16,
    address_be: [u8; 4],
    zero: [u8; 8],
}

#[repr(C)]
struct Rlimit {
    soft: c_ulong,
    hard: c_ulong,
}

/// One descriptor to wait for; laid out as the kernel's `pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    fd: RawFd,
    events: c_short,
    revents: c_short,
}

const POLLIN: c_short = 0x1;
const POLLOUT: c_short = 0x4;
const SIG_BLOCK: c_int = 0;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const RLIMIT_NOFILE: c_int = 7;
const AF_INET: c_int = 2;
const SOCK_STREAM: c_int = 1;
/// Both `SOCK_` and `SFD_` spell these two so.
const NONBLOCK: c_int = 0o4000;
const CLOEXEC: c_int = 0o2_000_000;
const EINPROGRESS: i32 = 115;

unsafe extern "C" {
    fn sigemptyset(set: *mut SigSet) -> c_int;
    fn sigaddset(set: *mut SigSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SigSet, flags: c_int) -> c_int;
    fn ppoll(fds: *mut PollFd, count: c_ulong, timeout: *const Timespec, mask: *const c_void) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Rlimit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Rlimit) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const SockaddrIn, length: c_uint) -> c_int;
}

impl PollFd {
    /// Waits for what is asked for; errors and hang-ups are always reported.
    pub fn new(fd: &impl AsRawFd, read: bool, write: bool) -> Self {
        let events = if read { POLLIN } else { 0 } | if write { POLLOUT } else { 0 };
        Self { fd: fd.as_raw_fd(), events, revents: 0 }
    }

    /// Whether anything was reported by the last [`wait`].
    pub fn is_ready(&self) -> bool {
        self.revents != 0
    }
}

/// Waits until a descriptor is ready or `timeout` has passed. An interruption counts as nothing ready.
pub fn wait(fds: &mut [PollFd], timeout: Duration) -> io::Result<()> {
    let timeout = Timespec {
        seconds: c_long::try_from(timeout.as_secs()).unwrap_or(c_long::MAX),
        nanos: c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: `fds` is a live slice of `pollfd`s of exactly the length given, `timeout` outlives the call, and a null
    // mask means that the signal mask stays as it is.
    let code = unsafe { ppoll(fds.as_mut_ptr(), fds.len() as c_ulong, &raw const timeout, ptr::null()) };
    if code >= 0 {
        return Ok(());
    }
    for fd in fds {
        fd.revents = 0;
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

/// SIGTERM and SIGINT, blocked and turned into a descriptor that becomes readable.
///
/// Blocked signals reach process 1 of a container too, where an unhandled one would be ignored.
pub struct Signals(File);

impl Signals {
    /// To be called before any thread is started, or that thread would still take the signals.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet([0; 16]);
        // SAFETY: `set` has the size and alignment of glibc's `sigset_t` and lives through all four calls; the old mask
        // is not asked for (null); -1 asks signalfd for a new descriptor.
        let fd = unsafe {
            sigemptyset(&raw mut set);
            sigaddset(&raw mut set, SIGTERM);
            sigaddset(&raw mut set, SIGINT);
            if sigprocmask(SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            signalfd(-1, &raw const set, NONBLOCK | CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nothing else owns it.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Takes one pending signal, if there is one.
    pub fn take(&mut self) -> bool {
        let mut info = [0; 128];
        matches!(self.0.read(&mut info), Ok(1..))
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Lets the process have as many files open as it ever may; what it is given at first is enough for about a thousand
/// connections. Where that is refused, the limit stays as it was.
pub fn allow_many_files() {
    let mut limit = Rlimit { soft: 0, hard: 0 };
    // SAFETY: `limit` has the layout of the C library's `rlimit` on 64-bit Linux and lives through both calls.
    unsafe {
        if getrlimit(RLIMIT_NOFILE, &raw mut limit) == 0 && limit.soft < limit.hard {
            limit.soft = limit.hard;
            let _as_before = setrlimit(RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Begins a connect; the stream is writable once it is done or has failed (`TcpStream::take_error` then says which).
pub fn connect_start(target: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: plain numbers in, a new descriptor or -1 out.
    let fd = unsafe { socket(AF_INET, SOCK_STREAM | NONBLOCK | CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nothing else owns it; the stream closes it on every way out.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let address = SockaddrIn {
        family: AF_INET as u16,
        port_be: target.port().to_be(),
        address_be: target.ip().octets(),
        zero: [0; 8],
    };
    // SAFETY: `address` is a whole `sockaddr_in` that outlives the call, and its true size is given.
    let code = unsafe { connect(fd, &raw const address, size_of::<SockaddrIn>() as c_uint) };
    match io::Error::last_os_error() {
        _ if code == 0 => Ok(stream),
        error if error.raw_os_error() == Some(EINPROGRESS) => Ok(stream),
        error => Err(error),
    }
}
