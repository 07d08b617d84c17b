//! The server behind the proxies: as little as can answer, because its time is not measured but its
//! slowness would be seen.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::load::{end_of_head, field};
use crate::scenario::SMALL;

static ZEROS: [u8; 64 << 10] = [b'0'; 64 << 10];

/// A listening server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Backend {
    /// Its answers begin with `letter`.
    pub(crate) fn start(letter: u8) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let task = spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                spawn_local(async move {
                    // A proxy that goes away is no fault of this side.
                    let _ = serve(stream, letter).await;
                });
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, letter: u8) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let small = answer(letter, SMALL, SMALL);
    let kib64 = answer(letter, 64 << 10, 64 << 10);
    let mib10 = answer(letter, 10 << 20, 1);
    // Uploads are read in pieces of this size; small requests need no more than a corner of it.
    let mut buffer = vec![0; 4 << 10];
    let mut filled = 0;
    loop {
        let Some(head) = end_of_head(&buffer[..filled]) else {
            if filled == buffer.len() {
                buffer.resize(2 * filled, 0);
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
            continue;
        };
        let target = buffer[..head].split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        match target.rsplit(|&byte| byte == b'/').next().unwrap_or_default() {
            b"small" => stream.write_all(&small).await?,
            b"64k" => stream.write_all(&kib64).await?,
            b"10m" => {
                stream.write_all(&mib10).await?;
                let mut left = (10 << 20) - 1;
                while left > 0 {
                    let piece = left.min(ZEROS.len());
                    stream.write_all(&ZEROS[..piece]).await?;
                    left -= piece;
                }
            }
            b"upload" => {
                let length =
                    field(&buffer[..head], b"content-length").and_then(|v| str::from_utf8(v).ok()?.parse().ok());
                let Some(length): Option<usize> = length else {
                    return stream.write_all(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n").await;
                };
                let mut left = length.saturating_sub(filled - head);
                buffer.resize(256 << 10, 0);
                while left > 0 {
                    match stream.read(&mut buffer).await? {
                        0 => return Ok(()),
                        read => left = left.saturating_sub(read),
                    }
                }
                filled = 0;
                stream.write_all(&small).await?;
                continue;
            }
            b"ws" => return web_socket(stream, &buffer[..head]).await,
            _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?,
        }
        buffer.copy_within(head..filled, 0);
        filled -= head;
    }
}

/// A head that announces `length` bytes, and the first `given` of them.
fn answer(letter: u8, length: usize, given: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    answer.push(letter);
    answer.resize(answer.len() + given - 1, b'0');
    answer
}

/// Sends every short frame back. Clients here mask with zeros, so a payload needs no unmasking.
async fn web_socket(mut stream: TcpStream, head: &[u8]) -> io::Result<()> {
    let Some(key) = field(head, b"sec-websocket-key") else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    };
    let accept = derive_accept_key(key);
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(switch.as_bytes()).await?;
    let mut frame = [0; 6 + 125];
    let mut filled = 0;
    loop {
        match stream.read(&mut frame[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        let length = usize::from(frame[1] & 0x7f);
        if filled < 6 || filled < 6 + length {
            continue;
        }
        // The header without its four bytes of mask, just before the payload.
        (frame[4], frame[5]) = (frame[0], length as u8);
        stream.write_all(&frame[4..6 + length]).await?;
        filled = 0;
    }
}
