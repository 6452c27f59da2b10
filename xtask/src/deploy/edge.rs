//! nginx with the files of `deploy/nginx`: each variant is one that it takes, and in front of stub gateways it upgrades, does not
//! buffer, keeps a user with a gateway, hides what is not for clients, and writes no query into any log.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use xtask::servers::install::{self, Program, output};
use xtask::servers::{Farewell, Home, Process};

use super::{copy, free_port, until};

const VARIANTS: [&str; 3] = ["hash-uid", "ip-hash", "sticky"];
const GATEWAYS: usize = 3;
/// In the query of every request; must be in no log.
const SECRET: &str = "S3CRETTOKEN";
const PATIENCE: Duration = Duration::from_secs(10);

pub fn check(home: &Home, source: &Path, scratch: &Path) -> anyhow::Result<()> {
    let nginx = install::program(home, "nginx", &["nginx", "libnginx-mod-stream"])?;
    stream(&nginx, source, scratch)?;
    let gateways = (0..GATEWAYS).map(|_| stub()).collect::<anyhow::Result<Vec<u16>>>()?;
    for variant in VARIANTS {
        let folder = scratch.join(variant);
        let edge = Edge::new(&nginx, source, &folder, variant, &gateways)?;
        edge.test().with_context(|| variant.to_owned())?;
        edge.serve().with_context(|| variant.to_owned())?;
    }
    Ok(())
}

/// The file that passes TLS on; its module is a file of its own in Debian's nginx, and built in elsewhere.
fn stream(nginx: &Program, source: &Path, scratch: &Path) -> anyhow::Result<()> {
    let module =
        nginx.path.parent().and_then(Path::parent).map(|usr| usr.join("lib/nginx/modules/ngx_stream_module.so"));
    let load = module.filter(|module| module.exists()).map(|module| format!("load_module {};\n", module.display()));
    let (config, here) = (scratch.join("stream.conf"), scratch.to_string_lossy());
    let text = fs::read_to_string(source.join("stream.conf"))?;
    fs::write(&config, format!("{}pid {here}/stream.pid;\nevents {{}}\n{text}", load.unwrap_or_default()))?;
    let mut command = nginx.command();
    command.arg("-t").arg("-p").arg(scratch).arg("-e").arg(scratch.join("stream.log")).arg("-c").arg(config);
    output(&mut command).map(drop).context("stream.conf")
}

struct Edge<'a> {
    nginx: &'a Program,
    folder: &'a Path,
    variant: &'a str,
    port: u16,
}

impl<'a> Edge<'a> {
    /// The example, with paths and addresses of this machine.
    fn new(
        nginx: &'a Program,
        source: &Path,
        folder: &'a Path,
        variant: &'a str,
        gateways: &[u16],
    ) -> anyhow::Result<Edge<'a>> {
        copy(source, folder)?;
        let here = folder.to_string_lossy();
        let config = fs::read_to_string(folder.join("nginx.conf"))?;
        let port = free_port()?;
        let mut config = format!("daemon off;\n{config}");
        for (from, to) in [
            ("include upstream-hash-uid.conf;", format!("include upstream-{variant}.conf;")),
            ("/etc/nginx/tls/", format!("{here}/")),
            ("/tmp/nginx", format!("{here}/nginx")),
            ("/dev/stdout", format!("{here}/access.log")),
            ("/dev/stderr", format!("{here}/error.log")),
            ("worker_processes auto", "worker_processes 1".to_owned()),
            ("worker_rlimit_nofile 1048576;", String::new()),
            ("worker_connections 200000", "worker_connections 256".to_owned()),
            ("listen 443 ssl;", format!("listen 127.0.0.1:{port} ssl;")),
        ] {
            ensure!(config.contains(from), "nginx.conf has no {from:?} any more");
            config = config.replace(from, &to);
        }
        fs::write(folder.join("nginx.conf"), config)?;
        let servers: String = gateways.iter().map(|port| format!("server 127.0.0.1:{port};\n")).collect();
        fs::write(folder.join("gateways.conf"), servers)?;
        // Nobody listens there: what nginx says about it must hold no query either.
        fs::write(folder.join("controls.conf"), format!("server 127.0.0.1:{};\n", free_port()?))?;
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x".split(' '));
        output(openssl.arg("-keyout").arg(folder.join("privkey.pem")).arg("-out").arg(folder.join("fullchain.pem")))?;
        Ok(Edge { nginx, folder, variant, port })
    }

    fn command(&self) -> Command {
        let mut command = self.nginx.command();
        command.arg("-p").arg(self.folder).arg("-c").arg(self.folder.join("nginx.conf"));
        command.arg("-e").arg(self.folder.join("error.log"));
        command
    }

    fn test(&self) -> anyhow::Result<()> {
        output(self.command().arg("-t")).map(drop)
    }

    /// Without TLS, so that requests can be written by hand; that the TLS part is well formed has [`Edge::test`] shown.
    fn serve(&self) -> anyhow::Result<()> {
        let file = self.folder.join("nginx.conf");
        fs::write(&file, fs::read_to_string(&file)?.replace(" ssl;", ";"))?;
        let log = self.folder.join("output");
        let process = Process::spawn(&mut self.command(), &log)?;
        let served = until(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?)).and_then(|_| self.ask_all());
        process.stop(Farewell::Terminate)?;
        served?;
        for log in ["access.log", "error.log", "output"] {
            let text = fs::read_to_string(self.folder.join(log)).unwrap_or_default();
            ensure!(!text.contains(SECRET), "{log} holds a token:\n{text}");
        }
        let access = fs::read_to_string(self.folder.join("access.log"))?;
        ensure!(access.contains(r#""path":"/api/v1/ws","status":101"#), "the upgrade is not logged:\n{access}");
        Ok(())
    }

    fn ask_all(&self) -> anyhow::Result<()> {
        let upgraded =
            self.get(&format!("/api/v1/ws?uid=alice&token={SECRET}"), "Upgrade: websocket\r\nConnection: Upgrade")?;
        ensure!(upgraded.starts_with("HTTP/1.1 101 "), "no upgrade: {upgraded}");
        ensure!(upgraded.ends_with("hello"), "what follows the upgrade does not come: {upgraded}");
        // The stub sends one event and waits: it comes only if nothing buffers it.
        let event = self.get(&format!("/api/v1/sse?token={SECRET}"), "Accept: text/event-stream")?;
        ensure!(event.contains("data: 1"), "the event is held back: {event}");
        for (path, status) in [("/api/v1/unread", 502), ("/api/v1/push", 404), ("/metrics", 404), ("/admin/v1/x", 404)]
        {
            let answer = self.get(&format!("{path}?token={SECRET}"), &format!("Referer: https://x/?token={SECRET}"))?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        }
        for bad in
            [format!("NONSENSE?{SECRET}\r\n\r\n"), format!("GET /?{SECRET}{} HTTP/1.1\r\n\r\n", "x".repeat(9_000))]
        {
            self.send(bad.as_bytes())?;
        }
        self.placing()
    }

    /// Who has what the variant goes by comes to the same gateway each time, and others to others.
    fn placing(&self) -> anyhow::Result<()> {
        let place = |user: usize| -> anyhow::Result<String> {
            let cookie = format!("Cookie: tidegate_route=route{user}");
            let answer = self.get(&format!("/api/v1/longpoll?uid=user{user}&token={SECRET}"), &cookie)?;
            let node = answer.lines().find_map(|line| line.strip_prefix("X-Node: "));
            Ok(node.with_context(|| format!("no gateway answered: {answer}"))?.to_owned())
        };
        let mut nodes = BTreeSet::new();
        for user in 0..40 {
            let node = place(user)?;
            ensure!(node == place(user)?, "user {user} was sent to another gateway");
            nodes.insert(node);
        }
        let expected = if self.variant == "ip-hash" { 1 } else { GATEWAYS };
        ensure!(nodes.len() == expected, "users are spread over {} gateways, not {expected}", nodes.len());
        let fresh = self.get(&format!("/api/v1/longpoll?token={SECRET}"), "Accept: */*")?;
        let is_given = fresh.contains("Set-Cookie: tidegate_route=");
        ensure!(is_given == (self.variant == "sticky"), "a cookie for the wrong variant: {fresh}");
        Ok(())
    }

    fn get(&self, path: &str, header: &str) -> anyhow::Result<String> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: chat.example.com\r\n{header}\r\n\r\n").as_bytes())
    }

    /// What has come once the head is whole and something follows it, or the connection has ended.
    fn send(&self, request: &[u8]) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        loop {
            let mut part = [0; 4096];
            let read = stream.read(&mut part).unwrap_or(0);
            answer.extend(&part[..read]);
            let text = String::from_utf8_lossy(&answer);
            if read == 0 || text.split_once("\r\n\r\n").is_some_and(|(_, body)| !body.is_empty()) {
                return Ok(text.into_owned());
            }
        }
    }
}

/// A gateway that only answers; its threads end with us.
fn stub() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, port));
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, port: u16) -> Option<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        request.extend(&part[..read]);
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    let (status, rest) = if request.contains("upgrade: websocket") {
        ("101 Switching Protocols", "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
    } else if request.contains("/sse") {
        ("200 OK", "Content-Type: text/event-stream\r\n\r\ndata: 1\n\n")
    } else {
        ("200 OK", "Content-Length: 2\r\n\r\nok")
    };
    stream.write_all(format!("HTTP/1.1 {status}\r\nX-Node: {port}\r\n{rest}").as_bytes()).ok()?;
    // Held open until the other side has had enough: an end would make nginx send on what it holds back.
    stream.read(&mut [0; 1]).ok().map(drop)
}
