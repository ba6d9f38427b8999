//! Health checks: a pure state machine and the checkers.
