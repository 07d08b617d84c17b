//! A server that answers each request by a function, for what the toy origin does not do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// A server with a script. It ends with the test's process.
pub struct Scripted {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// `script` is given the number of the connection and of the request on it, both from 0, and the
    /// head; it returns the bytes of the answer, or none to close the connection without one.
    pub fn start(script: impl Fn(usize, usize, &str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, script) = (Arc::clone(&heads), Arc::new(script));
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    for request in 0.. {
                        let Some(head) = read_request(&mut stream) else { return };
                        seen.lock().unwrap().push(head.clone());
                        let Some(answer) = script(connection, request, &head) else { return };
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    /// The head of every request it was given, in the order of arrival.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// An answer with this status and body.
pub fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Scripted\r\nx-server: scripted\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn read_request(stream: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    Some(head)
}
