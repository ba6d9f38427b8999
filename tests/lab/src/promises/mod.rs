//! What is promised, the commands that show it, and the report of what they showed.
//!
//! `make report` runs the commands one after the other and writes `docs/report.md`. It goes on where
//! it stopped: what was shown at this commit is not run again. It fails for a broken session, a wrong
//! byte, a violated invariant, and for a promise that nothing shows. Times are aims: met or missed.

pub mod aim;
pub mod book;
pub mod list;
pub mod page;
pub mod run;
pub mod work;
