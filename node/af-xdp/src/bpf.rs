//! The few bpf(2) commands that aya does not offer.
//!
//! Guarantees: sizes given to the kernel agree with the buffers. Layouts: `union bpf_attr` and
//! `struct bpf_link_info`, include/uapi/linux/bpf.h.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const OBJ_GET: i32 = 7;
const PROG_TEST_RUN: i32 = 10;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const LINK_DETACH: i32 = 34;

/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;

/// The part of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    file_flags: u32,
}
const _: () = assert!(size_of::<ObjectAttr>() == 16);

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}
const _: () = assert!(size_of::<InfoAttr>() == 16);

/// The part of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    fd: u32,
}
const _: () = assert!(size_of::<LinkAttr>() == 4);

/// The part of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}
const _: () = assert!(size_of::<TestAttr>() == 80);

/// `struct bpf_link_info` of an XDP link: the common head, then the union at its alignment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    ifindex: u32,
    rest: [u32; 27],
}
const _: () = assert!(size_of::<RawLinkInfo>() == 128);
const _: () = assert!(std::mem::offset_of!(RawLinkInfo, ifindex) == 16);

/// What the kernel says about an XDP link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkInfo {
    /// The interface, 0 when it is gone.
    pub(crate) ifindex: u32,
    /// The program the link runs.
    pub(crate) program_id: u32,
}

/// A bpf_attr part.
///
/// # Safety
///
/// Implementors must lay out the members of `union bpf_attr` that their command reads.
unsafe trait Attr {}
// SAFETY: laid out as the kernel's header has it, see the type.
unsafe impl Attr for ObjectAttr {}
// SAFETY: as above.
unsafe impl Attr for InfoAttr {}
// SAFETY: as above.
unsafe impl Attr for LinkAttr {}
// SAFETY: as above.
unsafe impl Attr for TestAttr {}

/// The object pinned at `path`.
pub(crate) fn object(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, ..ObjectAttr::default() };
    // SAFETY: the path is a live C string.
    let fd = unsafe { call(OBJ_GET, &mut attr)? };
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What `link` is attached to. Not an XDP link: an error.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attr = InfoAttr {
        fd: link.as_raw_fd() as u32,
        len: size_of::<RawLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` is live, writable, of the length given, and integers only.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attr)? };
    if info.kind != LINK_TYPE_XDP {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an XDP link"));
    }
    Ok(LinkInfo { ifindex: info.ifindex, program_id: info.program_id })
}

/// Detaches `link` from its interface, also while others hold it.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkAttr { fd: link.as_raw_fd() as u32 };
    // SAFETY: no memory but the attribute is involved.
    unsafe { call(LINK_DETACH, &mut attr) }.map(|_| ())
}

/// Runs an XDP program once over `packet` and returns its action.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attr = TestAttr {
        fd: program.as_raw_fd() as u32,
        data_in: packet.as_ptr() as u64,
        data_size_in: packet.len() as u32,
        repeat: 1,
        ..TestAttr::default()
    };
    // SAFETY: the packet is live and of the length given; no output buffer is given.
    unsafe { call(PROG_TEST_RUN, &mut attr)? };
    Ok(attr.retval)
}

/// # Safety
///
/// Pointers inside `attr` must be valid for what the command does with them.
unsafe fn call<T: Attr>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: pointer and length describe `attr`; what it points to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
