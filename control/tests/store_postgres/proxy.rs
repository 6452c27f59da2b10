//! A way to the server that breaks at the one moment that matters.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_control_core::contract::store::Loss;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

pub struct Proxy {
    config: Config,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    /// What becomes of the next commit.
    next: Mutex<Option<Fate>>,
    /// New connections end at once.
    away: AtomicBool,
    /// Commits that are to be held have not been let go yet.
    holds: AtomicBool,
}

#[derive(Clone, Copy)]
enum Fate {
    Lost(Loss),
    /// Arrives, but late.
    Held,
}

impl Proxy {
    pub fn before(server: &Config) -> Proxy {
        let [Host::Tcp(host)] = server.get_hosts() else { panic!("one TCP host is expected") };
        let to = (host.clone(), server.get_ports().first().copied().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let plan = Arc::new(Plan::default());
        let carried = Arc::clone(&plan);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if carried.away.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&to) else { continue };
                carry(client, server, &carried);
            }
        });
        Proxy { config: through(server, port), plan }
    }

    /// The server's, but through here.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub fn plant(&self, loss: Loss) {
        *self.plan.next.lock().expect("no panic") = Some(Fate::Lost(loss));
    }

    /// The next commit stays here until [`Proxy::let_go`].
    pub fn hold(&self) {
        self.plan.holds.store(true, Ordering::SeqCst);
        *self.plan.next.lock().expect("no panic") = Some(Fate::Held);
    }

    pub fn let_go(&self) {
        self.plan.holds.store(false, Ordering::SeqCst);
    }

    /// New connections end at once.
    pub fn set_away(&self, away: bool) {
        self.plan.away.store(away, Ordering::SeqCst);
    }

    pub fn is_lost(&self) -> bool {
        self.plan.next.lock().expect("no panic").is_none()
    }
}

fn through(server: &Config, port: u16) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port);
    if let Some(user) = server.get_user() {
        config.user(user);
    }
    if let Some(password) = server.get_password() {
        config.password(password);
    }
    if let Some(database) = server.get_dbname() {
        config.dbname(database);
    }
    config
}

fn carry(client: TcpStream, server: TcpStream, plan: &Arc<Plan>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
    }
    let deaf = Arc::new(AtomicBool::new(false));
    let [mut from_client, mut to_client] = [&client, &client].map(|stream| stream.try_clone().expect("a clone"));
    let [mut from_server, mut to_server] = [&server, &server].map(|stream| stream.try_clone().expect("a clone"));
    let (plan, unheard) = (Arc::clone(plan), Arc::clone(&deaf));
    std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(n @ 1..) = from_client.read(&mut bytes) {
            // A simple query stands in its message as it is, with a zero behind it.
            let commits = bytes[..n].windows(7).any(|window| window == b"commit\0");
            match commits.then(|| plan.next.lock().expect("no panic").take()).flatten() {
                Some(Fate::Lost(Loss::Request)) => break,
                Some(Fate::Lost(Loss::Answer)) => deaf.store(true, Ordering::SeqCst),
                Some(Fate::Held) => {
                    while plan.holds.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                None => {}
            }
            if to_server.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        close(&from_client, &to_server);
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(n @ 1..) = from_server.read(&mut bytes) {
            if unheard.load(Ordering::SeqCst) || to_client.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        close(&to_client, &from_server);
    });
}

fn close(one: &TcpStream, other: &TcpStream) {
    for stream in [one, other] {
        // The other direction may have closed it already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
