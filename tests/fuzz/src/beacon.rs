//! Beacons and claims behind a right tag: what a member sends that is out of its mind, and what
//! was recorded on another cluster.
//!
//! An input is what is sealed, without the tag.

use ring::hmac;
use steadfast_ownership::Seal;

/// The cluster and the key that seeds are sealed for.
pub const CLUSTER: [u8; 16] = [7; 16];
/// See [`CLUSTER`].
pub const KEY: [u8; 32] = [9; 32];
/// Octets of a tag.
pub const TAG_LEN: usize = 16;

/// Octets that the input names: those of the cluster's number in a header.
const CLUSTER_AT: std::ops::Range<usize> = 2..10;

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    let seal = Seal::new(CLUSTER, &KEY);
    assert!(seal.decode(input).is_err(), "a frame without a tag was taken");
    let mut sealed = input.to_vec();
    if let Some(cluster) = sealed.get_mut(CLUSTER_AT) {
        cluster.copy_from_slice(&CLUSTER[..CLUSTER_AT.len()]);
    }
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &KEY));
    context.update(&CLUSTER);
    context.update(&sealed);
    sealed.extend_from_slice(&context.sign().as_ref()[..TAG_LEN]);
    if let Ok(frame) = seal.decode(&sealed) {
        let again = seal.encode(&frame);
        assert_eq!(seal.decode(&again).as_ref(), Ok(&frame), "it means another thing when sent on");
    }
}
