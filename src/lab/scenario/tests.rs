use super::*;

const SMALL: &str = "title = 't'\nduration = '2s'\n[servers]\ncount = 2\n[[group]]\nname = 'g'\nusers = 5\n\
                     rate = 10\n[[policy]]\nname = 'p'\npolicy = 'round_robin'\n";

#[test]
fn a_small_one_is_read_with_its_defaults() {
    let scenario = Scenario::read(SMALL, Limits::REAL).unwrap();
    assert_eq!((scenario.seed, scenario.sessions, scenario.groups[0].addresses()), (1, false, 5));
    let more = Scenario::read(&format!("{SMALL}[[event]]\nat = '1s'\ndo = {{ add = 2 }}\n"), Limits::REAL).unwrap();
    assert_eq!(more.most_servers(), 4);
    assert_eq!(more.events[0].action, Action::Add(2));
}

#[test]
fn what_cannot_be_is_refused() {
    for (wrong, says) in [
        (SMALL.replace("count = 2", "count = 0"), "count = 0: write 1 to 64"),
        (SMALL.replace("users = 5", "users = 5\naddresses = 6"), "group \"g\": addresses = 6"),
        (SMALL.replace("rate = 10", "rate = 0"), "rate = 0: write the requests of a second"),
        (SMALL.replace("rate = 10", "rate = 1e9"), "1000000 at most"),
        (SMALL.replace("'2s'", "'1h'"), "duration: write"),
        (SMALL.replace("users", "user"), "unknown field `user`"),
        (format!("{SMALL}[[event]]\nat = '1s'\ndo = {{ kill = 3 }}\n"), "there is no server 3"),
        (format!("{SMALL}[[event]]\nat = '3s'\ndo = 'deploy'\n"), "event at 3s: that is after the end"),
        (format!("{SMALL}[[event]]\nat = '1s'\ndo = 'dance'\n"), "unknown variant `dance`"),
        (SMALL.replace("count = 2", "count = 2\nworkers = 0"), "workers = 0: write 1 to 65535; leave it out where"),
        (
            SMALL.replace("count = 2", "count = 2\nweight = [1, 2, 3]"),
            "weight is a list of 3: write one number for each of 2",
        ),
        (SMALL.replace("count = 2", "count = 2\nweight = [1, 1001]"), "weight = 1001: write 1 to 1000"),
        (SMALL.replace("count = 2", "count = 2\nweight = []"), "an empty list says nothing"),
        (
            SMALL.replace("count = 2", "count = 2\nweight = 'heavy'"),
            "a number for all servers, or a list with one for each",
        ),
        (
            format!("{SMALL}weight = [1]\n[[policy]]\nname = 'q'\npolicy = 'first'\nweight = 0"),
            "policy \"q\": weight = 0",
        ),
        (format!("{SMALL}[[policy]]\nname = 'p'\npolicy = 'first'\n"), "policy \"p\": there are two of that name"),
    ] {
        let error = Scenario::read(&wrong, Limits::REAL).unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn weights_and_workers_are_one_for_all_or_a_list() {
    let text = SMALL.replace("count = 2", "count = 2\nwork = '1ms'\nworkers = 3\nweight = [1, 4]");
    let scenario =
        Scenario::read(&(text + "[[policy]]\nname = 'q'\npolicy = 'first'\nweight = 7\n"), Limits::REAL).unwrap();
    let [p, q] = ["p", "q"].map(|name| scenario.weights_under(name));
    // A third server, which comes later, is like the second.
    assert_eq!([p.of(1), p.of(2), p.of(3), q.of(1), q.of(2)], [1, 4, 4, 7, 7]);
    assert!(!p.is_even() && q.is_even());
    assert_eq!(scenario.servers.workers.unwrap().of(2), 3);
}

/// Two policies of two seconds, each with a second and a half until its processes are there.
#[test]
fn what_is_planned_by_hand() {
    let scenario = Scenario::read(&format!("{SMALL}[[policy]]\nname = 'q'\npolicy = 'first'\n"), Limits::REAL).unwrap();
    assert_eq!(scenario.planned(), Duration::from_secs(7));
}
