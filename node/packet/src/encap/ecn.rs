//! Congestion notification over tunnels (RFC 6040).

/// DSCP and ECN of the outer header, from those of the inner one.
///
/// All of it is copied: the DSCP, so that the way treats the packet as it would have (RFC 2983
/// section 3.1, uniform model), and the ECN field. IPVS turns CE into ECT(0), as RFC 3168 had it.
//= RFC 6040 section 4.1, normal mode: the ingress copies the ECN field
pub(super) fn outer_traffic_class(inner: u8) -> u8 {
    inner
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_ECT: u8 = 0b00;
    const ECT_0: u8 = 0b10;
    const ECT_1: u8 = 0b01;
    const CE: u8 = 0b11;

    #[test]
    fn the_outer_field_is_that_of_figure_3() {
        //= RFC 6040 section 4.1, figure 3: inner, outer in normal mode
        let table = [(NOT_ECT, NOT_ECT), (ECT_0, ECT_0), (ECT_1, ECT_1), (CE, CE)];
        for (inner, outer) in table {
            for dscp in 0..64 {
                assert_eq!(outer_traffic_class(dscp << 2 | inner), dscp << 2 | outer);
            }
        }
    }
}
