use super::*;
use crate::balance::slots::slot_of;
use crate::balance::tests::{Servers, client, members};

const CLIENTS: u32 = 100_000;

fn table(members: &[Member]) -> Table {
    IpHash::default().table(members, None)
}

fn pick(table: &Table, client: IpAddr, view: &Servers) -> Option<usize> {
    table.pick(client, &mut Scratch::new(0, 1), view)
}

fn v6(n: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(0x2001_0DB8 << 96 | u128::from(n) << 64 | 1))
}

/// A hundred thousand clients of each family: neighbours, as clients are.
fn clients() -> impl Iterator<Item = IpAddr> {
    (0..CLIENTS).map(|n| client(0x0A00_0000 + n)).chain((0..CLIENTS).map(v6))
}

/// The server of each client, by key.
fn homes(members: &[Member], view: &Servers) -> Vec<u64> {
    let table = table(members);
    clients().map(|c| members[pick(&table, c, view).unwrap()].key).collect()
}

#[test]
fn removing_one_of_ten_moves_no_client_of_the_other_nine() {
    let all = members(&[1; 10]);
    let before = homes(&all, &Servers::up(10));
    for gone in 0..10 {
        let rest: Vec<Member> = all.iter().copied().filter(|m| m.key != all[gone].key).collect();
        let after = homes(&rest, &Servers::up(9));
        assert!(before.iter().zip(&after).all(|(b, a)| b == a || *b == all[gone].key));
    }
}

#[test]
fn adding_an_eleventh_moves_an_eleventh_and_only_to_it() {
    let (ten, eleven) = (members(&[1; 10]), members(&[1; 11]));
    let before = homes(&ten, &Servers::up(10));
    let after = homes(&eleven, &Servers::up(11));
    for family in [0..CLIENTS as usize, CLIENTS as usize..2 * CLIENTS as usize] {
        let moved: Vec<usize> = family.filter(|i| before[*i] != after[*i]).collect();
        let share = moved.len() as f64 / f64::from(CLIENTS);
        assert!((share - 1.0 / 11.0).abs() < 0.02, "{share}");
        assert!(moved.iter().all(|i| after[*i] == eleven[10].key));
    }
}

/// A server that is down loses its clients to all others and gets exactly those back; nobody else moves.
#[test]
fn a_server_that_is_down_moves_its_own_clients_only() {
    let all = members(&[1; 10]);
    let before = homes(&all, &Servers::up(10));
    let mut view = Servers::up(10);
    view.takes_new[4] = false;
    let after = homes(&all, &view);
    let mut got = [0u32; 10];
    for (before, after) in before.iter().zip(&after) {
        if *before == all[4].key {
            got[all.iter().position(|m| m.key == *after).unwrap()] += 1;
        } else {
            assert_eq!(before, after);
        }
    }
    let moved: u32 = got.iter().sum();
    for (i, got) in got.iter().enumerate().filter(|(i, _)| *i != 4) {
        assert!((f64::from(*got) / f64::from(moved) - 1.0 / 9.0).abs() < 0.02, "{i}: {got} of {moved}");
    }
}

/// Even with one server left of a thousand, found beyond the probes.
#[test]
fn the_last_server_left_is_found() {
    let all = members(&[1; 1000]);
    let mut view = Servers::up(1000);
    view.takes_new = (0..1000).map(|i| i == 617).collect();
    let table = table(&all);
    assert!((0..50).all(|n| pick(&table, client(n), &view) == Some(617)));
}

#[test]
fn weights_are_honoured() {
    for weights in [&[1, 2, 3, 4][..], &[1000, 10], &[5, 5, 5, 1]] {
        let table = table(&members(weights));
        let view = Servers::up(weights.len());
        let mut got = vec![0u32; weights.len()];
        clients().for_each(|c| got[pick(&table, c, &view).unwrap()] += 1);
        for (got, weight) in got.iter().zip(weights) {
            let share = f64::from(*got) / f64::from(2 * CLIENTS);
            let due = f64::from(*weight) / f64::from(weights.iter().sum::<u32>());
            assert!((share - due).abs() < 0.01, "{weights:?}: {share} instead of {due}");
        }
    }
}

/// A heavier server takes clients from others and loses none.
#[test]
fn more_weight_moves_clients_to_that_server_only() {
    let light = homes(&members(&[10; 5]), &Servers::up(5));
    let heavy = homes(&members(&[10, 10, 15, 10, 10]), &Servers::up(5));
    let key = members(&[10; 5])[2].key;
    assert!(light.iter().zip(&heavy).all(|(l, h)| l == h || *h == key));
    assert!(light != heavy);
}

#[test]
fn no_weight_no_clients() {
    let table = table(&members(&[0, 0]));
    assert_eq!(pick(&table, client(1), &Servers::up(2)), None);
    assert_eq!(pick(&IpHash::default().table(&[], None), client(1), &Servers::up(0)), None);
}

#[test]
fn prefixes_hide_the_rest_of_the_address() {
    let policy = IpHash { ipv4_prefix: 24, ipv6_prefix: 56, ..IpHash::default() };
    let table = policy.table(&members(&[1; 10]), None);
    let slot = |text: &str| slot_of(table.hash(text.parse().unwrap()));
    assert_eq!(slot("192.0.2.1"), slot("192.0.2.255"));
    assert_ne!(slot("192.0.2.1"), slot("192.0.3.1"));
    assert_eq!(slot("2001:db8:0:1::1"), slot("2001:db8:0:ff::2"));
    assert_ne!(slot("2001:db8:0:1::1"), slot("2001:db8:0:100::1"));
    assert_eq!(slot("::ffff:192.0.2.1"), slot("192.0.2.1"));
    let whole = IpHash { ipv4_prefix: 32, ipv6_prefix: 128, ..IpHash::default() }.table(&members(&[1; 10]), None);
    assert_ne!(slot_of(whole.hash("::2".parse().unwrap())), slot_of(whole.hash("::3".parse().unwrap())));
}

/// Replicas of any version and platform agree: these numbers may never change.
#[test]
fn homes_never_change() {
    let table = table(&members(&[1; 10]));
    let homes = ["192.0.2.1", "192.0.2.2", "198.51.100.7", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8:0:1::1"]
        .map(|c| pick(&table, c.parse().unwrap(), &Servers::up(10)).unwrap());
    assert_eq!(homes, [3, 4, 6, 3, 7, 0]);
    let mut view = Servers::up(10);
    view.takes_new[homes[0]] = false;
    assert_eq!(pick(&table, "192.0.2.1".parse().unwrap(), &view), Some(9));
}
