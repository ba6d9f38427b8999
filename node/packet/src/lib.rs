//! Header views, in-place rewriting and checksums; pure.
