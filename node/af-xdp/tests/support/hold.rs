//! Steers an interface and reflects what comes in for a VIP, until it is killed.
//!
//! Usage: afx-hold INSTANCE INTERFACE VIP. Prints how it attached. Reflecting swaps the MACs and
//! sends the frame back, so that a test sees from outside that the sockets work.

use std::{error::Error, os::fd::AsFd as _, path::Path, time::Duration};

use af_xdp::{
    AddressRole, BindMode, Frame, Interface, Socket, Steering, Umem, UmemConfig, boottime_ns, poll,
    steering::BPFFS,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().ok_or("usage: afx-hold INSTANCE INTERFACE VIP");
    let (instance, name, vip) = (argument()?, argument()?, argument()?);
    let interface = Interface::by_name(&name)?;
    let mut steering = Steering::open(Path::new(BPFFS), &instance, &name)?;
    steering.set_addresses([(vip.parse()?, AddressRole::Vip)])?;
    let mut umem = Umem::new(UmemConfig::for_sockets(interface.rx_queues))?;
    let mut sockets = Vec::new();
    for queue in 0..interface.rx_queues {
        let socket = Socket::bind(&mut umem, interface.index, queue, BindMode::Auto)?;
        steering.insert_socket(queue, &socket)?;
        sockets.push(socket);
    }
    steering.set_announce_until(boottime_ns() + 60_000_000_000)?;
    println!("{:?}", steering.attach()?);
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        poll(sockets.iter().map(|socket| socket.as_fd()), Duration::from_millis(100))?;
        for socket in &mut sockets {
            socket.receive(&mut frames);
            for mut frame in frames.drain(..) {
                let (target, rest) = umem.bytes_mut(&mut frame).split_at_mut(6);
                target.swap_with_slice(&mut rest[..6]);
                if let Err(frame) = socket.send(frame) {
                    umem.free(frame);
                }
            }
            socket.flush()?;
            socket.complete(&mut umem);
            socket.refill(&mut umem);
        }
    }
}
