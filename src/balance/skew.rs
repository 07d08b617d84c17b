//! How evenly load is spread over servers. Pure; each figure is tested against values worked out by hand.

/// Jain's fairness index of loads: 1 where all are equal, 1/n where one has everything; none for no load.
///
/// (Σx)² / (n · Σx²), from Jain, Chiu and Hawe, *A Quantitative Measure of Fairness and Discrimination*, 1984.
#[must_use]
pub fn jain(loads: &[f64]) -> Option<f64> {
    let (sum, squares) = loads.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    (squares > 0.0).then(|| sum * sum / (loads.len() as f64 * squares))
}

/// How many times the mean the largest load is; none for no load.
#[must_use]
pub fn max_over_mean(loads: &[f64]) -> Option<f64> {
    let sum: f64 = loads.iter().sum();
    let max = loads.iter().copied().fold(0.0, f64::max);
    (sum > 0.0).then(|| max * loads.len() as f64 / sum)
}

/// How evenly requests are spread over servers, each by its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skew {
    /// How many times its share the busiest server has.
    pub max_over_mean: f64,
    /// Jain's index of the requests for each unit of weight.
    pub jain: f64,
    /// Position of the busiest server.
    pub busiest: usize,
}

impl Skew {
    /// Of the requests and the weights of servers; one without a weight is left out. None for no request.
    ///
    /// The mean is that of all requests over all weights, so a light server that is idle hardly counts.
    #[must_use]
    pub fn of(servers: impl IntoIterator<Item = (u64, u32)>) -> Option<Self> {
        let (mut loads, mut requests, mut weights) = (Vec::new(), 0.0, 0.0);
        let mut busiest = (0, -1.0);
        for (position, (count, weight)) in servers.into_iter().enumerate().filter(|(_, (_, weight))| *weight > 0) {
            let (count, weight) = (count as f64, f64::from(weight));
            let load = count / weight;
            if load > busiest.1 {
                busiest = (position, load);
            }
            (requests, weights) = (requests + count, weights + weight);
            loads.push(load);
        }
        let jain = jain(&loads)?;
        Some(Self { max_over_mean: busiest.1 * weights / requests, jain, busiest: busiest.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    /// (1+2+3+4)² / (4 · (1+4+9+16)) = 100 / 120.
    #[test]
    fn jain_by_hand() {
        assert!(near(jain(&[1.0, 2.0, 3.0, 4.0]).unwrap(), 0.8333));
        assert!(near(jain(&[5.0; 7]).unwrap(), 1.0));
        assert!(near(jain(&[9.0, 0.0, 0.0]).unwrap(), 0.3333));
        assert_eq!(jain(&[0.0, 0.0]), None);
        assert_eq!(jain(&[]), None);
    }

    /// 1000 on one of ten, 500 on the nine others: 1000 · 10 / 5500.
    #[test]
    fn max_over_mean_by_hand() {
        let mut loads = vec![500.0; 10];
        loads[3] = 1000.0;
        assert!(near(max_over_mean(&loads).unwrap(), 1.8182));
        assert!(near(max_over_mean(&[7.0, 0.0, 0.0, 0.0]).unwrap(), 4.0));
        assert_eq!(max_over_mean(&[0.0]), None);
    }

    /// 10 for each unit on two, 30 on the third: 30 · 4 / 60 = 2, and (10+10+30)² / (3 · (100+100+900)).
    #[test]
    fn weights_count_by_hand() {
        let skew = Skew::of([(10, 1), (7, 0), (20, 2), (30, 1)]).unwrap();
        assert!(near(skew.max_over_mean, 2.0) && near(skew.jain, 0.7576), "{skew:?}");
        assert_eq!(skew.busiest, 3);
        let even = Skew::of([(5, 1), (10, 2), (500, 100)]).unwrap();
        assert!(near(even.max_over_mean, 1.0) && near(even.jain, 1.0), "{even:?}");
        assert_eq!(Skew::of([(0, 1), (0, 1)]), None);
        assert_eq!(Skew::of([(9, 0)]), None);
        assert_eq!(Skew::of([]), None);
    }
}
