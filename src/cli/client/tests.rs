use super::*;
use crate::cli::fixture::{Api, json};
use crate::control::api::Status;

fn at(address: AdminAddress) -> Client {
    Client::new(Admin { address, token: None, doubt: None })
}

#[tokio::test]
async fn it_shows_the_token_and_reads_the_answer() {
    let api = Api::start(|_| (200, json(&crate::cli::fixture::status())));
    let status: Status = api.client.get("/status", PROMPT).await.unwrap();
    assert_eq!(status, crate::cli::fixture::status());
    let seen = api.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("GET", "/status"));
    assert_eq!(seen[0].authorization.as_deref(), Some("Bearer secret"));
}

#[tokio::test]
async fn a_refusal_keeps_its_words_and_its_exit_code() {
    for (error, report, exit) in [
        ("not_found", None, Exit::Failure),
        ("invalid_config", Some("error: two problems"), Exit::InvalidConfig),
        ("cannot_bind", None, Exit::CannotBind),
    ] {
        let refusal =
            Refusal { error: error.into(), message: "It is so.".into(), report: report.map(ToOwned::to_owned) };
        let api = Api::start(move |_| (409, json(&refusal)));
        let failure = Failure::from(api.client.get::<Status>("/status", PROMPT).await.unwrap_err());
        assert_eq!(failure.exit, exit);
        assert_eq!(failure.message, report.unwrap_or("It is so."));
    }
}

#[tokio::test]
async fn a_missing_token_is_told_with_the_way_out() {
    let refusal = Refusal { error: "unauthorized".into(), message: "The token is wrong.".into(), report: None };
    let api = Api::start(move |_| (401, json(&refusal)));
    let failure = Failure::from(api.client.get::<Status>("/status", PROMPT).await.unwrap_err());
    assert_eq!(failure.message, "The token is wrong. Show the token with --admin-token or EVENKEEL_ADMIN_TOKEN");
}

#[tokio::test]
async fn nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let client = at(AdminAddress::Unix(path.clone()));
    let failure = Failure::from(client.get::<Status>("/status", PROMPT).await.unwrap_err());
    assert_eq!(failure.exit, Exit::AdminUnreachable);
    assert_eq!(
        failure.message,
        format!(
            "no evenkeel answers at unix:{} (No such file or directory). Is it running? Say where with --admin",
            path.display()
        )
    );
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = Failure::from(at(AdminAddress::Tcp(free.to_string())).get::<Status>("/", PROMPT).await.unwrap_err());
    assert_eq!(failure.exit, Exit::AdminUnreachable);
    assert!(failure.message.contains("Connection refused"), "{}", failure.message);
}

#[tokio::test]
async fn something_else_there() {
    let api = Api::start(|_| (200, "<html>".into()));
    let failure = Failure::from(api.client.get::<Status>("/status", PROMPT).await.unwrap_err());
    assert_eq!(failure.exit, Exit::AdminUnreachable);
    let api = Api::start(|_| (404, "<html>".into()));
    let failure = Failure::from(api.client.get::<Status>("/status", PROMPT).await.unwrap_err());
    assert!(failure.message.contains("answered 404 Not Found; is that evenkeel's admin API?"), "{}", failure.message);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let client = at(AdminAddress::Tcp(address.clone()));
    let failure = Failure::from(client.get::<Status>("/status", Duration::from_millis(50)).await.unwrap_err());
    assert_eq!(failure.exit, Exit::AdminUnreachable);
    assert_eq!(failure.message, format!("http://{address} did not answer within 0.05 s"));
}
