//! The less busy of two servers drawn at random by weight.
//!
//! Comparing two servers instead of all keeps a pick at a fixed cost, and it keeps cores, which see
//! each other's counts late, from all choosing the same least busy server at once (Mitzenmacher, *The
//! Power of Two Choices in Randomized Load Balancing*, 2001).
//!
//! Weight counts in the draw; load is requests per weight. The second server drawn takes the request
//! only where it is less loaded than the first both as things are and after taking the request:
//! a·/w before, (a + 1)/w after. The first condition alone would send to a server of weight 1 whenever
//! one of weight 1000 has a single request; the second alone would starve the light server while
//! little goes on. With both, shares follow the weights on idle servers as on busy ones, and for equal
//! weights this is the plain comparison, its ties decided by the random draw.

use serde::Deserialize;

use super::{Member, Scratch, View};

/// Draws of a second server before one is taken at random without regard to weight.
const REDRAWS: u32 = 3;

/// `random_two`: it has no options.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomTwo {}

/// One column of the alias table (Vose, *A Linear Algorithm for Generating Random Numbers with a
/// Given Distribution*, 1991).
#[derive(Debug, Clone, Copy)]
struct Column {
    /// Below it, of the sum of weights, the column's own server is drawn; else its alias.
    threshold: u32,
    /// Column whose server is drawn instead.
    alias: u32,
    /// Position of the column's own server among the members.
    server: u32,
    weight: u32,
}

/// Draws servers by weight at a fixed cost.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    /// Sum of all weights; at most 2³², which an upstream of four million servers would reach.
    total: u32,
}

impl RandomTwo {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        let mut columns: Vec<Column> = (0u32..)
            .zip(members)
            .filter(|(_, member)| member.takes_new && member.weight > 0)
            .map(|(server, member)| Column { threshold: 0, alias: 0, server, weight: member.weight })
            .collect();
        let total: u64 = columns.iter().map(|c| u64::from(c.weight)).sum();
        fill(&mut columns, total);
        Table { columns, total: u32::try_from(total).unwrap_or(u32::MAX) }
    }
}

/// Levels the columns: each holds `total`, of which its own server takes `threshold` and one alias the
/// rest. All in integers, so the shares are exact.
fn fill(columns: &mut [Column], total: u64) {
    let n = columns.len() as u64;
    let mut left: Vec<u64> = columns.iter().map(|c| u64::from(c.weight) * n).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..columns.len()).partition(|i| left[*i] < total);
    while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
        small.pop();
        columns[low].threshold = left[low] as u32;
        columns[low].alias = high as u32;
        left[high] -= total - left[low];
        if left[high] < total {
            large.pop();
            small.push(high);
        }
    }
    for i in small.into_iter().chain(large) {
        columns[i].threshold = u32::MAX;
        columns[i].alias = i as u32;
    }
}

impl Table {
    pub(super) fn pick(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        let first = match self.columns.len() {
            0 => return None,
            1 => return Some(self.columns[0].server as usize).filter(|i| usable(view, *i)),
            _ => self.draw(scratch),
        };
        let second = self.draw_other(first, scratch);
        let (a, b) = (&self.columns[first], &self.columns[second]);
        let (i, j) = (a.server as usize, b.server as usize);
        match (usable(view, i), usable(view, j)) {
            (true, true) if less_loaded(b, view.in_flight(j), a, view.in_flight(i)) => Some(j),
            (true, _) => Some(i),
            (false, true) => Some(j),
            (false, false) => self.scan(scratch, view),
        }
    }

    /// A column drawn by weight.
    fn draw(&self, scratch: &mut Scratch) -> usize {
        // One number serves both choices: its upper half the column, its lower half the coin.
        let random = scratch.random();
        let column = ((random >> 32) * self.columns.len() as u64) >> 32;
        let coin = ((random & 0xFFFF_FFFF) * u64::from(self.total)) >> 32;
        let Column { threshold, alias, .. } = self.columns[column as usize];
        if coin < u64::from(threshold) { column as usize } else { alias as usize }
    }

    /// Another column than `first`, by weight where a few draws find one.
    fn draw_other(&self, first: usize, scratch: &mut Scratch) -> usize {
        if self.columns.len() == 2 {
            return 1 - first;
        }
        for _ in 0..REDRAWS {
            let drawn = self.draw(scratch);
            if drawn != first {
                return drawn;
            }
        }
        (first + 1 + scratch.below(self.columns.len() as u32 - 1) as usize) % self.columns.len()
    }

    /// The least loaded usable server of all, the first from a random position among equals.
    #[cold]
    fn scan(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        let (before, after) = self.columns.split_at(scratch.below(self.columns.len() as u32) as usize);
        let mut best: Option<(&Column, u64)> = None;
        for column in after.iter().chain(before).filter(|c| usable(view, c.server as usize)) {
            let load = u64::from(view.in_flight(column.server as usize)) + 1;
            if best.is_none_or(|(other, least)| load * u64::from(other.weight) < least * u64::from(column.weight)) {
                best = Some((column, load));
            }
        }
        best.map(|(column, _)| column.server as usize)
    }
}

/// Whether `b` is less loaded than `a` before taking the request and after.
fn less_loaded(b: &Column, b_in_flight: u32, a: &Column, a_in_flight: u32) -> bool {
    let (a_load, b_load) = (u64::from(a_in_flight), u64::from(b_in_flight));
    let (a_weight, b_weight) = (u64::from(a.weight), u64::from(b.weight));
    b_load * a_weight < a_load * b_weight && (b_load + 1) * a_weight < (a_load + 1) * b_weight
}

fn usable(view: &impl View, index: usize) -> bool {
    !view.tried(index) && view.takes_new(index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Over all columns and coins each server is drawn exactly as often as its weight says.
        #[test]
        fn the_alias_table_is_exact(weights in prop::collection::vec(0u32..=1000, 1..50)) {
            let members: Vec<Member> =
                weights.iter().map(|w| Member { key: 0, weight: *w, takes_new: true }).collect();
            let table = RandomTwo {}.table(&members);
            let n = table.columns.len() as u64;
            let mut drawn = vec![0u64; weights.len()];
            for column in &table.columns {
                let own = u64::from(column.threshold.min(table.total));
                drawn[column.server as usize] += own;
                drawn[table.columns[column.alias as usize].server as usize] += u64::from(table.total) - own;
            }
            for (drawn, weight) in drawn.iter().zip(&weights) {
                prop_assert_eq!(*drawn, u64::from(*weight) * n);
            }
        }
    }
}
