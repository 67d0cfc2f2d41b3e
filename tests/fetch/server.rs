//! A server on loopback that does what servers do when things go wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
    /// How many requests there were for this path before.
    pub earlier: usize,
}

/// What it is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Of the body only so many bytes are sent.
    pub cut: Option<usize>,
    /// Silence before the connection is closed.
    pub silence: Duration,
}

impl Reply {
    pub fn new(status: &'static str, body: &[u8]) -> Self {
        Self { status, headers: Vec::new(), body: body.to_vec(), cut: None, silence: Duration::ZERO }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A file, or the part of it that was asked for, if it is still the one with this tag.
    pub fn file(request: &Request, content: &[u8], tag: &str) -> Self {
        let from = request.range.as_ref().filter(|_| request.if_range.as_deref() == Some(tag));
        let from = from.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let reply = match from {
            Some(from) if from < content.len() => Self::new("206 Partial Content", &content[from..])
                .header("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
            Some(_) => Self::new("416 Range Not Satisfiable", b""),
            None => Self::new("200 OK", content),
        };
        reply.header("ETag", tag)
    }

    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub fn silent(mut self, seconds: u64) -> Self {
        self.silence = Duration::from_secs(seconds);
        self
    }
}

/// A running server; its threads end with the process.
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers every request as `answer` says, each on a thread and a connection of its own.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let log = Arc::clone(&requests);
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // A client that has gone is no concern of the server.
                spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { address, requests }
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no thread panicked").clone()
    }

    /// The ranges that were asked for of the files whose path ends so.
    pub fn ranges(&self, suffix: &str) -> Vec<Option<String>> {
        self.requests().into_iter().filter(|r| r.path.ends_with(suffix)).map(|r| r.range).collect()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, if_range: None, earlier: 0 };
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "if-range" => request.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    {
        let mut log = log.lock().ok()?;
        request.earlier = log.iter().filter(|r| r.path == request.path).count();
        log.push(request.clone());
    }
    let Reply { status, headers, body, cut, silence } = answer(&request);
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())]).ok()?;
    sleep(silence);
    stream.shutdown(Shutdown::Both).ok()
}
