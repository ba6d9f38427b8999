//! The steering program on one interface: loading, pinning, its tables.
//!
//! Guarantees:
//! - Packets for a VIP reach a socket or nobody, from [`Steering::attach`] until
//!   [`Steering::detach`], also when this process is killed: link and tables are pinned, and
//!   dropping a [`Steering`] detaches nothing.
//! - A restart takes over without a gap: tables keep their contents, sockets go in first, then
//!   the link switches to the new program in one step.
//! - Tables that do not fit this version are made anew, and a foreign XDP program, a foreign
//!   link or a foreign file system is refused, never overwritten.
//!
//! Not guaranteed: anything while the interface's MAC differs from the one set here; watch it.
//!
//! The order: [`Steering::open`], tables, [`Steering::insert_socket`], [`Steering::attach`].

mod error;
mod pins;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapInfo, PerCpuArray, XskMap},
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

pub use error::SteeringError;
use tables::{AddressKey, SHAPES, SettingsValue, Shape, SourceKey};
pub use tables::{
    AddressRole, Counters, LOCAL_ADDRESSES_MAX, NAT_FRAGMENTS_MAX, NAT_SOURCES_MAX, NatSource,
    QUEUES_MAX, VIPS_MAX, VLANS_MAX,
};

use self::{
    error::{errno, link_error, missing},
    pins::Pins,
};
use crate::{Interface, MTU_MAX, Socket, bpf};

/// Where the BPF file system is, by convention.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The compiled steering program, bpf/steer.bpf.c.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/steer.bpf.o");

/// The name of the program in it.
const PROGRAM: &str = "steer";

/// How [`Steering::attach`] got the program onto the interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attached {
    /// There was no link: a new one was made and pinned.
    New,
    /// The pinned link of an earlier process now runs this program.
    Updated,
    /// The pinned link had lost its interface: a new one was made and pinned.
    Recreated,
}

/// The steering program of one interface.
pub struct Steering {
    pins: Pins,
    interface: Interface,
    ebpf: Ebpf,
    remade: Vec<&'static str>,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering")
            .field("pins", &self.pins)
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

impl Steering {
    /// Loads the program for the interface and opens or makes its tables under
    /// `<bpffs>/<instance>/<interface>/`. Sets the interface's own MAC (and keeps a virtual one). Attaches nothing yet: a
    /// program of an earlier process keeps running, over the same tables.
    ///
    /// # Errors
    ///
    /// See [`SteeringError`].
    pub fn open(bpffs: &Path, instance: &str, interface: &str) -> Result<Self, SteeringError> {
        let interface = Interface::by_name(interface)?;
        let pins = Pins::open(bpffs, instance, &interface.name)?;
        let remade = remove_misfits(&pins)?;
        let mut loader = EbpfLoader::new();
        for (name, _) in SHAPES {
            loader.map_pin_path(name, pins.table(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| SteeringError::Load(Box::new(error)))?;
        program(&mut ebpf)
            .and_then(|program| program.load())
            .map_err(|error| SteeringError::Load(Box::new(error.into())))?;
        let mut steering = Self { pins, interface, ebpf, remade };
        steering.refresh_own_mac()?;
        Ok(steering)
    }

    /// Puts the program onto the interface: a new pinned link, or the one found. Do this after
    /// tables and sockets are in place.
    ///
    /// # Errors
    ///
    /// See [`SteeringError`].
    pub fn attach(&mut self) -> Result<Attached, SteeringError> {
        match self.pinned_link()? {
            None => self.attach_new().map(|()| Attached::New),
            Some(link) => {
                let path = self.pins.link();
                let xdp_link = XdpLink::try_from(FdLink::from(link))
                    .map_err(|error| link_error(&path, error))?;
                match self.program()?.attach_to_link(xdp_link) {
                    Ok(id) => {
                        // Take it out of the program, which would detach it when dropped if it
                        // were not pinned.
                        self.program()?.take_link(id).map_err(|error| link_error(&path, error))?;
                        Ok(Attached::Updated)
                    }
                    Err(error) if errno(&error) == Some(libc::ENOLINK) => {
                        fs::remove_file(&path)
                            .map_err(|source| SteeringError::Pins { path, source })?;
                        self.attach_new().map(|()| Attached::Recreated)
                    }
                    Err(error) => Err(self.attach_error(error)),
                }
            }
        }
    }

    /// Whether a program of ours runs on the interface: the pinned link of an earlier process, or
    /// the one [`Steering::attach`] made.
    ///
    /// # Errors
    ///
    /// What the kernel says of the pinned link.
    pub fn is_attached(&self) -> Result<bool, SteeringError> {
        let path = self.pins.link();
        match bpf::object(&path).and_then(|link| bpf::link_info(link.as_fd())) {
            Ok(info) => Ok(info.ifindex == self.interface.index),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(link_error(&path, error)),
        }
    }

    /// Takes the program off an interface and removes its pins: uninstalling, leaving the
    /// cluster. Works without the process that attached it, and while it runs. Nothing there is
    /// fine.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn detach(bpffs: &Path, instance: &str, interface: &str) -> Result<(), SteeringError> {
        let dir = pins::pin_dir(bpffs, instance, interface)?;
        let path = dir.join(pins::LINK);
        match bpf::object(&path) {
            Ok(link) => {
                // An interface that is gone has nothing to detach from.
                let _ = bpf::detach(link.as_fd());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SteeringError::Pins { path, source }),
        }
        pins::remove(&dir).map_err(|source| SteeringError::Pins { path: dir.clone(), source })?;
        // The instance's folder goes with its last interface.
        if let Some(parent) = dir.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// The interfaces that have pins of this instance, also those that are gone, by name.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn pinned(bpffs: &Path, instance: &str) -> Result<Vec<String>, SteeringError> {
        pins::interfaces(bpffs, instance)
    }

    /// Sets the MACs whose frames are ours.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_macs(
        &mut self,
        own: [u8; 6],
        virtual_mac: Option<[u8; 6]>,
    ) -> Result<(), SteeringError> {
        let value = tables::settings_value(own, virtual_mac);
        Array::<_, SettingsValue>::try_from(self.map_mut(tables::SETTINGS)?)
            .and_then(|mut map| map.set(0, value, 0))
            .map_err(|source| SteeringError::Table { table: tables::SETTINGS, source })
    }

    /// Makes these the VIPs and gateway addresses, and no others.
    ///
    /// # Errors
    ///
    /// More than [`VIPS_MAX`]: then nothing is changed.
    pub fn set_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = (IpAddr, AddressRole)>,
    ) -> Result<(), SteeringError> {
        let wanted: BTreeMap<AddressKey, u32> = addresses
            .into_iter()
            .map(|(address, role)| (tables::address_key(address), role as u32))
            .collect();
        self.replace(tables::VIPS, VIPS_MAX, &wanted)
    }

    /// Makes these the servers whose return traffic is ours, and no others.
    ///
    /// Several ranges of ports of one server and protocol become the one range that has them all.
    ///
    /// # Errors
    ///
    /// More than [`NAT_SOURCES_MAX`]: then nothing is changed.
    pub fn set_nat_sources(
        &mut self,
        sources: impl IntoIterator<Item = NatSource>,
    ) -> Result<(), SteeringError> {
        let mut wanted: BTreeMap<SourceKey, u32> = BTreeMap::new();
        for source in sources {
            let add = |ports: &mut u32| *ports = source.hull(*ports);
            wanted.entry(source.key()).and_modify(add).or_insert_with(|| source.value());
        }
        self.replace(tables::NAT_SOURCES, NAT_SOURCES_MAX, &wanted)
    }

    /// Makes these the node's own addresses, and no others.
    ///
    /// # Errors
    ///
    /// More than [`LOCAL_ADDRESSES_MAX`]: then nothing is changed.
    pub fn set_local_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), SteeringError> {
        let wanted: BTreeMap<AddressKey, u32> =
            addresses.into_iter().map(|address| (tables::address_key(address), 1)).collect();
        self.replace(tables::LOCAL, LOCAL_ADDRESSES_MAX, &wanted)
    }

    /// Makes these the VLANs of the interface whose frames are looked at, and no others. What such
    /// frames are is told by the other tables, as for untagged ones.
    ///
    /// # Errors
    ///
    /// More than [`VLANS_MAX`]: then nothing is changed.
    pub fn set_vlans(&mut self, vlans: impl IntoIterator<Item = u16>) -> Result<(), SteeringError> {
        let wanted: BTreeMap<u32, u32> =
            vlans.into_iter().map(|vlan| (u32::from(vlan), 1)).collect();
        self.replace(tables::VLANS, VLANS_MAX, &wanted)
    }

    /// Lets ARP and neighbour solicitations for our addresses through until then, in nanoseconds
    /// of CLOCK_BOOTTIME ([`crate::boottime_ns`]); 0 mutes.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_announce_until(&mut self, until_ns: u64) -> Result<(), SteeringError> {
        Array::<_, u64>::try_from(self.map_mut(tables::ANNOUNCE)?)
            .and_then(|mut map| map.set(0, until_ns, 0))
            .map_err(|source| SteeringError::Table { table: tables::ANNOUNCE, source })
    }

    /// A handle of its own for [`Steering::set_announce_until`], for a worker's thread.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn announcer(&self) -> Result<Announcer, SteeringError> {
        let failed = |source| SteeringError::Table { table: tables::ANNOUNCE, source };
        let data = MapData::from_pin(self.pins.table(tables::ANNOUNCE)).map_err(failed)?;
        Array::try_from(Map::Array(data)).map(|map| Announcer { map }).map_err(failed)
    }

    /// Hands packets of `queue` to the socket, from now until the socket is closed.
    ///
    /// # Errors
    ///
    /// A socket of another interface or queue, or a queue from [`QUEUES_MAX`] on.
    pub fn insert_socket(&mut self, queue: u32, socket: &Socket) -> Result<(), SteeringError> {
        let ifindex = self.interface.index;
        if socket.ifindex() != ifindex || socket.queue() != queue {
            return Err(SteeringError::WrongSocket {
                ifindex,
                queue,
                socket_ifindex: socket.ifindex(),
                socket_queue: socket.queue(),
            });
        }
        if queue >= QUEUES_MAX {
            let asked = queue as usize + 1;
            return Err(SteeringError::TableFull { table: tables::XSKS, max: QUEUES_MAX, asked });
        }
        XskMap::try_from(self.map_mut(tables::XSKS)?)
            .and_then(|mut map| map.set(queue, socket.as_raw_fd(), 0))
            .map_err(|source| SteeringError::Table { table: tables::XSKS, source })
    }

    /// What the program decided how often, over all CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn counters(&self) -> Result<Counters, SteeringError> {
        let failed = |source| SteeringError::Table { table: tables::COUNTERS, source };
        let map = self.ebpf.map(tables::COUNTERS).ok_or_else(|| missing(tables::COUNTERS))?;
        let map = PerCpuArray::<_, u64>::try_from(map).map_err(failed)?;
        let mut values = [0u64; Counters::LEN];
        for (index, value) in values.iter_mut().enumerate() {
            let per_cpu = map.get(&(index as u32), 0).map_err(failed)?;
            *value = per_cpu.iter().fold(0, |sum, count| sum.wrapping_add(*count));
        }
        Ok(Counters::from_values(values))
    }

    /// Runs the program over one packet, as if it came in on queue 0 (BPF_PROG_TEST_RUN), and
    /// returns the XDP action: 1 drop, 2 pass, 4 redirect. Counts like any packet. For tests and
    /// diagnosis.
    ///
    /// # Errors
    ///
    /// What the kernel says; it refuses packets shorter than an Ethernet header.
    pub fn test_run(&mut self, packet: &[u8]) -> io::Result<u32> {
        let program = program(&mut self.ebpf).map_err(io::Error::other)?;
        let fd = program.fd().map_err(io::Error::other)?;
        bpf::test_run(fd.as_fd(), packet)
    }

    /// The kernel's id of the program that the pinned link runs now, `None` without a link.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn attached_program(
        bpffs: &Path,
        instance: &str,
        interface: &str,
    ) -> Result<Option<u32>, SteeringError> {
        let path = pins::pin_dir(bpffs, instance, interface)?.join(pins::LINK);
        let info = match bpf::object(&path).and_then(|link| bpf::link_info(link.as_fd())) {
            Ok(info) => info,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(link_error(&path, error)),
        };
        Ok((info.ifindex != 0).then_some(info.program_id))
    }

    /// The interface as it was when opened.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Where the pins are.
    pub fn dir(&self) -> &Path {
        self.pins.dir()
    }

    /// Tables of an earlier version that did not fit and were made anew, empty.
    pub fn remade_tables(&self) -> &[&'static str] {
        &self.remade
    }

    /// The link of an earlier process, checked to be this interface's (or nobody's).
    fn pinned_link(&self) -> Result<Option<PinnedLink>, SteeringError> {
        let path = self.pins.link();
        if !path.exists() {
            return Ok(None);
        }
        let info = bpf::object(&path)
            .and_then(|link| bpf::link_info(link.as_fd()))
            .map_err(|error| link_error(&path, error))?;
        if info.ifindex != 0 && info.ifindex != self.interface.index {
            let (ifindex, interface) = (info.ifindex, self.interface.name.clone());
            return Err(SteeringError::LinkElsewhere { path, ifindex, interface });
        }
        PinnedLink::from_pin(&path).map(Some).map_err(|error| link_error(&path, error))
    }

    fn attach_new(&mut self) -> Result<(), SteeringError> {
        let (path, ifindex) = (self.pins.link(), self.interface.index);
        if self.interface.mtu > MTU_MAX {
            let (interface, mtu) = (self.interface.name.clone(), self.interface.mtu);
            return Err(SteeringError::Mtu { interface, mtu });
        }
        let id = self
            .program()?
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .map_err(|error| self.attach_error(error))?;
        let link = self.program()?.take_link(id).map_err(|error| link_error(&path, error))?;
        // Fails for the netlink form that aya falls back to: that one cannot outlive us.
        let link = FdLink::try_from(link).map_err(|error| link_error(&path, error))?;
        link.pin(&path).map(|_| ()).map_err(|error| link_error(&path, error))
    }

    fn attach_error(&self, source: ProgramError) -> SteeringError {
        let interface = self.interface.name.clone();
        match errno(&source) {
            Some(libc::EBUSY | libc::EEXIST) => SteeringError::ForeignProgram { interface, source },
            Some(libc::ERANGE) => SteeringError::Mtu { interface, mtu: self.interface.mtu },
            Some(libc::EOPNOTSUPP) => SteeringError::NoNativeXdp { interface, source },
            _ => SteeringError::Attach { interface, source },
        }
    }

    /// Sets the interface's MAC and leaves the virtual MAC of an earlier process alone, whose
    /// program is still at work.
    fn refresh_own_mac(&mut self) -> Result<(), SteeringError> {
        let own = self.interface.mac;
        let failed = |source| SteeringError::Table { table: tables::SETTINGS, source };
        let mut map: Array<_, SettingsValue> =
            Array::try_from(self.map_mut(tables::SETTINGS)?).map_err(failed)?;
        let mut value = map.get(&0, 0).map_err(failed)?;
        value[..own.len()].copy_from_slice(&own);
        map.set(0, value, 0).map_err(failed)
    }

    /// Makes `wanted` the contents of a table. Leaves what stays untouched: no packet meets a
    /// gap. Removes first, so that a full table can be replaced.
    fn replace<K>(
        &mut self,
        table: &'static str,
        max: u32,
        wanted: &BTreeMap<K, u32>,
    ) -> Result<(), SteeringError>
    where
        K: Pod + Ord,
    {
        if wanted.len() > max as usize {
            return Err(SteeringError::TableFull { table, max, asked: wanted.len() });
        }
        let failed = |source| SteeringError::Table { table, source };
        let mut map: HashMap<_, K, u32> =
            HashMap::try_from(self.map_mut(table)?).map_err(failed)?;
        let present: BTreeSet<K> = map.keys().collect::<Result<_, _>>().map_err(failed)?;
        for key in present.iter().filter(|key| !wanted.contains_key(key)) {
            map.remove(key).map_err(failed)?;
        }
        for (key, value) in wanted {
            if !present.contains(key) || map.get(key, 0).map_err(failed)? != *value {
                map.insert(key, value, 0).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn map_mut(&mut self, table: &'static str) -> Result<&mut Map, SteeringError> {
        self.ebpf.map_mut(table).ok_or_else(|| missing(table))
    }

    fn program(&mut self) -> Result<&mut Xdp, SteeringError> {
        program(&mut self.ebpf).map_err(|error| SteeringError::Load(Box::new(error.into())))
    }
}

/// Extends the time until which ARP and neighbour solicitations reach the sockets.
pub struct Announcer {
    map: Array<MapData, u64>,
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcer").finish_non_exhaustive()
    }
}

impl Announcer {
    /// As [`Steering::set_announce_until`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_announce_until(&mut self, until_ns: u64) -> Result<(), SteeringError> {
        self.map
            .set(0, until_ns, 0)
            .map_err(|source| SteeringError::Table { table: tables::ANNOUNCE, source })
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut(PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// Unpins tables whose shape is not this version's; the running program keeps its own.
fn remove_misfits(pins: &Pins) -> Result<Vec<&'static str>, SteeringError> {
    let mut removed = Vec::new();
    for (table, shape) in SHAPES {
        let path = pins.table(table);
        if !path.exists() {
            continue;
        }
        let fits = MapInfo::from_pin(&path).is_ok_and(|info| shape_of(&info) == Some(shape));
        if !fits {
            fs::remove_file(&path).map_err(|source| SteeringError::Pins { path, source })?;
            removed.push(table);
        }
    }
    Ok(removed)
}

fn shape_of(info: &MapInfo) -> Option<Shape> {
    Some(Shape {
        kind: info.map_type().ok()? as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
    })
}
