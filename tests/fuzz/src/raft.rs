//! Requests and responses of the Raft protocol, and what their JSON says in our own terms: commands
//! of the log, and the state in a snapshot.

use steadfast_model::{ClusterState, Command};

#[path = "../../../node/consensus/src/frame.rs"]
#[allow(dead_code, unreachable_pub, reason = "the daemon uses all of it")]
mod frame;

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    if let Ok(request) = frame::Request::decode(input) {
        assert!(request.json.len() + request.raw.len() < input.len(), "more than was sent");
        read(request.json);
        read(request.raw);
    }
    if let Ok(response) = frame::Response::decode(input) {
        assert!(response.json.len() < input.len(), "more than was sent");
        let _ = frame::decode_json::<Result<u64, String>>(response.json);
    }
    read(input);
}

/// What is read is written so that it means the same.
fn read(json: &[u8]) {
    if let Ok(command) = frame::decode_json::<Command>(json) {
        let again = serde_json::to_vec(&command).expect("a command can be written");
        assert_eq!(frame::decode_json(&again), Ok(command), "a command has two meanings");
    }
    if let Ok(state) = frame::decode_json::<ClusterState>(json) {
        let again = serde_json::to_vec(&state).expect("a state can be written");
        assert_eq!(frame::decode_json(&again), Ok(state), "a state has two meanings");
    }
}
