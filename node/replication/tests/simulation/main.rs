//! Replication between nodes with real connection tables, over streams that delay and break.
//!
//! | property | test |
//! |---|---|
//! | after rest, copies equal the holder's table | `copies::equal_the_holders_table_...` |
//! | a joiner gets a snapshot under load | `copies::a_joiner_...` |
//! | a limit of snapshots holds, and holds up nothing else | `copies::a_join_under_a_limit_...` |
//! | deletes reach, or a sweep stands in for them | `copies::deletes_...`, `copies::a_sweep_...` |
//! | a reused tuple never shows its former life | `copies::a_tuple_...` |
//! | complete means complete | `complete::...` |
//! | nothing of a deposed or dead holder is lost | `donation::...` |
//! | who asks gets what a peer knows, and nothing else | `ask::...` |
//! | what differs is found and mended | `digests::...` |
//! | a deposed holder changes nothing | `donation::a_deposed_holder_...` |
#![allow(clippy::unwrap_used)]

mod ask;
mod complete;
mod copies;
mod digests;
mod donation;
mod node;
mod world;
