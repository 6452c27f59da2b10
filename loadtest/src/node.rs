//! A real `tidegate` process under our control, for fault runs and behaviour tests.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to serve after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The addresses of one node, kept over its restarts.
#[derive(Clone, Debug)]
pub struct Addrs {
    pub client: SocketAddr,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
}

impl Addrs {
    /// Free loopback ports. Another process could take one before the node does; then its start fails loudly.
    pub fn free() -> io::Result<Addrs> {
        let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let addr = |at: usize| listeners[at].local_addr();
        Ok(Addrs { client: addr(0)?, http: addr(1)?, grpc: addr(2)?, admin: addr(3)? })
    }

    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }
}

/// A running node; killed when dropped.
#[derive(Debug)]
pub struct Node {
    child: Child,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the node could not be run")]
    Io(#[from] io::Error),
    #[error("the node ended at its start with {status}; see {log}")]
    Ended { status: ExitStatus, log: PathBuf },
    #[error("the node is not ready after {START_TIMEOUT:?}; see {log}")]
    NotReady { log: PathBuf },
}

impl Node {
    /// Starts `tidegate dev` and waits until it is ready. Its output goes to `log`.
    pub fn dev(binary: &Path, data_dir: &Path, addrs: &Addrs, log: &Path, more: &[&str]) -> Result<Node, NodeError> {
        let mut command = Command::new(binary);
        command.arg("dev").arg("--data-dir").arg(data_dir).args(more);
        Node::start(command, addrs, &[addrs.admin, addrs.http], log)
    }

    /// Starts a command with these addresses and waits until each of `probes` says that it is ready.
    pub fn start(mut command: Command, addrs: &Addrs, probes: &[SocketAddr], log: &Path) -> Result<Node, NodeError> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        command
            .env("TIDEGATE_CLIENT_ADDR", addrs.client.to_string())
            .env("TIDEGATE_HTTP_ADDR", addrs.http.to_string())
            .env("TIDEGATE_GRPC_ADDR", addrs.grpc.to_string())
            .env("TIDEGATE_ADMIN_ADDR", addrs.admin.to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut node = Node { child: command.spawn()? };
        let deadline = Instant::now() + START_TIMEOUT;
        while !probes.iter().all(|addr| ready(*addr)) {
            if let Some(status) = node.child.try_wait()? {
                return Err(NodeError::Ended { status, log: log.to_owned() });
            }
            if Instant::now() > deadline {
                return Err(NodeError::NotReady { log: log.to_owned() });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(node)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended by itself.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// SIGKILL, as `kill -9`.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it must stay behind.
        let _ = self.kill();
    }
}

fn ready(admin: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = TcpStream::connect_timeout(&admin, Duration::from_secs(1)) else { return false };
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let timed = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = String::new();
    timed.is_ok()
        && stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
