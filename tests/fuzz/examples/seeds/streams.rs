//! Streams of TCP with a cookie before them, and with a PROXY header.

use steadfast_fuzz::frame;

use super::{BACK, CLIENTS, SERVERS, VIPS, framed, numbered, offer, step};

// Flags of TCP.
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;
const SYN_ACK: u8 = 0x12;
const RST_ACK: u8 = 0x14;
const PSH_ACK: u8 = 0x18;

/// Six seconds without a frame.
fn later() -> Vec<u8> {
    const KEEP_CONFIGURATION: u8 = 0;
    vec![5 << frame::TIME_SHIFT | frame::EVENT, KEEP_CONFIGURATION]
}

/// That these octets have come, though others before them have not.
fn heard(from: u32, to: u32) -> Vec<u8> {
    [&[1, 1, 5, 10][..], &from.to_be_bytes(), &to.to_be_bytes()].concat()
}

/// A client that gets a cookie or not, its server, what both say, and the end.
pub(super) fn all(six: usize) -> Vec<Vec<u8>> {
    let (client, vip, server) = (CLIENTS[six], VIPS[six], SERVERS[six]);
    let [cookie_port, proxy_port] = frame::PORTS;
    let timestamps = |value: u32, echo: u32| {
        [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    };
    let to = |port, numbers, options: &[u8], data: &[u8]| {
        step(0, &framed(client, vip, 6, &numbered(4000, port, numbers, options, data)))
    };
    let back = |numbers, options: &[u8], data: &[u8]| {
        step(BACK, &framed(server, client, 6, &numbered(8000, 4000, numbers, options, data)))
    };
    let cookie = |with: bool| {
        let options = |all: Vec<u8>| if with { all } else { Vec::new() };
        [
            to(cookie_port, (1, 0, SYN), &options(offer(7, 0)), b""),
            to(
                cookie_port,
                (2, frame::COOKIE, ACK),
                &options(timestamps(8, frame::TIMESTAMP)),
                b"",
            ),
            back((9, 2, SYN_ACK), &options(offer(70, 8)), b""),
            to(
                cookie_port,
                (2, frame::COOKIE, PSH_ACK),
                &options(timestamps(9, frame::TIMESTAMP)),
                b"GET /",
            ),
            back((10, 7, PSH_ACK), &options(timestamps(71, 9)), b"200 OK"),
            to(cookie_port, (7, frame::COOKIE, FIN_ACK), &options(timestamps(9, 71)), b""),
            back((16, 8, FIN_ACK), &options(timestamps(72, 9)), b""),
        ]
        .concat()
    };
    let refused = [
        to(cookie_port, (1, 0, SYN), &[], b""),
        to(cookie_port, (2, frame::COOKIE, ACK), &[], b""),
        back((0, 2, RST_ACK), &[], b""),
        to(cookie_port, (2, 0x1234_5678, ACK), &[], b""),
        // It tries once more, and goes before the server has answered.
        to(cookie_port, (2, frame::COOKIE, ACK), &[], b""),
        back((0, 2, RST), &[], b""),
        to(cookie_port, (2, 0, RST), &[], b""),
    ];
    let silent = [
        to(cookie_port, (1, 0, SYN), &offer(7, 0), b""),
        to(cookie_port, (2, frame::COOKIE, PSH_ACK), &timestamps(8, frame::TIMESTAMP), b"GET /"),
        later(),
        later(),
        to(cookie_port, (1, frame::COOKIE, ACK), &timestamps(9, frame::TIMESTAMP), b""),
        later(),
        later(),
        later(),
        later(),
        back((9, 2, SYN_ACK), &offer(70, 8), b""),
    ];
    // What was lost comes again, in pieces, with what was heard of the rest, and a window that opens.
    let lossy = [
        to(cookie_port, (1, 0, SYN), &offer(7, 0), b""),
        to(cookie_port, (2, frame::COOKIE, ACK), &timestamps(8, frame::TIMESTAMP), b""),
        later(),
        back((9, 2, SYN_ACK), &offer(70, 8), b""),
        back((9, 2, SYN_ACK), &offer(70, 8), b""),
        to(cookie_port, (7, frame::COOKIE, PSH_ACK), &timestamps(9, frame::TIMESTAMP), b"later"),
        back((10, 2, ACK), &heard(7, 12), b""),
        back((20, 2, PSH_ACK), &heard(7, 12), b"also later"),
        to(cookie_port, (12, frame::COOKIE, ACK), &heard(frame::COOKIE, 0), b""),
        to(cookie_port, (2, frame::COOKIE, PSH_ACK), &timestamps(9, frame::TIMESTAMP), b"first"),
        to(cookie_port, (12, frame::COOKIE, RST), &[], b""),
    ];
    let told = [
        to(proxy_port, (1, 0, SYN), &offer(7, 0), b""),
        back((9, 2, SYN_ACK), &offer(70, 7), b""),
        to(proxy_port, (2, 10, ACK), &timestamps(8, 70), b""),
        to(proxy_port, (2, 10, PSH_ACK), &timestamps(8, 70), b"GET /"),
        back((10, 7 + [28, 52][six], PSH_ACK), &timestamps(71, 8), b"200 OK"),
        to(proxy_port, (2, 10, PSH_ACK), &timestamps(8, 70), b"GET /"),
        to(proxy_port, (7, 16, FIN_ACK), &timestamps(9, 71), b""),
        back((16, 8 + [28, 52][six], FIN_ACK), &timestamps(72, 9), b""),
    ];
    let others = [&refused[..], &silent, &lossy, &told].map(<[_]>::concat);
    [cookie(true), cookie(false)].into_iter().chain(others).collect()
}
