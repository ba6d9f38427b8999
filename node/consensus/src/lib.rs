//! Raft: openraft, its log in redb, its network over QUIC.
