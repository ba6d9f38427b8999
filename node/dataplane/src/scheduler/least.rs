//! Schedulers that compare servers by what they carry or weigh.
//!
//! Guarantees: a tie goes to the server that stands first. All walk the list once, as IPVS does.

use super::{Pool, load::Loads, warmup::FULL};

/// The rule of a scheduler that looks at every server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Least {
    /// Fewest connections.
    Lc,
    /// Fewest connections for its weight.
    Wlc,
    /// Shortest expected delay: as if the new connection were there already.
    Sed,
    /// The first idle one, else shortest expected delay.
    Nq,
    /// The heaviest.
    Fo,
    /// The heaviest that has no more active connections than its weight.
    Ovf,
}

impl Least {
    pub(super) fn pick(self, pool: &Pool<'_>) -> Option<usize> {
        match self {
            //= Linux net/netfilter/ipvs/ip_vs_lc.c, ip_vs_lc_schedule()
            Self::Lc => pool.available().min_by_key(|index| pool.loads.overhead(*index)),
            Self::Wlc => least_overhead(pool, pool.available()),
            Self::Sed => shortest_delay(pool),
            //= ip_vs_nq.c, ip_vs_nq_schedule()
            Self::Nq => {
                let idle = pool.available().find(|index| pool.loads.active(*index) == 0);
                idle.or_else(|| shortest_delay(pool))
            }
            Self::Fo => heaviest(pool, |_| true),
            //= ip_vs_ovf.c, ip_vs_ovf_schedule(): a server at its weight still takes one
            Self::Ovf => {
                heaviest(pool, |index| pool.loads.active(index) * FULL <= pool.weight(index))
            }
        }
    }
}

/// The least overhead for its weight among `candidates`; multiplied out, so that nothing is rounded.
//= Linux net/netfilter/ipvs/ip_vs_wlc.c, ip_vs_wlc_schedule()
pub(super) fn least_overhead(
    pool: &Pool<'_>,
    candidates: impl Iterator<Item = usize>,
) -> Option<usize> {
    least_ratio(pool, candidates, |loads, index| loads.overhead(index))
}

/// The most overhead for its weight among those of `candidates` that have a weight.
//= Linux net/netfilter/ipvs/ip_vs_lblcr.c, ip_vs_dest_set_max(): of equals the first
pub(super) fn most_overhead(
    pool: &Pool<'_>,
    candidates: impl Iterator<Item = usize>,
) -> Option<usize> {
    let of = |index: usize| u128::from(pool.loads.overhead(index));
    let weight = |index: usize| u128::from(pool.weight(index));
    let mut candidates = candidates.filter(|index| weight(*index) > 0);
    let first = candidates.next()?;
    Some(candidates.fold(first, |most, index| {
        if of(most) * weight(index) < of(index) * weight(most) { index } else { most }
    }))
}

//= ip_vs_sed.c, ip_vs_sed_dest_overhead()
fn shortest_delay(pool: &Pool<'_>) -> Option<usize> {
    least_ratio(pool, pool.available(), |loads, index| loads.active(index) + 1)
}

fn least_ratio(
    pool: &Pool<'_>,
    mut candidates: impl Iterator<Item = usize>,
    cost: impl Fn(&Loads<'_>, usize) -> u64,
) -> Option<usize> {
    let of = |index: usize| u128::from(cost(&pool.loads, index));
    let weight = |index: usize| u128::from(pool.weight(index));
    let first = candidates.next()?;
    Some(candidates.fold(first, |least, index| {
        if of(least) * weight(index) > of(index) * weight(least) { index } else { least }
    }))
}

//= ip_vs_fo.c, ip_vs_fo_schedule(): strictly more, so the first of equals
fn heaviest(pool: &Pool<'_>, fits: impl Fn(usize) -> bool) -> Option<usize> {
    pool.available().filter(|index| fits(*index)).fold(None, |heaviest, index| match heaviest {
        Some(best) if pool.weight(best) >= pool.weight(index) => heaviest,
        _ => Some(index),
    })
}
