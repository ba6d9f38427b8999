//! What a peer says its health checks see.

use steadfast_health::View;

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    if let Ok(view) = View::decode(input) {
        assert_eq!(view.encode(), input, "a view has two spellings");
    }
}
