//! Grants, beacons, consent and claims: who announces a VIP group; pure.
