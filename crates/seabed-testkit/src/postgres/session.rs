//! A session of the tests' own, for statements by the hundred: a `psql` for each would be most of a test's time.

use std::io::{self, Error, Read, Write};
use std::net::TcpStream;

/// One session with a server that trusts everybody.
#[derive(Debug)]
pub(super) struct Session(TcpStream);

impl Session {
    pub(super) fn start(port: u16, database: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut session = Self(stream);
        let text = format!("user\0postgres\0database\0{database}\0\0");
        let body = [&196_608_u32.to_be_bytes(), text.as_bytes()].concat();
        session.0.write_all(&[&length(&body), body.as_slice()].concat())?;
        session.answer()?.map_err(Error::other)?;
        Ok(session)
    }

    /// The rows a line each, their columns separated by `|`; or what the server did not like.
    pub(super) fn ask(&mut self, statement: &str) -> io::Result<Result<String, String>> {
        let body = [statement.as_bytes(), b"\0"].concat();
        self.0.write_all(&[b"Q", &length(&body)[..], &body].concat())?;
        self.answer()
    }

    /// Everything up to the server's being ready for the next statement.
    fn answer(&mut self) -> io::Result<Result<String, String>> {
        let (mut rows, mut failure) = (Vec::new(), None);
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [letter, length @ ..] = head;
            let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
            self.0.read_exact(&mut body)?;
            match letter {
                b'D' => rows.push(columns(&body).ok_or_else(|| Error::other("a row that ends early"))?),
                b'E' => failure = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'Z' => return Ok(failure.map_or_else(|| Ok(rows.join("\n")), Err)),
                _ => {}
            }
            // Such as the farewell of a server that was stopped since.
            if letter == b'E' && body.starts_with(b"SFATAL") {
                return Err(Error::other(failure.unwrap_or_default()));
            }
        }
    }
}

fn length(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes()
}

fn columns(row: &[u8]) -> Option<String> {
    let (_, mut rest) = row.split_at_checked(2)?;
    let mut columns = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        // A length below zero is a NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (column, after) = after.split_at_checked(length)?;
        columns.push(String::from_utf8_lossy(column));
        rest = after;
    }
    Some(columns.join("|"))
}
