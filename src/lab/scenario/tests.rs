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
    ] {
        let error = Scenario::read(&wrong, Limits::REAL).unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
    }
}
