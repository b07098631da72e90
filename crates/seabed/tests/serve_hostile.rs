//! What a server on a network meets: the right answer, bounded memory, and nobody else the worse for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;

use common::{NIL, SEGMENT, SNAPSHOT, Server, owner_request, read_answer, request, run};
use uuid::Uuid;

const MIB: usize = 1024 * 1024;
/// Caches, and the pieces that are under way.
const GROWTH_MAX: u64 = 32 * 1024 * 1024;

fn serving(args: &[&str]) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), args, &[]);
    (dir, server)
}

/// Another client's push and pull.
fn others_are_served(server: &Server) {
    let client = Uuid::new_v4().to_string();
    assert_eq!(server.add_version(&client, NIL, b"mine").status, 200);
    assert_eq!(server.get_child(&client, NIL).body, b"mine");
}

/// Sends bytes as they are and reads the status of the answer; none when there is no answer.
fn status_of(server: &Server, bytes: &[u8]) -> Option<u16> {
    let mut stream = server.connect();
    // A server that has refused already may have closed.
    let _ = stream.write_all(bytes);
    read_answer(&mut stream).ok().map(|answer| answer.status)
}

#[test]
fn each_wrong_request_has_its_status() {
    let (_dir, server) = serving(&["--body-bytes-max", "1000"]);
    let client = Uuid::new_v4().to_string();
    let add = format!("/v1/client/add-version/{NIL}");
    let snapshot = format!("/v1/client/add-snapshot/{NIL}");
    let child = format!("/v1/client/get-child-version/{NIL}");
    let large = vec![b'x'; 1001];
    for (status, method, path, id, media_type, body) in [
        (404, "GET", "/nothing", "", "", b"".as_slice()),
        (404, "GET", "/v1/client/", &client, "", b""),
        (404, "GET", "/v1/client/nothing", &client, "", b""),
        (404, "PUT", &add, &client, SEGMENT, b"x"),
        (404, "DELETE", &child, &client, "", b""),
        (404, "POST", &child, &client, "", b""),
        (404, "GET", &add, &client, "", b""),
        (404, "OPTIONS", &add, &client, "", b""),
        (404, "GET", "/v1/client/get-child-version/nonsense", &client, "", b""),
        (404, "GET", "/v1/client/get-child-version/%00%ff", &client, "", b""),
        (404, "POST", "/v1/client/add-version/../../etc", &client, SEGMENT, b"x"),
        (400, "POST", &add, "", SEGMENT, b"x"),
        (400, "POST", &add, "nonsense", SEGMENT, b"x"),
        (400, "POST", &add, &"a".repeat(5000), SEGMENT, b"x"),
        (400, "POST", &add, &client, "", b"x"),
        (400, "POST", &add, &client, "text/plain", b"x"),
        (400, "POST", &add, &client, SNAPSHOT, b"x"),
        (400, "POST", &add, &client, SEGMENT, b""),
        (400, "POST", &snapshot, &client, SNAPSHOT, b""),
        (413, "POST", &add, &client, SEGMENT, &large),
        (413, "POST", &snapshot, &client, SNAPSHOT, &large),
        (200, "POST", &add, &client, SEGMENT, &large[..1000]),
    ] {
        let answer = server.ask(method, path, id, media_type, body);
        assert_eq!(answer.status, status, "{method} {path} {media_type}: {}", answer.text());
    }
    assert!(server.ask("POST", &add, &client, SEGMENT, &large).text().contains("1000"), "the limit is named");
    others_are_served(&server);
}

#[test]
fn what_is_not_http_is_refused() {
    let (_dir, server) = serving(&[]);
    let header = format!("GET / HTTP/1.1\r\nHost: x\r\nLong: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(5_000));
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (header.as_bytes(), 431),
        (many.as_bytes(), 431),
    ] {
        assert_eq!(
            status_of(&server, bytes),
            Some(status),
            "{}",
            bytes[..bytes.len().min(40)].escape_ascii()
        );
    }
    // HTTP/2 with prior knowledge is not spoken here, and does no harm.
    assert_ne!(status_of(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some(200));
    others_are_served(&server);
}

#[test]
fn half_a_body_is_nothing() {
    let (dir, server) = serving(&["--silence-ms-max", "300"]);
    let client = Uuid::new_v4().to_string();
    let head = format!(
        "POST /v1/client/add-version/{NIL} HTTP/1.1\r\nHost: x\r\nX-Client-Id: {client}\r\nContent-Type: {SEGMENT}\r\n"
    );
    // Cut off by the client, once as a length that is not kept and once as a chunk that does not end.
    for body in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"] {
        let mut stream = server.connect();
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    // Silent in the middle: ended by the server, which says so or just closes.
    let mut stream = server.connect();
    stream.write_all(format!("{head}Content-Length: 100\r\n\r\nhalf").as_bytes()).unwrap();
    if let Ok(answer) = read_answer(&mut stream) {
        assert_eq!(answer.status, 408, "{}", answer.text());
    }
    assert_eq!(server.get_child(&client, NIL).status, 404);
    others_are_served(&server);
    assert!(server.terminate().0.success());
    // Nothing of it is left in the store.
    assert!(run(dir.path(), &["verify"]).status.success());
}

#[test]
fn a_hundred_silent_connections_delay_nobody_and_are_closed() {
    let (_dir, server) = serving(&["--silence-ms-max", "5000"]);
    let before = server.memory_bytes();
    let mut silent: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    // Some have begun to speak, and some have been answered and are idle.
    for stream in silent.iter_mut().take(30) {
        stream.write_all(b"GET / HTTP/1.1\r\nHos").unwrap();
    }
    for stream in silent.iter_mut().skip(30).take(30) {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    for _ in 0..20 {
        others_are_served(&server);
    }
    let held = server.memory_bytes();
    assert!(held < before + GROWTH_MAX, "{} MiB, then {} MiB", before >> 20, held >> 20);
    for mut stream in silent {
        // Whatever is still under way, and then the end.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    others_are_served(&server);
}

#[test]
fn a_full_house_serves_again_and_never_locks_the_owner_out() {
    let (dir, server) = serving(&["--connections-max", "4", "--silence-ms-max", "1000"]);
    let silent: Vec<TcpStream> = (0..12).map(|_| server.connect()).collect();
    // Through the socket, whatever the network does.
    assert!(run(dir.path(), &["tenants"]).status.success());
    // In its turn, when the silent ones have been given up.
    others_are_served(&server);
    drop(silent);
}

#[test]
fn a_reader_who_does_not_read_is_given_up() {
    let (_dir, server) = serving(&["--connections-max", "1", "--silence-ms-max", "500"]);
    let client = Uuid::new_v4().to_string();
    let large = vec![b'x'; 32 * MIB];
    assert_eq!(server.add_version(&client, NIL, &large).status, 200);
    let mut deaf = server.connect();
    let get = format!(
        "GET /v1/client/get-child-version/{NIL} HTTP/1.1\r\nHost: x\r\nX-Client-Id: {client}\r\n\r\n"
    );
    deaf.write_all(get.as_bytes()).unwrap();
    let mut start = [0; 12];
    deaf.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // The only connection there is becomes free again.
    others_are_served(&server);
}

#[test]
fn large_bodies_take_bounded_memory() {
    let (_dir, server) = serving(&[]);
    let body = vec![b'x'; 40 * MIB];
    let before = server.memory_bytes();
    let peak = server.peak_memory_while(|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let client = Uuid::new_v4().to_string();
                    assert_eq!(server.add_version(&client, NIL, &body).status, 200);
                    assert_eq!(server.get_child(&client, NIL).body.len(), body.len());
                });
            }
            others_are_served(&server);
        });
    });
    // 160 MiB went in and out.
    assert!(peak < before + GROWTH_MAX, "{} MiB, then {} MiB", before >> 20, peak >> 20);
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let (_dir, server) = serving(&["--body-bytes-max", "8000000"]);
    let client = Uuid::new_v4().to_string();
    let head = |length: &str| {
        format!(
            "POST /v1/client/add-version/{NIL} HTTP/1.1\r\nHost: x\r\nX-Client-Id: {client}\r\nContent-Type: {SEGMENT}\r\n\
             {length}\r\n\r\n"
        )
    };
    // Announced by somebody who waits to be asked for it: refused before a byte of it was sent.
    let mut stream = server.connect();
    stream.write_all(head("Expect: 100-continue\r\nContent-Length: 8000001").as_bytes()).unwrap();
    let answer = read_answer(&mut stream).unwrap();
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains("8000000"), "{}", answer.text());
    // Not announced: refused when it has gone too far, and told to a sender who listens only afterwards.
    let before = server.memory_bytes();
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; MIB], b"\r\n"].concat();
    let peak = server.peak_memory_while(|| {
        let mut stream = server.connect();
        stream.write_all(head("Transfer-Encoding: chunked").as_bytes()).unwrap();
        for _ in 0..12 {
            stream.write_all(&chunk).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 413);
    });
    assert!(peak < before + GROWTH_MAX, "{} MiB, then {} MiB", before >> 20, peak >> 20);
    assert_eq!(server.get_child(&client, NIL).status, 404);
    others_are_served(&server);
}

#[test]
fn the_admin_api_is_for_the_owner_alone() {
    let (dir, server) = serving(&["--listen", "0.0.0.0:0"]);
    assert!(server.banner.contains("--allow-client-id"), "an open server says so: {}", server.banner);
    let port = server.address().rsplit_once(':').unwrap().1;
    let loopback = format!("127.0.0.1:{port}");
    // Whatever a request says of where it comes from: a proxy on this machine could say it too.
    for headers in [
        [].as_slice(),
        &[("Host", "localhost")],
        &[("Host", "localhost"), ("X-Forwarded-For", "127.0.0.1")],
        &[("Host", "rebound.example"), ("Origin", "https://evil.example")],
    ] {
        for path in ["/api", "/api/clients", "/api/no/such/route"] {
            let answer = request(&loopback, "GET", path, headers, b"").unwrap();
            assert_eq!(answer.status, 403, "{path} {headers:?}");
            assert!(answer.json()["error"].as_str().unwrap().contains("seabed.sock"), "{}", answer.text());
        }
    }
    let client = Uuid::new_v4().to_string();
    assert_eq!(server.add_version(&client, NIL, b"kept").status, 200);
    let delete = format!("/api/clients/{client}");
    assert_eq!(request(&loopback, "DELETE", &delete, &[], b"").unwrap().status, 403);
    assert_eq!(server.get_child(&client, NIL).body, b"kept");

    let socket = dir.path().join("seabed.sock");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(owner_request(dir.path(), "GET", "/api/clients").unwrap().status, 200);
    assert_eq!(owner_request(dir.path(), "GET", "/api/no/such/route").unwrap().status, 404);
    assert_eq!(owner_request(dir.path(), "DELETE", &delete).unwrap().status, 200);
    assert_eq!(server.get_child(&client, NIL).status, 404);
}
