//! Thin safe wrappers of the socket system calls that the standard library lacks.
//!
//! Guarantees: buffers and lengths given to the kernel agree. Not here: what the calls are for.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

/// The most descriptors one [`poll`] waits for.
pub const POLL_FDS_MAX: usize = 64;

/// A structure that is plain bytes to the kernel.
///
/// # Safety
///
/// Implementors must be `repr(C)` or integers, and valid for every bit pattern.
pub(crate) unsafe trait Plain: Default {}
// SAFETY: integers only, `repr(C)`.
unsafe impl Plain for crate::abi::MmapOffsets {}
// SAFETY: integers only, `repr(C)`.
unsafe impl Plain for crate::abi::RawStatistics {}
// SAFETY: integers only, `repr(C)`.
unsafe impl Plain for crate::abi::UmemReg {}
// SAFETY: integers only, `repr(C)`.
unsafe impl Plain for crate::abi::PacketMreq {}
// SAFETY: integers only, `repr(C)`.
unsafe impl Plain for crate::abi::EthtoolChannels {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}

/// `socket(2)` with close-on-exec.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt(2)` with a plain value.
pub(crate) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result)
}

/// `getsockopt(2)` of a plain value; bytes an older kernel does not know stay zero.
pub(crate) fn option<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, in which every bit pattern is valid (`Plain`).
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &mut len,
        )
    };
    check(result).map(|()| value)
}

/// An address structure for `bind(2)`.
///
/// # Safety
///
/// Implementors must be `repr(C)` socket addresses that start with their family.
pub(crate) unsafe trait Address {}
// SAFETY: `struct sockaddr_xdp`, which starts with its family.
unsafe impl Address for crate::abi::SockaddrXdp {}
// SAFETY: `struct sockaddr_ll`, which starts with its family.
unsafe impl Address for libc::sockaddr_ll {}

/// `bind(2)`.
pub(crate) fn bind<T: Address>(fd: BorrowedFd<'_>, address: &T) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`, which the kernel only reads.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result)
}

/// `sendto(2)` without data: wakes the sending side of an AF_XDP socket.
pub(crate) fn wake_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are given.
    let result = unsafe {
        libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `recvfrom(2)` without data: wakes the receiving side of an AF_XDP socket.
pub(crate) fn wake_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are given.
    let result = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until one of the descriptors is readable or in error, at most `timeout`. Returns how
/// many are; 0 after the timeout or a signal.
///
/// # Errors
///
/// More than [`POLL_FDS_MAX`] descriptors, or what `ppoll(2)` says.
pub fn poll<'a>(
    fds: impl IntoIterator<Item = BorrowedFd<'a>>,
    timeout: Duration,
) -> io::Result<usize> {
    let mut entries = [libc::pollfd { fd: -1, events: 0, revents: 0 }; POLL_FDS_MAX];
    let mut count = 0;
    for fd in fds {
        let entry = entries.get_mut(count).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more than 64 descriptors to poll")
        })?;
        entry.fd = fd.as_raw_fd();
        entry.events = libc::POLLIN;
        count += 1;
    }
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the first `count` entries are initialised and stay alive during the call; no
    // signal mask is given.
    let ready = unsafe {
        libc::ppoll(entries.as_mut_ptr(), count as libc::nfds_t, &timeout, std::ptr::null())
    };
    if ready >= 0 {
        return Ok(ready as usize);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
}

/// Nanoseconds of CLOCK_BOOTTIME, the clock of `announce_until`.
pub fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer; the clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The kernel's answer as a result.
pub(crate) fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
