use super::*;

fn ok(line: &str) -> Args {
    parse(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn refused(line: &str) -> clap::Error {
    parse(line.split(' ')).err().unwrap_or_else(|| panic!("{line} was taken"))
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn help_names_every_exit_code_and_signal() {
    let help = Args::command().render_help().to_string();
    for exit in exit::Exit::ALL {
        assert!(help.contains(&format!("  {}  {}", exit.code(), exit.meaning())), "{exit:?} is not in\n{help}");
    }
    for signal in ["HUP", "USR1", "TERM, INT, QUIT"] {
        assert!(help.contains(signal), "{signal} is not in\n{help}");
    }
}

#[test]
fn every_verb_and_option_says_what_it_does() {
    fn walk(command: &clap::Command) {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            walk(verb);
        }
    }
    let mut command = Args::command();
    command.build();
    walk(&command);
}

#[test]
fn without_a_verb_it_runs() {
    let args = ok("evenkeel");
    assert!(args.verb.is_none() && args.run_flags().is_some());
    let args = ok("evenkeel --listen 0.0.0.0:80 --to 127.0.0.1:1 --to 127.0.0.1:2");
    assert_eq!(args.run_flags().unwrap().to, ["127.0.0.1:1", "127.0.0.1:2"]);
    let args = ok("evenkeel run --listen 0.0.0.0:80 --to 127.0.0.1:1");
    assert_eq!(args.run_flags().unwrap().listen, ["0.0.0.0:80"]);
    assert!(ok("evenkeel -t -c x.toml").test);
    assert!(ok("evenkeel status").run_flags().is_none());
}

#[test]
fn global_options_go_before_and_after_the_verb() {
    for line in ["evenkeel -c x.toml --output json status", "evenkeel status -c x.toml --output json"] {
        let args = ok(line);
        assert_eq!(args.global.config.as_deref(), Some(std::path::Path::new("x.toml")), "{line}");
        assert_eq!(args.global.output, Output::Json, "{line}");
    }
    assert_eq!(ok("evenkeel -vv run").global.verbose, 2);
    assert!(ok("evenkeel status -q").global.quiet);
}

#[test]
fn what_would_do_nothing_is_refused() {
    for line in [
        "evenkeel -t status",
        "evenkeel --listen 0.0.0.0:80 --to 127.0.0.1:1 status",
        "evenkeel -c x.toml run --listen 0.0.0.0:80 --to 127.0.0.1:1",
        "evenkeel run --listen 0.0.0.0:80",
        "evenkeel run --to 127.0.0.1:1",
        "evenkeel drain shop/a --timeout 5m",
        "evenkeel man drain --dir pages",
    ] {
        assert_eq!(refused(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn values_are_checked_when_they_are_typed() {
    for line in [
        "evenkeel drain",
        "evenkeel drain shop/a --wait --timeout 5",
        "evenkeel weight shop/a 1001",
        "evenkeel weight 50",
        "evenkeel status --output xml",
        "evenkeel status --admin https://127.0.0.1:9191",
        "evenkeel demo --listen 8080",
        "evenkeel nonsense",
    ] {
        assert_eq!(refused(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn several_targets() {
    let Some(Verb::Weight(weight)) = ok("evenkeel weight shop/a shop/b 50").verb else { panic!("weight") };
    assert_eq!((weight.targets.targets, weight.weight), (vec!["shop/a".to_owned(), "shop/b".to_owned()], 50));
    let Some(Verb::Drain(drain)) = ok("evenkeel drain shop/a b --wait --timeout 5m --in-flight 30s").verb else {
        panic!("drain")
    };
    assert_eq!(drain.targets.targets, ["shop/a", "b"]);
    assert_eq!(drain.timeout, Some(Duration::from_secs(300)));
    assert_eq!(drain.deadlines.in_flight, Some(Duration::from_secs(30)));
}

#[test]
fn asking_for_help_or_version_is_no_failure() {
    assert_eq!(refused("evenkeel --help").exit_code(), 0);
    assert_eq!(refused("evenkeel drain --help").exit_code(), 0);
    assert_eq!(refused("evenkeel --version").exit_code(), 0);
}
