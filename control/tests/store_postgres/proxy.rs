//! A way to the server that breaks at the one moment that matters.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tidegate_control_core::contract::store::Loss;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

pub struct Proxy {
    config: Config,
    planted: Arc<Mutex<Option<Loss>>>,
    away: Arc<AtomicBool>,
}

impl Proxy {
    pub fn before(server: &Config) -> Proxy {
        let [Host::Tcp(host)] = server.get_hosts() else { panic!("one TCP host is expected") };
        let to = (host.clone(), server.get_ports().first().copied().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let planted = Arc::new(Mutex::new(None));
        let away = Arc::new(AtomicBool::new(false));
        let (plan, refuse) = (Arc::clone(&planted), Arc::clone(&away));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if refuse.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&to) else { continue };
                carry(client, server, &plan);
            }
        });
        Proxy { config: through(server, port), planted, away }
    }

    /// The server's, but through here.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub fn plant(&self, loss: Loss) {
        *self.planted.lock().expect("no panic") = Some(loss);
    }

    /// New connections end at once.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn is_lost(&self) -> bool {
        self.planted.lock().expect("no panic").is_none()
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

fn carry(client: TcpStream, server: TcpStream, planted: &Arc<Mutex<Option<Loss>>>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
    }
    let deaf = Arc::new(AtomicBool::new(false));
    let [mut from_client, mut to_client] = [&client, &client].map(|stream| stream.try_clone().expect("a clone"));
    let [mut from_server, mut to_server] = [&server, &server].map(|stream| stream.try_clone().expect("a clone"));
    let (planted, unheard) = (Arc::clone(planted), Arc::clone(&deaf));
    std::thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(n @ 1..) = from_client.read(&mut bytes) {
            // A simple query stands in its message as it is, with a zero behind it.
            let commits = bytes[..n].windows(7).any(|window| window == b"commit\0");
            match commits.then(|| planted.lock().expect("no panic").take()).flatten() {
                Some(Loss::Request) => break,
                Some(Loss::Answer) => deaf.store(true, Ordering::SeqCst),
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
