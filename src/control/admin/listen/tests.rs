use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

#[tokio::test]
async fn who_has_asked_nothing_yet_is_answered_after_the_hand_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let (listener, _file) = bind_unix(&path).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    let accept = async move || listener.accept().await.map(|(stream, _)| stream);
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (ending, is_ending) = watch::channel(false);
    let router = Router::new().route("/", get(async || "here"));
    let accepting = tokio::spawn(accept_all(accept, router, Arc::clone(&permits), is_ending));

    let mut early = UnixStream::connect(&path).await.unwrap();
    let mut kept = UnixStream::connect(&path).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    // They are accepted in their order.
    assert!(kept.read(&mut [0; 1024]).await.unwrap() > 0);
    accepting.abort();
    ending.send_replace(true);
    let mut rest = String::new();
    kept.read_to_string(&mut rest).await.unwrap();

    early.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
    let _all = permits.acquire_many(MOST_CONNECTIONS as u32).await.unwrap();
}
