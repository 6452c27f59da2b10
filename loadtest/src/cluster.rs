//! A local cluster, as `cargo xtask cluster up` describes it in its `cluster.json`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::measure::process::Watched;
use crate::publish::Endpoints;
use crate::run::Options;

/// What a load run needs of it; the rest of the file is for others.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    pub gateways: Vec<Gateway>,
    pub controls: Vec<Control>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Gateway {
    pub name: String,
    pub client: SocketAddr,
    pub admin: SocketAddr,
    pub pid: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Control {
    pub name: String,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub pid: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("{0} cannot be read")]
    Io(PathBuf, #[source] std::io::Error),
    #[error("{0} describes no cluster")]
    Json(PathBuf, #[source] serde_json::Error),
    #[error("{0} has no gateway or no control node")]
    Empty(PathBuf),
}

impl Cluster {
    pub fn read(file: &Path) -> Result<Cluster, ClusterError> {
        let text = std::fs::read_to_string(file).map_err(|source| ClusterError::Io(file.to_owned(), source))?;
        let read: Result<Cluster, _> = serde_json::from_str(&text);
        let cluster = read.map_err(|source| ClusterError::Json(file.to_owned(), source))?;
        if cluster.gateways.is_empty() || cluster.controls.is_empty() {
            return Err(ClusterError::Empty(file.to_owned()));
        }
        Ok(cluster)
    }

    pub fn clients(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.client).collect()
    }

    pub fn endpoints(&self) -> Endpoints {
        Endpoints {
            grpc: self.controls.iter().map(|control| format!("http://{}", control.grpc)).collect(),
            api: self.controls.iter().map(|control| format!("http://{}", control.http)).collect(),
            clients: self.clients(),
        }
    }

    /// A run against all of it. Its nodes are called `gateway-n` and `control-n`, as [`Options::watched`] wants them.
    pub fn options(&self, run: String, binary: PathBuf) -> Options {
        let gateways = self.gateways.iter().map(|node| Watched { name: node.name.clone(), pid: node.pid });
        let controls = self.controls.iter().map(|node| Watched { name: node.name.clone(), pid: node.pid });
        let targets: Vec<String> = self.clients().iter().map(|client| format!("ws://{client}")).collect();
        Options {
            target: targets.join(","),
            clients: self.clients(),
            tls: None,
            endpoints: self.endpoints(),
            admins: self.gateways.iter().map(|gateway| gateway.admin).collect(),
            watched: gateways.chain(controls).collect(),
            run,
            binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_local_cluster_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cluster.json");
        let text = r#"{"gateways":[{"name":"gateway-1","client":"127.0.0.1:1","admin":"127.0.0.1:2","pid":7,"started":1}],
            "controls":[{"name":"control-1","http":"127.0.0.1:3","grpc":"127.0.0.1:4","pid":8,"started":1}],
            "kafka":"127.0.0.1:5","postgres":"","etcd":"","binary":"/x"}"#;
        std::fs::write(&file, text).expect("written");
        let options = Cluster::read(&file).expect("a cluster").options("r".to_owned(), PathBuf::new());
        assert_eq!(options.target, "ws://127.0.0.1:1");
        assert_eq!(options.endpoints.grpc, ["http://127.0.0.1:4"]);
        assert_eq!(options.endpoints.api, ["http://127.0.0.1:3"]);
        let watched: Vec<(&str, u32)> = options.watched.iter().map(|one| (one.name.as_str(), one.pid)).collect();
        assert_eq!(watched, [("gateway-1", 7), ("control-1", 8)]);
        std::fs::write(&file, r#"{"gateways":[],"controls":[]}"#).expect("written");
        assert!(matches!(Cluster::read(&file), Err(ClusterError::Empty(_))));
    }
}
