//! evenkeel inside another Rust program: two toy servers, a proxy in front of them, one server drained
//! while a client is there.
//!
//! `cargo run --example embed` ends by itself.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use evenkeel::control::Outcome;
use evenkeel::control::api::{ServerChange, ServerStatus};
use evenkeel::engine::{self, Options};
use evenkeel::lab::origin::Origin;

fn main() -> Result<(), Box<dyn Error>> {
    // Your own servers, in their own processes, would be here.
    let (a, b) = (Origin::start("a")?, Origin::start("b")?);

    // A configuration is text, as in a file. Port 0 takes a free one; without `[admin]` there is no
    // admin API, and commands are given through the handle below.
    let text = format!(
        r#"
        cores = 1

        [[listener]]
        name = "main"
        bind = "127.0.0.1:0"

        [upstream.app]
        policy = "round_robin"
        check = {{ http = {{ path = "/healthz" }} }}

        [[upstream.app.server]]
        name = "a"
        address = "{}"

        [[upstream.app.server]]
        name = "b"
        address = "{}"
        "#,
        a.address(),
        b.address()
    );
    // The report tells every problem, each with its line; it is made for people.
    let loaded = evenkeel::config::parse(&text, "embed.toml").map_err(|report| report.render(false))?;
    let evenkeel = engine::start(loaded, Options::default())?;
    if !evenkeel.ready() {
        return Err("stopped before it was ready".into());
    }
    let (name, address) = evenkeel.addresses().first().cloned().ok_or("no listener")?;
    println!("listener {name} is on {address}");
    for _ in 0..4 {
        print!("  {}", get(address)?);
    }

    // Commands are asynchronous; any runtime will do.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = evenkeel.handle();
    let drain = ServerChange { admin: Some("draining".to_owned()), ..ServerChange::default() };
    let drained = runtime.block_on(async {
        handle.change("app", "a", drain).await?;
        handle.wait_drained("app", "a", Duration::from_secs(10)).await
    })?;
    println!("server {} is {}", drained.name, drained.admin);
    for _ in 0..2 {
        print!("  {}", get(address)?);
    }
    for upstream in runtime.block_on(handle.status())?.upstreams {
        println!("upstream {} ({})", upstream.name, upstream.policy);
        for ServerStatus { name, operational, admin, requests, .. } in upstream.servers {
            println!("  {name}: {operational}, {admin}, {requests} requests");
        }
    }

    evenkeel.stop();
    match evenkeel.wait() {
        Outcome::Drained => println!("stopped, with nothing in flight"),
        outcome => return Err(format!("stopped otherwise: {outcome:?}").into()),
    }
    Ok(())
}

/// The body of one answer.
fn get(address: SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    if head.starts_with("HTTP/1.1 200 ") { Ok(body.to_owned()) } else { Err(head.to_owned().into()) }
}
