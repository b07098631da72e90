//! The router on a socket: what is no request of the real client, and connections that end badly.

use super::*;

/// Sends bytes as they are and answers what comes back until the server closes.
async fn raw(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn post(rest: &str) -> String {
    format!(
        "POST /v1/client/add-version/{NIL} HTTP/1.1\r\nHost: x\r\nContent-Type: {SEGMENT}\r\nX-Client-Id: {CLIENT}\r\n{rest}"
    )
}

#[tokio::test]
async fn the_wire_is_understood_in_its_old_and_odd_forms() {
    let server = Server::new(Config::default()).await;
    let address = server.listen().await;

    // HTTP/1.0 closes by itself.
    let answer = raw(address, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK") && answer.contains("TaskChampion sync server v"),
        "{answer}"
    );

    // Chunked, then a second request on the same connection.
    let chunked = post("Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3;x=y\r\nefg\r\n0\r\n\r\n");
    let then = format!(
        "GET /v1/client/get-child-version/{NIL} HTTP/1.1\r\nHost: x\r\nX-Client-Id: {CLIENT}\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(address, (chunked + &then).as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.contains("content-length: 0\r\n") && answer.ends_with("\r\n\r\nabcdefg"), "{answer}");

    // A client that waits for a word before it sends.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = post("Expect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut word = [0; 25];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"late").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 409 Conflict"), "{answer}");

    // The same client is refused before it sends, when it should not.
    let head = post("Expect: 100-continue\r\nContent-Length: 104857601\r\nConnection: close\r\n\r\n");
    let answer = raw(address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && !answer.contains("100 Continue"), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_too_much_before_it_listens_hears_why() {
    const PART: u64 = 10_000;
    let server = Server::new(Config { body_bytes_max: 1_000_000, ..Config::default() }).await;
    // Closing over bytes that nobody read takes the answer with it, so it counts how many are read.
    for (sent, read) in [(1_010_000, 1_010_000), (1_990_000, 1_990_000), (5_000_000, 2_000_000)] {
        for declared in [false, true] {
            let (sender, body) = channel_body();
            let taken = Arc::new(AtomicU64::new(0));
            let length = sent.to_string();
            for _ in 0..sent / PART {
                sender.send(Ok(Bytes::from(vec![b'x'; 10_000]))).unwrap();
            }
            drop(sender);
            let counted = taken.clone();
            let body = Body::new(http_body_util::BodyExt::map_frame(body, move |frame| {
                counted.fetch_add(PART, Ordering::Relaxed);
                frame
            }));
            let line = format!("POST /v1/client/add-version/{NIL}");
            let mut headers = vec![("content-type", SEGMENT), ("x-client-id", CLIENT)];
            if declared {
                headers.push(("content-length", &length));
            }
            let answer = server.ask(&line, &headers, body).await;
            answer.is(413, b"the body is larger than the 1000000 bytes allowed");
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(taken.load(Ordering::Relaxed), read, "of {sent}, declared: {declared}");
        }
    }
    // And over a connection, what fits no buffer of the system.
    let server = Server::new(Config { body_bytes_max: 20_000_000, ..Config::default() }).await;
    let address = server.listen().await;
    let mut request = post("Content-Length: 39000000\r\nConnection: close\r\n\r\n").into_bytes();
    request.resize(request.len() + 39_000_000, b'x');
    let answer = raw(address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("20000000 bytes"), "{answer}");
}

#[tokio::test]
async fn silent_and_broken_connections_are_ended_and_harm_nobody() {
    let server = Server::new(Config { silence_ms_max: 300, ..Config::default() }).await;
    let (address, end, served) = server.listen_until().await;
    let before = rows(&server.store);
    // More than is gathered before it is stored.
    let mut head = post("Content-Length: 400000\r\n\r\n").into_bytes();
    head.resize(head.len() + 300_000, b'x');
    // Half a body and away.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&head).await.unwrap();
        drop(stream);
    }
    // Half a body and silence, a hundred times.
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&head).await.unwrap();
        silent.push(stream);
    }
    let answer = raw(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for mut stream in silent {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout"), "{answer}");
    }
    end.send(()).unwrap();
    served.await.unwrap();
    server.store.tenant("taskchampion-00").unwrap().flush().await.unwrap();
    let given_up =
        rows(&server.store).into_keys().filter(|(category, _)| category == "taskchampion.pending").count();
    assert_eq!(given_up, 120, "each of them had stored something");
    assert_eq!(server.taskchampion.maintain(START_S * 1_000).await.unwrap(), 120);
    assert_eq!(rows(&server.store), before);
}
