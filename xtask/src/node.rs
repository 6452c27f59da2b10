//! A real `tidegate dev` process under our control.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

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
    pub fn free() -> anyhow::Result<Addrs> {
        let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let addr = |at: usize| listeners[at].local_addr();
        Ok(Addrs { client: addr(0)?, http: addr(1)?, grpc: addr(2)?, admin: addr(3)? })
    }

    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }
}

/// A running node; killed when dropped.
pub struct Node {
    child: Child,
}

impl Node {
    /// Starts `tidegate dev` and waits until it is ready. Its output goes to `log`.
    pub fn start(binary: &Path, data_dir: &Path, addrs: &Addrs, log: &Path, more: &[&str]) -> anyhow::Result<Node> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(binary)
            .arg("dev")
            .arg("--data-dir")
            .arg(data_dir)
            .args(more)
            .env("TIDEGATE_CLIENT_ADDR", addrs.client.to_string())
            .env("TIDEGATE_HTTP_ADDR", addrs.http.to_string())
            .env("TIDEGATE_GRPC_ADDR", addrs.grpc.to_string())
            .env("TIDEGATE_ADMIN_ADDR", addrs.admin.to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let mut node = Node { child };
        let deadline = Instant::now() + START_TIMEOUT;
        while !ready(addrs.admin) {
            if let Some(status) = node.child.try_wait()? {
                bail!("the node ended at its start: {status}; see {}", log.display());
            }
            if Instant::now() > deadline {
                bail!("the node is not ready after {START_TIMEOUT:?}; see {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(node)
    }

    /// SIGKILL, as `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
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

/// A data folder and log file that are kept when a run fails, so that it can be looked at.
pub struct Workspace {
    pub folder: PathBuf,
}

impl Workspace {
    pub fn new() -> anyhow::Result<Workspace> {
        Ok(Workspace { folder: tempfile::Builder::new().prefix("tidegate-faults-").tempdir()?.keep() })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    pub fn remove(self) {
        // Leaving a folder in the temporary directory behind is no failure of the run.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
