//! Services, schedulers, connections and forwarding decisions; pure.
