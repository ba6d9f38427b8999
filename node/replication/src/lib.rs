//! What to replicate and when, wire format, sender, receiver; pure, with a QUIC driver beside it.
